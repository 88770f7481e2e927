"""The operations of the step are those that TensorFlow for TPUs has registered for them.

Needs tensorflow-tpu, which cannot be installed beside tensorflow: `make test-tpu`.
"""

import contextlib
import importlib.metadata

import keras
import pytest
import tensorflow as tf

from launch.run import replica_step
from launch.run.settings import TrainingSettings
from tests.xla.test_gate import MODELS, OPTIONS

_NOT_COMPUTED = {"Placeholder", "PlaceholderWithDefault"}
_TPU = "XLA_TPU_JIT"


def _is_installed():
    try:
        importlib.metadata.version("tensorflow-tpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _is_installed(), reason="needs tensorflow-tpu: make test-tpu")


@pytest.fixture(scope="module")
def registered():
    """A function that says whether an operation is registered for TPUs."""
    from tensorflow.python.framework import kernels

    # Compiling registers the kernels; without a TPU or XLA's own CPU it then fails.
    with contextlib.suppress(tf.errors.OpError):
        tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))

    def is_registered(operation):
        found = kernels.get_registered_kernels_for_op(operation).kernel
        return _TPU in {kernel.device_type for kernel in found}

    return is_registered


@pytest.fixture(autouse=True)
def _plain_policy():
    yield
    keras.mixed_precision.set_global_policy("float32")
    keras.backend.clear_session()


def _missing(registered, **changes):
    values = {"model": "small_resnet8", "image_size": 8, "data": "synthetic:512:10"}
    values |= {"global_batch_size": 32, "epochs": 2, "warmup_epochs": 1} | changes
    settings = TrainingSettings(**values)
    program, _ = replica_step.program(settings, 4, settings.micro_batch_size)
    return {one for one in program.operations() - _NOT_COMPUTED if not registered(one)}


@pytest.mark.parametrize("model", [m for m in MODELS if not m.startswith("keras_cv")])
def test_every_operation_of_a_model_is_one_of_tpus(model, registered):
    assert not _missing(registered, model=model, image_size=MODELS[model])


@pytest.mark.parametrize("options", OPTIONS)
def test_every_operation_of_an_option_is_one_of_tpus(options, registered):
    assert not _missing(registered, **OPTIONS[options])


def test_an_operation_of_the_host_is_not(registered):
    assert not registered("AsString")
    assert not registered("PyFunc")
