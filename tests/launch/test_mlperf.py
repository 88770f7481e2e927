"""`--mlperf_log`: its checks before the start, and the logs of real runs."""

import importlib.util
from types import SimpleNamespace

import pytest

from launch.run import build_input, build_model, mlperf, preflight
from launch.run.settings import TrainingSettings
from tests.helpers import mlperf_logs, programs
from tf_lars.errors import InputError

pytest.importorskip("mlperf_logging", reason="needs mlperf-logging (extra `mlperf`)")


def _settings(tmp_path, **changes):
    arguments = {"data": "synthetic", "model": "small_resnet8", "image_size": 8}
    return TrainingSettings(model_dir=str(tmp_path / "run"), **arguments, **changes)


def test_a_missing_package_is_refused_before_the_start(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    absent = {"mlperf_logging"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in absent else find(name)
    )
    preflight.check(_settings(tmp_path), 1)
    with pytest.raises(InputError, match=r"--mlperf_log needs mlperf-logging\. Received: .*mlperf"):
        preflight.check(_settings(tmp_path, mlperf_log=str(tmp_path / "log")), 1)


@pytest.mark.parametrize("make_folders", [True, False])
def test_a_log_that_cannot_be_written_is_refused_before_the_start(make_folders, tmp_path):
    (tmp_path / "file").touch()
    below_a_file = _settings(tmp_path, mlperf_log=str(tmp_path / "file" / "result_0.txt"))
    rule = "--mlperf_log must be a file in a folder that can be written to"
    with pytest.raises(InputError, match=rule):
        preflight.check(below_a_file, 1, make_folders=make_folders)
    folder = _settings(tmp_path, mlperf_log=str(tmp_path))
    with pytest.raises(InputError, match="which is a folder"):
        preflight.check(folder, 1, make_folders=make_folders)


def test_a_batch_that_changes_is_refused_before_the_start(tmp_path):
    ramp = _settings(tmp_path, mlperf_log=str(tmp_path / "log"), batch_size_schedule="0:8,2:16")
    with pytest.raises(InputError, match=r"one global_batch_size\. Received: .*=0:8,2:16\. Leave"):
        preflight.check(ramp, 1)


def test_a_name_in_the_log_must_not_be_empty(tmp_path):
    settings = _settings(tmp_path, mlperf_log=str(tmp_path / "log"), mlperf_organization="")
    with pytest.raises(InputError, match="--mlperf_organization must be a name"):
        preflight.check(settings, 1)


@pytest.mark.parametrize(
    ("changes", "micro_batch_size", "span"),
    [
        ({}, None, 128),
        ({}, 32, 32),
        ({"sync_batch_norm": True}, None, 256),
        ({"batch_norm_group_size": 16}, 32, 16),
        ({"batch_norm_group_size": 256}, None, 256),
    ],
)
def test_the_settings_of_a_run_become_what_the_log_says(changes, micro_batch_size, span, tmp_path):
    settings = _settings(tmp_path, mlperf_log=str(tmp_path / "log"), optimizer="lars", **changes)
    info = build_input.description(settings)
    examples = info.splits["train"].num_examples
    model = build_model.create(settings, num_classes=10, steps=100, num_examples=examples)
    strategy = SimpleNamespace(num_replicas_in_sync=2)
    trainer = SimpleNamespace(model=model, strategy=strategy, micro_batch_size=micro_batch_size)
    store = SimpleNamespace(resumed_from=None)
    log = mlperf.create(settings, info, trainer, store, steps=100, init_start=0.0)
    log.on_train_begin()
    found = mlperf_logs.values(mlperf_logs.lines(tmp_path / "log"))
    warmup = build_model.schedule_arguments(settings, 100, examples)["warmup_steps"]
    expected = {
        "model_bn_span": span,
        "gradient_accumulation_steps": 128 // (micro_batch_size or 128),
        "lars_opt_learning_rate_decay_steps": 100 - warmup,
        "lars_opt_weight_decay": 5e-5,
        "lars_epsilon": 0.0,
        "submission_platform": "2 x CPU",
        "train_samples": examples,
    }
    assert found.items() >= expected.items()


@pytest.mark.slow
def test_two_workers_write_one_log_that_the_checker_accepts(digits_dir, tmp_path):
    log = tmp_path / "logs" / "result_0.txt"
    flags = ["--flagfile=launch/recipes/digits.flags", f"--data_dir={digits_dir}"]
    flags += ["--weight_decay=4e-4", f"--mlperf_log={log}", f"--model_dir={tmp_path / 'run'}"]
    done = programs.run("launch.local", *flags)
    assert done.returncode == 0, done.stderr
    assert mlperf_logs.TOKEN not in done.stdout
    assert f"MLPerf log {log}: success" in done.stdout
    assert "the data must be ImageNet (now digits)" in done.stdout
    found = mlperf_logs.lines(log)
    assert mlperf_logs.metadata(found, "run_stop") == [{"status": "success"}]
    assert mlperf_logs.values(found)["model_bn_span"] == 256
    code, said = mlperf_logs.check(log, tmp_path)
    assert (code, "INFO - SUCCESS" in said) == (0, True), said

    before = log.read_bytes()
    again = programs.run("launch.local", *flags)
    assert again.returncode == 0, again.stderr
    assert "MLPerf's rules do not cover resumed runs" in again.stdout
    assert log.read_bytes() == before


@pytest.mark.slow
def test_a_run_that_diverges_leaves_an_aborted_log(short_run, tmp_path):
    log = tmp_path / "result_0.txt"
    flags = ["--optimizer=sgd", "--learning_rate=1e6", "--warmup_epochs=0", "--num_workers=1"]
    done = programs.run(
        "launch.local", *short_run, *flags, f"--mlperf_log={log}", f"--model_dir={tmp_path / 'run'}"
    )
    assert done.returncode == 2, done.stderr
    stops = mlperf_logs.metadata(mlperf_logs.lines(log), "run_stop")
    assert stops == [{"status": "aborted", "reason": "DivergedError"}]
    assert mlperf_logs.check(log, tmp_path)[0] == 1
