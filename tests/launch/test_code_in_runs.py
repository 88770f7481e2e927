"""Code that the folder of a run names: run only if it is this program's, or trusted explicitly."""

import os
import shutil

import pytest

from launch.run import load
from tests.helpers import programs, run_folders
from tf_lars.errors import InputError

REFUSED = "A model that is code must be that of this program or be named by you"
CODE = """
import os, models
open({marker!r}, "a").close()
def build(num_classes, image_size):
    return models.create("{model}", num_classes=num_classes, image_size=image_size)
"""


def _run_with(folder, model):
    run_folders.write(folder, of_settings=run_folders.settings(folder, model=model))
    return str(folder)


@pytest.fixture
def code(tmp_path):
    """A file with a model, in the place of `{}` of its name."""
    path = tmp_path / "net.py"
    path.write_text(CODE.format(marker=str(tmp_path / "executed"), model="small_resnet8"))
    return path


@pytest.mark.parametrize("program", ["evaluate", "export", "critical_batch"])
def test_a_program_that_reads_a_run_does_not_run_code_that_the_run_names(program, code, tmp_path):
    run = _run_with(tmp_path / "run", f"{code}:build")
    more = [f"--output={tmp_path / 'out'}"] if program == "export" else []
    done = programs.run(f"launch.{program}", f"--model_dir={run}", *more)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {REFUSED}")
    assert f"--model={code}:build in '{run}/flags.txt'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "executed").exists()


def test_code_of_this_program_and_named_models_need_no_trust(tmp_path):
    own = ("models.study_networks:small_network", "examples.fit_with_lars:build", "resnet50")
    own += (f"{programs.ROOT}/models/resnet.py:imagenet_resnet",)
    for number, model in enumerate(own):
        assert load.settings_of_run(_run_with(tmp_path / str(number), model)).model == model


def test_whoever_names_the_model_or_trusts_the_run_gets_it(code, tmp_path):
    run = _run_with(tmp_path / "run", f"{code}:build")
    assert load.settings_of_run(run, trust_model_file=True).model == f"{code}:build"
    assert load.settings_of_run(run, model="resnet18").model == "resnet18"
    assert load.settings_of_run(run, model=f"{code}:other").model == f"{code}:other"


def test_code_beside_the_program_is_not_the_programs(code, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    for folder in ("runs/one", ".venv", "models/runs/two", "modelsmore"):
        (checkout / folder).mkdir(parents=True)
        shutil.copy(code, checkout / folder)
    (checkout / "models" / "link.py").symlink_to(code)
    monkeypatch.setattr(load, "PROGRAM", str(checkout))
    shutil.copy(code, checkout / "models")
    load.settings_of_run(_run_with(tmp_path / "run", f"{checkout}/models/net.py:build"))
    outside = ("runs/one/net.py", ".venv/net.py", "modelsmore/net.py", "models/link.py")
    outside += ("models/../runs/one/net.py",)
    for file in outside:
        with pytest.raises(InputError, match=REFUSED):
            load.settings_of_run(_run_with(tmp_path / "run", f"{checkout}/{file}:build"))
    # A run within a folder of code brings its own.
    run = _run_with(checkout / "models/runs/two", f"{checkout}/models/runs/two/net.py:build")
    with pytest.raises(InputError, match=REFUSED):
        load.settings_of_run(run)


def test_modules_from_elsewhere_are_not_the_programs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "elsewhere_net.py").write_text("def build(**_): pass")
    (tmp_path / "elsewhere_package").mkdir()
    names = ["elsewhere_net:build", "elsewhere_package.net:build", "os:system", "sys:exit"]
    for model in [*names, "json.decoder:JSONDecoder"]:
        with pytest.raises(InputError, match=REFUSED):
            load.settings_of_run(_run_with(tmp_path / "run", model))


@pytest.mark.slow
def test_a_run_with_code_is_evaluated_and_exported_once_it_is_trusted(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    flags = (run / "flags.txt").read_text().splitlines()
    model = next(line for line in flags if line.startswith("--model="))
    code = tmp_path / "net.py"
    code.write_text(
        CODE.format(marker=str(tmp_path / "executed"), model=model.removeprefix("--model="))
    )
    named = f"--model={code}:build"
    (run / "flags.txt").write_text("\n".join(named if f == model else f for f in flags) + "\n")
    trusted = programs.run(
        "launch.evaluate", f"--model_dir={run}", "--trust_model_file", "--num_workers=2"
    )
    assert trusted.returncode == 0, trusted.stderr
    assert "top1" in trusted.stdout
    os.remove(tmp_path / "executed")
    out = tmp_path / "model.keras"
    exported = programs.run("launch.export", f"--model_dir={run}", named, f"--output={out}")
    assert exported.returncode == 0, exported.stderr
    assert out.is_file()
    assert (tmp_path / "executed").exists()
