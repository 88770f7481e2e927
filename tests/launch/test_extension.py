"""`--extend`: a finished run goes on, is killed, goes on, and is extended again."""

import dataclasses
import json
import shutil

import pytest

from launch.run import extension
from launch.run.settings import TrainingSettings
from tests.helpers import programs
from tf_lars.errors import InputError
from tf_lars.sealed_json import seal


@pytest.mark.exhaustive
def test_an_extended_run_that_is_killed_ends_as_one_that_is_not(finished, short_run, tmp_path):
    for name in "ab":
        shutil.copytree(finished[0], tmp_path / name)
    flags = [*short_run, "--epochs=10", "--learning_rate=5", "--extend"]
    undisturbed = programs.run("launch.local", *flags, f"--model_dir={tmp_path / 'a'}")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert (
        "extension   of a run of 6 epochs, by 4: warm-up and decay begin anew at step 17"
        in undisturbed.stdout
    )
    assert "epoch 7/10  step 20/29" in undisturbed.stdout

    code, printed, errors = programs.run_killing_worker_1(
        *flags, model_dir=tmp_path / "b", at="epoch 8/10"
    )
    assert code == 0, errors
    assert "restart 1 of at most 3" in errors
    assert "step 17 of 29" in printed
    first, second = (json.loads((tmp_path / n / "results.json").read_text()) for n in "ab")
    for name in ("weights_sha256", "replica_weights_sha256", "loss", "top1", "steps"):
        assert first[name] == second[name], name
    assert (first["epochs"], first["steps"], first["extended_from_epochs"]) == (10, 29, [6])
    before = json.loads((finished[0] / "results.json").read_text())
    assert first["weights_sha256"] != before["weights_sha256"]

    same_command = programs.run("launch.local", *flags, f"--model_dir={tmp_path / 'a'}")
    assert "nothing is left to train" in same_command.stdout
    more = [*flags, "--epochs=12", "--warmup_epochs=0", f"--model_dir={tmp_path / 'a'}"]
    again = programs.run("launch.local", *more)
    assert again.returncode == 0, again.stderr
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert (results["epochs"], results["extended_from_epochs"]) == (12, [6, 10])
    rates = {entry["epoch"]: entry["learning_rate"] for entry in _history(tmp_path / "a")}
    # An entry has the rate of the step after it. Steps 17 to 29 were added, then those up to 34.
    assert rates[10] == pytest.approx(1e-4, rel=0.01)
    assert rates[11] == pytest.approx(1e-4 + (5 - 1e-4) * (3 / 5) ** 2, rel=1e-4)


def _history(model_dir):
    newest = max((model_dir / "checkpoints").glob("step-*"))
    return json.loads((newest / "state.json").read_text())["history"]


SETTINGS = TrainingSettings(model="resnet50", data_dir="data", epochs=20, extend=True)
ENTRY = {"epoch": 10, "step": 100, "skipped_steps": 3}


def _planned(folder, saved, *, step=100, history=(ENTRY,), **changes):
    """Returns the extension that a command would be, of a run whose state is made up."""
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "settings": saved, "history": list(history), "sha256": {"a": ""}}
    (checkpoint / "state.json").write_text(json.dumps(seal(state)))
    return extension.planned(dataclasses.replace(SETTINGS, model_dir=str(folder), **changes))


def test_an_extension_begins_at_the_end_of_the_run_and_goes_on_from_there(tmp_path):
    begun = _planned(tmp_path, {"epochs": 10})
    assert (begun.ends, begun.first_step, begun.first_iteration) == ((10,), 100, 97)
    assert begun.added_steps(200) == 100
    # In the midst of it, and when it is done.
    saved = {"epochs": 20, "extended_from_epochs": [10]}
    for epoch in (15, 20):
        entries = [ENTRY, {"epoch": epoch, "step": 10 * epoch, "skipped_steps": 5}]
        assert _planned(tmp_path, saved, step=10 * epoch, history=entries) == begun
    # Once more.
    again = _planned(tmp_path, saved, step=200, history=entries, epochs=30)
    assert (again.ends, again.first_step, again.first_iteration) == ((10, 20), 200, 195)
    assert _planned(tmp_path, saved, step=200, extend=False) is None


@pytest.mark.parametrize(
    ("saved", "more", "message"),
    [
        ({"epochs": 20}, {}, "--epochs must be above 20, the epochs of the run"),
        ({"epochs": 30}, {}, "--epochs must be above 30"),
        ({"epochs": 12}, {}, "10 of 12 epochs are done. Finish it first"),
        ({"epochs": 10}, {"step": 105}, "10 of 10 epochs are done"),
        ({"epochs": 10}, {"history": ()}, "0 of 10 epochs are done"),
        ({"epochs": 10}, {"epochs": 12}, "--warmup_epochs must be at most 2, the epochs that are"),
        (
            {"epochs": 20, "extended_from_epochs": [10]},
            {"epochs": 15},
            "--epochs must be above 20, the epochs of the run",
        ),
    ],
)
def test_a_run_that_cannot_be_extended_is_refused(saved, more, message, tmp_path):
    with pytest.raises(InputError, match=message):
        _planned(tmp_path, saved, **more)


def test_only_the_schedule_and_the_epochs_may_change(tmp_path):
    begun = _planned(tmp_path, {"epochs": 10})
    identity = SETTINGS.values_where("identifies_run") | {"extended_from_epochs": [10]}
    saved = identity | {"epochs": 10, "learning_rate": 3.0, "schedule": "cosine"}
    del saved["extended_from_epochs"]

    @dataclasses.dataclass
    class Saved:
        settings: dict
        step: int = 100

    assert begun.begins_at(Saved(saved), identity)
    assert not begun.begins_at(Saved(saved, step=90), identity)
    for name, value in (("momentum", 0.5), ("seed", 1), ("global_batch_size", 8), ("epochs", 9)):
        assert not begun.begins_at(Saved(saved | {name: value}), identity), name


def test_an_extension_needs_a_run_and_does_not_start_afresh(tmp_path):
    with pytest.raises(InputError, match="--extend needs a finished run"):
        extension.planned(dataclasses.replace(SETTINGS, model_dir=str(tmp_path)))
    (tmp_path / "checkpoints" / "step-00000100").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000100" / "state.json").write_text("[]")
    with pytest.raises(InputError, match="no complete checkpoint"):
        extension.planned(dataclasses.replace(SETTINGS, model_dir=str(tmp_path)))
    with pytest.raises(InputError, match="--extend with --resume=never"):
        TrainingSettings(extend=True, resume="never")


def test_more_epochs_without_the_flag_are_refused_and_a_dry_run_shows_the_extension(
    finished, short_run
):
    more = [*short_run, "--epochs=10", f"--model_dir={finished[0]}"]
    refused = programs.run("launch.local", *more, "--num_workers=1")
    assert refused.returncode == 2
    assert "with epochs=6 (now 10)" in refused.stderr
    assert "--extend to train a finished run on" in refused.stderr
    shown = programs.run("launch.local", *more, "--extend", "--dry_run", "--dry_run_output=")
    assert shown.returncode == 0, shown.stderr
    assert "extension   of a run of 6 epochs, by 4" in shown.stdout
    assert "       17     6.06           0  first step" in shown.stdout
    assert "the run continues from step-00000017 if it is complete" in shown.stdout
