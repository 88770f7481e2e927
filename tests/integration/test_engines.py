"""Workers started by programs that give each its rank: mpirun, torchrun's variables, PySpark."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import environments, network_hosts, programs
from tests.helpers.cluster_job import flags_for_digits
from tests.helpers.paths import ROOT
from tf_lars import create_strategy
from tf_lars.cluster import supervisor
from tf_lars.errors import InputError

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "-1",
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
}
FIT = [sys.executable, str(ROOT / "examples" / "fit_with_lars.py"), "2"]


def _ended(process):
    try:
        printed = process.communicate(timeout=programs.SECONDS)[0]
    finally:
        process.kill()
    return process.returncode, printed


@pytest.mark.slow
def test_mpirun_starts_one_job(digits_dir, tmp_path):
    if not shutil.which("mpirun"):
        pytest.skip("needs mpirun, of Debian's openmpi-bin")
    flags = [*flags_for_digits(digits_dir, 2), "--epochs=2", "--warmup_epochs=1"]
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    mpirun = ["mpirun", *as_root, "--oversubscribe", "--bind-to", "none", "-n", "2"]

    def started(*more):
        command = programs.command("launch.gpu_cluster", *flags, f"--model_dir={tmp_path}", *more)
        process = subprocess.Popen(
            [*mpirun, *command],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return _ended(process)

    code, printed = started()
    assert code == 2, printed
    assert "The 2 processes that Open MPI has started (OMPI_COMM_WORLD_SIZE) need an" in printed
    code, printed = started(f"--coordinator=127.0.0.1:{supervisor.free_ports(1)[0]}")
    assert code == 0, printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["num_workers"], results["epochs"]) == (2, 2)
    assert results["replica_weights_sha256"] == [results["weights_sha256"]] * 2


@pytest.mark.slow
def test_processes_with_torchruns_variables_fit_together_on_two_hosts(tmp_path):
    with network_hosts.connected(2) as hosts:
        given = {"WORLD_SIZE": "2", "MASTER_ADDR": hosts.name(0), "MASTER_PORT": "29500"}
        workers = [
            hosts.popen(
                rank,
                FIT,
                cwd=tmp_path,
                env={**ENVIRONMENT, **given, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in (0, 1)
        ]
        ends = [_ended(worker) for worker in workers]
    assert [code for code, _ in ends] == [0, 0], ends
    assert len({printed.splitlines()[-1] for _, printed in ends}) == 1
    assert ends[0][1].splitlines()[-1].startswith("test accuracy 0.")


@pytest.mark.slow
def test_the_tasks_of_a_barrier_stage_of_spark_fit_together(tmp_path):
    pytest.importorskip("pyspark", reason="needs pyspark: make setup-engines")
    if not shutil.which("java"):
        pytest.skip("needs Java, of Debian's default-jre-headless")
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.python.worker.reuse": "false",
        "spark.pyspark.python": sys.executable,
    }
    process = subprocess.Popen(
        [
            *(os.path.join(os.path.dirname(sys.executable), "spark-submit"), "--master=local[2]"),
            *(f"--conf={name}={value}" for name, value in options.items()),
            *(str(ROOT / "examples" / "engines" / "spark_barrier.py"), "2", "2"),
        ],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    code, printed = _ended(process)
    assert code == 0, printed[-3000:]
    accuracies = next(line for line in printed.splitlines() if line.startswith("test accuracy"))
    assert len(set(accuracies.split()[2:])) == 1
    assert len(accuracies.split()) == 4


PROGRAMS = {
    "local": ["--data_dir=nowhere"],
    "tpu": ["--data_dir=nowhere"],
    "gpu_cluster": ["--data_dir=nowhere"],
    "critical_batch": ["--model_dir=nowhere"],
    "evaluate": ["--model_dir=nowhere"],
    "large_batch_study": [],
    "ray": ["--data_dir=nowhere"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_that_trains_refuses_processes_that_cannot_meet(program, tmp_path):
    environment = {"RANK": "1", "WORLD_SIZE": "2"}
    done = programs.run(f"launch.{program}", *PROGRAMS[program], environment=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "2 processes" in done.stderr
    assert "WORLD_SIZE" in done.stderr


@pytest.mark.parametrize(
    "environment",
    [one for one in environments.ENVIRONMENTS if not one.workers[1]],
    ids=lambda one: one.name,
)
def test_create_strategy_refuses_processes_that_cannot_meet(environment, monkeypatch):
    for name, value in environment.variables[1].items():
        if "MASTER" not in name:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"at which they meet. Received: no"):
        create_strategy()


@pytest.mark.slow
def test_a_heterogeneous_job_of_slurm_is_one_cluster(slurm, tmp_path):
    show = tmp_path / "show.py"
    show.write_text(
        "from tf_lars.cluster.discovery import resolve_cluster\n"
        "from tf_lars.errors import InputError\n"
        "try:\n"
        "    cluster = resolve_cluster()\n"
        "    print(cluster.rank, cluster.num_workers, *cluster.workers)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    script = tmp_path / "job.sh"
    # The second component's nodes come first by name.
    script.write_text(
        "#!/bin/bash\n#SBATCH -w n2 -n1\n#SBATCH hetjob\n#SBATCH -w n[0-1] -N2 -n3\n"
        f"cd {ROOT}\n"
        f"srun --het-group=0,1 bash -c 'echo $SLURMD_NODENAME $({sys.executable} {show})'\n"
        f"srun {sys.executable} {show}\n"
    )
    output = tmp_path / "output"
    options = [f"--output={output}"]
    job = slurm.sbatch(script, options=options, environment={"PYTHONPATH": str(ROOT)})
    assert slurm.wait(job) == "COMPLETED"
    *together, alone = output.read_text().splitlines()
    rows = sorted((line.split() for line in together), key=lambda row: int(row[1]))
    assert [row[0] for row in rows] == ["n2", "n0", "n0", "n1"]
    assert {tuple(row[2:]) for row in rows} == {tuple(rows[0][2:])}
    ports = [int(address.split(":")[1]) for address in rows[0][3:]]
    assert ports == list(range(ports[0], ports[0] + 4))
    assert "Run srun --het-group=0-1" in alone
