"""Result logs of MLPerf Training, read by MLPerf's own checkers."""

import dataclasses
import time

import pytest

from launch.run import mlperf
from tests.helpers.mlperf_logs import check, checker, lines, metadata, values
from tf_lars.tracking.mlperf_log import MLPerfLog
from tf_lars.tracking.mlperf_rules import MLPerfRun

pytest.importorskip("mlperf_logging", reason="needs mlperf-logging (extra `mlperf`)")

RUN = MLPerfRun(
    division="closed",
    organization="reference",
    platform="2 x CPU",
    status="research",
    model="resnet50",
    data="imagenet",
    seed=3,
    train_samples=1_281_167,
    eval_samples=50_000,
    global_batch_size=1024,
    normalized_examples=512,
    optimizer="lars",
    learning_rate=7.4,
    warmup_epochs=2.0,
    schedule="polynomial",
    end_learning_rate=1e-4,
    decay_power=2.0,
    decay_steps=41_000,
    momentum=0.9,
    weight_decay=5e-5,
    epsilon=0.0,
    label_smoothing=0.1,
    epochs=36,
    epochs_between_evaluations=4,
)
SGD = dataclasses.replace(RUN, optimizer="sgd", learning_rate=0.4)


def drive(log, accuracies=(0.5, 0.77, 0.78), interval=4):
    """Calls the callback as `Trainer` does, for one evaluation per accuracy."""
    run = log._run
    log.on_train_begin()
    epoch = 0
    for accuracy in accuracies:
        for _ in range(interval):
            log.on_epoch_begin(epoch)
            epoch += 1
            log.on_train_batch_end(-(-epoch * run.train_samples // run.global_batch_size) - 1)
            if epoch % interval == 0:
                log.on_test_begin()
                log.on_test_end({"top1": accuracy, "loss": 1.0})
            log.on_epoch_end(epoch - 1)
    log.on_train_end()


def write(path, run=RUN, accuracies=(0.5, 0.77, 0.78), **arguments):
    drive(MLPerfLog(str(path), run, init_start=time.time() - 5, **arguments), accuracies)
    return lines(path)


def test_a_log_of_lars_describes_the_run(tmp_path):
    found = write(tmp_path / "result_0.txt", micro_batches=lambda: 4)
    described = {
        "submission_benchmark": "resnet",
        "submission_division": "closed",
        "submission_org": "reference",
        "submission_platform": "2 x CPU",
        "submission_status": "research",
        "seed": 3,
        "train_samples": 1_281_167,
        "eval_samples": 50_000,
        "global_batch_size": 1024,
        "gradient_accumulation_steps": 4,
        "model_bn_span": 128,
        "opt_name": "lars",
        "lars_opt_base_learning_rate": 7.4,
        "lars_opt_end_learning_rate": 1e-4,
        "lars_opt_learning_rate_decay_poly_power": 2,
        "lars_opt_learning_rate_decay_steps": 41_000,
        "lars_opt_learning_rate_warmup_epochs": 2,
        "lars_opt_momentum": 0.9,
        "lars_opt_weight_decay": 5e-5,
        "lars_epsilon": 0,
        "cache_clear": False,
    }
    assert values(found).items() >= described.items()
    keys = [line["key"] for line in found]
    assert all(keys.count(key) == 1 for key in (*described, "init_stop", "run_start", "run_stop"))
    assert metadata(found, "submission_benchmark") == [{"model": "resnet50", "data": "imagenet"}]


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
def test_a_log_of_sgd_has_the_keys_of_sgd(optimizer, tmp_path):
    found = values(write(tmp_path / "log", dataclasses.replace(SGD, optimizer=optimizer)))
    assert found["opt_name"] == "sgd"
    assert found["sgd_opt_base_learning_rate"] == 0.4
    assert found["sgd_opt_momentum"] == 0.9
    assert found["sgd_opt_weight_decay"] == 5e-5
    assert found["sgd_opt_learning_rate_decay_steps"] == 41_000
    assert found["opt_learning_rate_warmup_epochs"] == 2
    assert not [key for key in found if key.startswith("lars_")]


def test_the_keys_of_a_polynomial_are_absent_from_the_log_of_another_decay(tmp_path):
    found = values(write(tmp_path / "log", dataclasses.replace(RUN, schedule="cosine")))
    assert found["opt_learning_rate_decay_schedule"] == "cosine"
    assert not [key for key in found if "poly" in key or "end_learning" in key or "steps" in key][
        1:
    ]


def test_times_rise_and_the_log_ends_where_the_target_is_reached(tmp_path, capsys):
    found = write(tmp_path / "log")
    times = [line["time_ms"] for line in found]
    assert times == sorted(times)
    assert times[-1] - times[0] >= 5000  # init_start is that of the process
    assert found[0]["key"] == "init_start"
    assert (found[-1]["key"], found[-1]["metadata"]["status"]) == ("run_stop", "success")
    blocks = [{"first_epoch_num": 1, "epoch_count": 4}, {"first_epoch_num": 5, "epoch_count": 4}]
    assert metadata(found, "block_start") == blocks
    assert metadata(found, "block_stop") == [{"first_epoch_num": 1}, {"first_epoch_num": 5}]
    assert metadata(found, "epoch_start") == [{"epoch_num": number} for number in range(1, 9)]
    assert metadata(found, "epoch_stop") == metadata(found, "epoch_start")
    for key in ("eval_start", "eval_accuracy", "eval_stop"):
        assert metadata(found, key) == [{"epoch_num": 4}, {"epoch_num": 8}]
    assert [line["value"] for line in found if line["key"] == "eval_accuracy"] == [0.5, 0.77]
    assert "success, accuracy 0.7700 after epoch 8" in capsys.readouterr().out


def test_a_log_that_does_not_reach_the_target_is_aborted(tmp_path):
    found = write(tmp_path / "log", accuracies=(0.5, 0.7589))
    assert metadata(found, "run_stop") == [
        {"status": "aborted", "reason": "the accuracy has not reached 0.759"}
    ]


def test_an_evaluation_within_an_epoch_has_a_fraction_of_it(tmp_path):
    run = dataclasses.replace(RUN, train_samples=1000, global_batch_size=100)
    log = MLPerfLog(str(tmp_path / "log"), run, init_start=time.time())
    log.on_train_begin()
    log.on_epoch_begin(0)
    log.on_train_batch_end(9)
    log.on_epoch_end(0)
    log.on_epoch_begin(1)
    log.on_train_batch_end(14)
    log.on_test_begin()
    log.on_test_end({"top1": 0.1})
    assert metadata(lines(tmp_path / "log"), "eval_accuracy") == [{"epoch_num": 1.5}]


def test_epochs_shorter_than_a_batch_are_counted(tmp_path):
    run = dataclasses.replace(
        RUN, train_samples=100, global_batch_size=250, epochs=10, epochs_between_evaluations=1
    )
    log = MLPerfLog(str(tmp_path / "log"), run, init_start=time.time())
    log.on_train_begin()
    for step, epoch in enumerate((2, 5)):
        log.on_epoch_begin(epoch - 1)
        log.on_train_batch_end(step)
        log.on_test_begin()
        log.on_test_end({"top1": 0.1})
        log.on_epoch_end(epoch - 1)
    assert metadata(lines(tmp_path / "log"), "block_start") == [
        {"first_epoch_num": 1, "epoch_count": 2},
        {"first_epoch_num": 3, "epoch_count": 3},
    ]


def test_an_error_aborts_the_log_and_nothing_follows(tmp_path):
    log = MLPerfLog(str(tmp_path / "log"), RUN, init_start=time.time())
    log.on_train_begin()
    with pytest.raises(ZeroDivisionError), mlperf.aborted_by_errors(log):
        raise ZeroDivisionError
    log.on_train_end()
    stops = metadata(lines(tmp_path / "log"), "run_stop")
    assert stops == [{"status": "aborted", "reason": "ZeroDivisionError"}]


def test_a_resumed_run_leaves_the_log_as_it_is(tmp_path, capsys):
    path = tmp_path / "log"
    path.write_text("the beginning\n")
    drive(MLPerfLog(str(path), RUN, init_start=time.time(), is_resumed=lambda: True))
    assert path.read_text() == "the beginning\n"
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    printed = capsys.readouterr().out
    assert "MLPerf's rules do not cover resumed runs" in printed
    assert "success" not in printed


def test_a_fresh_run_keeps_the_log_of_another_beside_its_own(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text("another run\n")
    write(path)
    write(path)
    others = sorted(file.name for file in tmp_path.iterdir() if file != path)
    assert [name.startswith("result_0.txt-") for name in others] == [True, True]
    assert "another run\n" in [(tmp_path / name).read_text() for name in others]
    assert len(metadata(lines(path), "run_start")) == 1


def test_a_full_disk_is_one_warning(capsys):
    drive(MLPerfLog("/dev/full", RUN, init_start=time.time()))
    printed = capsys.readouterr().out
    assert printed.count("cannot be written") == 1
    assert "MLPerf log /dev/full: incomplete" in printed


def test_nothing_but_one_line_goes_to_standard_output(tmp_path, capfd):
    write(tmp_path / "log")
    out, err = capfd.readouterr()
    assert out.startswith("MLPerf log ")
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.parametrize("run", [RUN, SGD], ids=["lars", "sgd"])
@pytest.mark.parametrize("division", ["closed", "open"])
def test_the_compliance_checker_accepts_a_log(run, division, tmp_path):
    assert not run.violations()
    write(tmp_path / "result_0.txt", dataclasses.replace(run, division=division))
    code, said = check("result_0.txt", tmp_path)
    assert (code, "INFO - SUCCESS" in said) == (0, True), said


REFUSED = [
    ("lars", {"weight_decay": 5e-4}, "--weight_decay must be 0.0001 times a power of two"),
    ("lars", {"weight_decay": 0.0}, "--weight_decay must be"),
    ("lars", {"decay_power": 1.0}, "--decay_power must be 2 (now 1.0)"),
    ("lars", {"end_learning_rate": 0.0}, "--end_learning_rate must be 0.0001"),
    ("lars", {"epsilon": 1e-7}, "the epsilon of LARS must be 0"),
    ("lars", {"schedule": "cosine"}, "--schedule must be polynomial (now cosine)"),
    ("sgd", {"learning_rate": 0.0155}, "--learning_rate of SGD must be a multiple of 0.001"),
]


@pytest.mark.parametrize(("optimizer", "change", "rule"), REFUSED)
def test_what_the_closed_division_refuses_is_told_at_the_start(optimizer, change, rule, tmp_path):
    run = dataclasses.replace({"lars": RUN, "sgd": SGD}[optimizer], **change)
    told = mlperf.warning(run)
    assert rule in told
    assert told.count(";") == 0  # nothing else
    assert "--mlperf_division=open" in told
    write(tmp_path / "log", run)
    assert check("log", tmp_path)[0] == 1
    free = dataclasses.replace(run, division="open")
    assert mlperf.warning(free) == ""
    write(tmp_path / "open", free)
    assert check("open", tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"momentum": 0.95}, "--momentum must be 0.9"),
        ({"label_smoothing": 0.2}, "--label_smoothing must be 0 or 0.1"),
        ({"epochs_between_evaluations": 5}, "--epochs_between_evaluations must be at most 4"),
        ({"model": "resnet18"}, "--model must be resnet50 (now resnet18)"),
        ({"train_samples": 1437, "data": "digits"}, "the data must be ImageNet (now digits)"),
        ({"optimizer": "nesterov", "learning_rate": 1.0}, "--optimizer must be lars or sgd"),
    ],
)
def test_rules_that_the_checker_leaves_to_people_are_told_as_well(change, rule):
    assert rule in mlperf.warning(dataclasses.replace(RUN, **change))


def test_lars_may_have_another_momentum_at_large_batches():
    large = dataclasses.replace(RUN, global_batch_size=32_768, momentum=0.94)
    assert not large.violations()


def test_five_logs_are_read_by_the_checker_of_reference_points(tmp_path):
    for seed in range(5):
        write(tmp_path / f"result_{seed}.txt", dataclasses.replace(RUN, seed=seed))
    usage = ("--rcp_usage", "training", "--rcp_version", "4.0.0")
    code, said = checker("rcp_checker", *usage, tmp_path, at=tmp_path)
    assert code == 1
    assert "Missing RCP, please submit RCP with BS = 1024" in said
    assert "Submission mean epochs: 8.0000" in said
    assert "Traceback" not in said

    for seed in range(5):
        aborted = dataclasses.replace(RUN, seed=seed)
        write(tmp_path / f"result_{seed}.txt", aborted, accuracies=(0.5, 0.6))
    code, said = checker("rcp_checker", *usage, tmp_path, at=tmp_path)
    assert code == 1
    assert "Insufficient convergence" in said
