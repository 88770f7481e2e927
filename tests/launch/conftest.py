import pytest

from tests.launch import programs, slurm_cluster
from tf_lars.data import digits


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `demo`)")
    directory = tmp_path_factory.mktemp("data") / "digits"
    digits.prepare(str(directory))
    return str(directory)


@pytest.fixture(scope="session")
def short_run(digits_dir):
    """Flags of a small run on the digits."""
    return [
        "--flagfile=launch/recipes/digits.flags",
        f"--data_dir={digits_dir}",
        "--model=small_resnet8",
        "--epochs=6",
        "--warmup_epochs=1",
    ]


@pytest.fixture(scope="session")
def finished(short_run, tmp_path_factory):
    """A finished run of two workers: its folder and what it printed."""
    model_dir = tmp_path_factory.mktemp("runs") / "finished"
    done = programs.run("launch.local", *short_run, f"--model_dir={model_dir}")
    assert done.returncode == 0, done.stderr
    return model_dir, done.stdout


@pytest.fixture(scope="session")
def slurm():
    """A Slurm of four nodes, for all tests that need one."""
    with slurm_cluster.started(nodes=4) as slurm:
        yield slurm
