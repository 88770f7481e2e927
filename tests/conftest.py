import os
import signal

# Before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest
import tensorflow as tf

from tests.helpers import programs, slurm_cluster
from tf_lars.data.prepare import digits

# What a shell starts in the background ignores Ctrl-C, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two devices, so that MirroredStrategy has two replicas; here, because importing keras_cv already
# settles which devices there are.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_collection_modifyitems(items):
    """Puts files that take long first, so that none of them is the last to end.

    They are those with slow tests and those that trace and compile whole models.
    """
    slow = {
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.path.parent.name == "xla"
    }
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def mirrored():
    """A strategy of two replicas on two logical CPUs."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


# The next three hold the results of one group of `tests.helpers.training_cases`, which the module
# of the test names as GROUP.
@pytest.fixture(scope="module")
def two_workers(request, tmp_path_factory):
    """Results by (case, rank), from two processes."""
    from tests.helpers import training_cases

    directory = tmp_path_factory.mktemp("two_workers")
    return training_cases.run_two_workers(request.module.GROUP, directory)


@pytest.fixture(scope="module")
def alone(request, tmp_path_factory):
    """Results by case, from this process on one device."""
    from tests.helpers import training_cases

    directory = str(tmp_path_factory.mktemp("alone"))
    return training_cases.run(request.module.GROUP, tf.distribute.get_strategy(), directory)


@pytest.fixture(scope="module")
def on_two_cpus(request, mirrored, tmp_path_factory):
    """Results by case, from MirroredStrategy on two logical CPUs."""
    from tests.helpers import training_cases

    directory = str(tmp_path_factory.mktemp("mirrored"))
    return training_cases.run(request.module.GROUP, mirrored, directory)


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
    """A finished run of two workers: its folder and what it printed.

    It trains as in many a container: behind a proxy that does not reach the workers, and in a
    locale without other letters than English ones.
    """
    model_dir = tmp_path_factory.mktemp("läufe") / "finished"
    container = {"https_proxy": "http://127.0.0.1:9", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}
    done = programs.run(
        "launch.local", *short_run, f"--model_dir={model_dir}", environment=container
    )
    assert done.returncode == 0, done.stderr
    return model_dir, done.stdout


@pytest.fixture(scope="session")
def slurm():
    """A Slurm of four nodes, for all tests that need one."""
    with slurm_cluster.started(nodes=4) as slurm:
        yield slurm
