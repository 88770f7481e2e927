"""`python -m launch.gpu_cluster` on network namespaces as hosts, and with bad input."""

import json
import os
import signal
import subprocess

import pytest

from tests.helpers import network_hosts, programs
from tests.helpers.cluster_job import ClusterJob, flags_for_digits
from tf_lars.cluster import supervisor

EPOCHS = 10


def _flags(digits_dir, workers, *more):
    return flags_for_digits(digits_dir, workers, f"--epochs={EPOCHS}", "--steps_per_loop=1", *more)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_host_that_loses_its_network_is_named_and_the_run_goes_on_when_it_is_back(
    digits_dir, tmp_path
):
    flags = _flags(digits_dir, 3, "--startup_timeout=300")
    with network_hosts.connected(3) as hosts:
        undisturbed = ClusterJob(hosts, flags, tmp_path / "undisturbed").start()
        assert undisturbed.exit_codes() == [0, 0, 0], undisturbed.tail()

        job = ClusterJob(hosts, flags, tmp_path / "cut").start()
        try:
            job.wait_for("epoch 3/")
            seen = len(job.lines)
            hosts.cut(2)
            job.wait_for("no heartbeat from worker 2 (host2:2222) for 20 s", since=seen)
            job.wait_for("restart 1 of at most 3", since=seen)
            hosts.restore(2)
            job.wait_for("resuming from", since=seen)
            assert job.exit_codes() == [0, 0, 0], job.tail()
            assert not job.left()
        finally:
            job.end()
    assert len({entry[1] for entry in job.lines if "restart 1 of" in entry[2]}) == 3
    for name in ("weights_sha256", "top1", "loss", "steps", "num_workers"):
        assert job.results()[name] == undisturbed.results()[name], name
    assert job.results()["num_hosts"] == 3


def _start(flags, model_dir, *more, environment=None):
    return subprocess.Popen(
        programs.command("launch.gpu_cluster", *flags, f"--model_dir={model_dir}", *more),
        cwd=programs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def _refused(*launchers):
    """Checks that launchers end with exit code 2 and one sentence; returns their output."""
    printed = [one.communicate(timeout=programs.SECONDS)[0] for one in launchers]
    for one, text in zip(launchers, printed, strict=True):
        assert one.returncode == 2, text
        assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1, text
        assert "Traceback" not in text
    return printed


@pytest.mark.parametrize(
    ("more", "environment", "message"),
    [
        (["--task_index=0"], {}, "--task_index is an index into --worker_hosts"),
        ([], {}, "must be described by --worker_hosts, --coordinator or"),
        (["--worker_hosts=a:1,b"], {}, "address of the form host:port. Received: 'b'"),
        (["--worker_hosts=a:1,b:1", "--task_index=2"], {}, "rank must be from 0 to 1"),
        (["--worker_hosts=a:1,a:1", "--task_index=0"], {}, "a:1 more than once"),
        (
            ["--worker_hosts=198.51.100.1:1,198.51.100.2:1"],
            {},
            "one of --worker_hosts must be this machine",
        ),
        (["--worker_hosts=a:1", "--task_index=0"], {}, "Received: 2, and 1 from --worker_hosts"),
        (
            ["--worker_hosts=a:1,b:1", "--task_index=0", "--global_batch_size=255"],
            {},
            "global_batch_size=255 on 2 replicas",
        ),
        (["--worker_hosts=a:1,b:1", "--task_index=0", "--startup_timeout=0"], {}, "above 0"),
        ([], {"TF_CONFIG": "stale"}, "TF_CONFIG must be JSON"),
        ([], {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "must start its workers with srun"),
    ],
)
def test_bad_input_is_found_before_anything_is_started(
    more, environment, message, digits_dir, tmp_path
):
    launcher = _start(_flags(digits_dir, 2), tmp_path, *more, environment=environment)
    assert message in _refused(launcher)[0]


def _addresses(count):
    return ",".join(f"127.0.0.1:{port}" for port in supervisor.free_ports(count))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_that_do_not_fit_together_end_with_one_sentence(digits_dir, tmp_path):
    flags = _flags(digits_dir, 2)
    two = f"--worker_hosts={_addresses(2)}"

    def both(first=(), second=()):
        return _refused(
            _start(flags, tmp_path, two, "--task_index=0", *first),
            _start(flags, tmp_path, two, "--task_index=1", *second),
        )

    for text in both(second=["--learning_rate=3"]):
        assert "the same --learning_rate. Received: '10.0' on worker 0" in text
    # A host name that does not resolve, and a worker of a job that no longer exists.
    missing = ["--startup_timeout=5", "--task_index=0"]
    unresolvable = _start(flags, tmp_path, "--worker_hosts=127.0.0.1:1999,no.invalid:1", *missing)
    stale = {
        "cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:1998"]},
        "task": {"type": "worker", "index": 1},
    }
    of_old_job = _start(
        flags, tmp_path, "--startup_timeout=5", environment={"TF_CONFIG": json.dumps(stale)}
    )
    assert "the name no.invalid does not resolve" in _refused(unresolvable)[0]
    text = _refused(of_old_job)[0]
    assert "worker 0 (127.0.0.1:1) must be reachable within 5 s" in text
    assert "(TF_CONFIG)" in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sigterm_saves_and_the_run_goes_on_with_another_number_of_workers(digits_dir, tmp_path):
    flags = [*_flags(digits_dir, 2), "--workers_per_host=2"]
    launcher = _start(flags, tmp_path, f"--worker_hosts={_addresses(1)}")
    for line in launcher.stdout:
        if line.startswith("epoch 2/"):
            launcher.send_signal(signal.SIGTERM)
            break
    rest = launcher.communicate(timeout=programs.SECONDS)[0]
    assert launcher.returncode == 42, rest
    assert "the same command resumes from the last checkpoint" in rest
    state = json.loads(max((tmp_path / "checkpoints").glob("step-*/state.json")).read_text())

    refused = programs.run(
        "launch.local", *flags[:-1], f"--model_dir={tmp_path}", "--num_workers=3"
    )
    assert refused.returncode == 2
    assert "Received: global_batch_size=256 on 3 replicas" in refused.stderr

    alone = programs.run("launch.local", *flags[:-1], f"--model_dir={tmp_path}", "--num_workers=1")
    assert alone.returncode == 0, alone.stderr
    assert f"step {state['step']} of" in alone.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["num_workers"], results["epochs"]) == (1, EPOCHS)


@pytest.mark.slow
@pytest.mark.parametrize("tpu", ["local", "a-name", "grpc://127.0.0.1:1"])
def test_without_a_tpu_launch_tpu_ends_with_one_sentence(tpu, short_run, tmp_path):
    flags = [*short_run, "--num_workers=1", f"--tpu={tpu}", f"--model_dir={tmp_path}"]
    refused = programs.run("launch.tpu", *flags)
    assert refused.returncode == 2
    assert refused.stderr.count("error: launch.tpu needs a TPU") == 1
    assert "Traceback" not in refused.stderr
