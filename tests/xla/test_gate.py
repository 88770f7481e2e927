"""The XLA gate: the step that `Trainer` takes on TPUs has static shapes and needs no host."""

import gc

import keras
import pytest
import tensorflow as tf

from launch.run import replica_step
from launch.run.settings import TrainingSettings
from tf_lars import LARS
from tf_lars.errors import InputError
from tf_lars.optimizers.presets import PRESETS
from tf_lars.xla.one_of_many import OneOfMany
from tf_lars.xla.step_program import StepProgram

REPLICAS = 4

MODELS = {
    "alexnet": 64,
    "alexnet_bn": 64,
    "resnet18": 32,
    "resnet34": 32,
    "resnet50": 32,
    "resnet101": 32,
    "resnet152": 32,
    "small_resnet14": 8,
    "keras.applications/MobileNetV2": 32,
    "keras_cv/ResNet18Backbone": 32,
}

OPTIONS = {
    "plain": {},
    "input": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "random_erasing_probability": 0.5},
    "label smoothing, micro-batches": {"label_smoothing": 0.1, "micro_batch_size": 4},
    "bfloat16": {"mixed_precision": "bfloat16", "gradient_reduction_dtype": "bfloat16"},
    "loss scaling": {"mixed_precision": "float16"},
    "ghost batch normalisation": {"batch_norm_group_size": 4},
    "groups of two replicas": {"batch_norm_group_size": 16},
    "whole batch normalised": {"sync_batch_norm": True},
    "fused batch normalisation": {"fused_batch_norm": True, "mixed_precision": "bfloat16"},
    "nesterov, average of weights": {"optimizer": "nesterov", "ema_momentum": 0.9},
    "sgd, frozen stem": {"optimizer": "sgd", "freeze": "^stem"},
    "space to depth": {"model": "resnet18", "image_size": 32, "space_to_depth_stem": True},
}

FORMS = {
    **{
        f"preset {name}": (lambda name=name: LARS.preset(name, learning_rate=1.0))
        for name in PRESETS
    },
    "momentum_form torch": lambda: LARS(1.0, momentum_form="torch", weight_decay=1e-4),
    "momentum_form popular": lambda: LARS(1.0, momentum_form="popular", nesterov=True),
    "clipped": lambda: LARS(1.0, clip_trust_ratio=True, global_clipnorm=1.0),
    "no momentum": lambda: LARS(1.0, momentum=0.0, clipvalue=0.5),
    "plain gradient": lambda: LARS(1.0, zero_norm="plain_gradient", always_adapt=False),
    "schedule": lambda: LARS(keras.optimizers.schedules.CosineDecay(1.0, 10)),
}


def _settings(**changes):
    values = {"model": "small_resnet8", "image_size": 8, "data": "synthetic:512:10"}
    values |= {"global_batch_size": 8 * REPLICAS, "epochs": 2, "warmup_epochs": 1}
    return TrainingSettings(**(values | changes))


@pytest.fixture(scope="module", autouse=True)
def _old_objects():
    """Keeps the collector from looking at what other modules have left, after every test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _plain_policy():
    yield
    keras.mixed_precision.set_global_policy("float32")
    keras.backend.clear_session()
    gc.collect()  # graphs of a whole network, which refer to themselves


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=pytest.mark.exhaustive)
        if name in ("resnet101", "resnet152")
        else name
        for name in MODELS
    ],
)
@pytest.mark.slow
def test_every_model_passes(model):
    settings = _settings(model=model, image_size=MODELS[model], global_batch_size=2 * REPLICAS)
    program, _ = replica_step.program(settings, REPLICAS, None)
    program.check()


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_passes(options):
    settings = _settings(**OPTIONS[options])
    program, _ = replica_step.program(settings, REPLICAS, settings.micro_batch_size)
    program.check()


def _program(model, optimizer, element=None):
    strategy = OneOfMany(REPLICAS)
    with strategy.scope():
        built = model()
        built.compile(optimizer(), loss="mse")
    if element is None:
        element = (tf.TensorSpec([4, 8]), tf.TensorSpec([4, 2]))
    return StepProgram(built, strategy, element)


def _dense(function=None):
    layers = [keras.Input((8,)), keras.layers.Dense(8), keras.layers.BatchNormalization()]
    layers += [keras.layers.Lambda(function, output_shape=(8,))] if function else []
    return keras.Sequential([*layers, keras.layers.Dense(2)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_every_form_of_lars_passes(form):
    _program(_dense, FORMS[form]).check()


def _dynamic(x):
    return x + tf.reduce_sum(tf.boolean_mask(x, x > 0))


def _printing(x):
    tf.print(x)
    return x


def _on_host(x):
    return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), x.shape)


def _text(x):
    return x + tf.cast(tf.strings.length(tf.as_string(x)), tf.float32)


def _decoding(x):
    image = tf.io.decode_jpeg(tf.io.encode_jpeg(tf.zeros([1, 1, 3], tf.uint8)))
    return x + tf.cast(tf.reduce_sum(image), tf.float32)


def _indices(x):
    return x + tf.cast(tf.reduce_sum(tf.where(x > 0)), tf.float32)


def _unique(x):
    return x + tf.reduce_sum(tf.unique(tf.stop_gradient(tf.reshape(x, [-1])))[0])


CONTROLS = {
    _dynamic: "dynamic shape by .*boolean_mask",
    _indices: "dynamic shape by .*Where",
    _unique: "dynamic shape by .*Unique",
    _printing: "operation (StringFormat|PrintV2) of the host",
    _on_host: "operation PyFunc of the host",
    _text: "operation AsString of the host",
    _decoding: "operation (DecodeJpeg|EncodeJpeg) of the host",
}


@pytest.mark.parametrize("function", CONTROLS, ids=lambda function: function.__name__)
def test_what_no_accelerator_can_run_is_named_with_its_line(function):
    with pytest.raises(InputError, match=CONTROLS[function]) as caught:
        _program(lambda: _dense(function), lambda: LARS(1.0)).check()
    assert f"{__file__.rpartition('/')[2]}:" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_custom_call_fails():
    from tf_lars.xla.program_check import problems

    text = (
        "  %1 = stablehlo.custom_call @my_kernel(%0) : (tensor<4xf32>) -> tensor<4xf32> "
        "loc(#loc1)\n"
        '#loc1 = loc("layer/Kernel")\n'
    )
    [found] = problems(text)
    assert (found.kind, found.operation, found.name) == ("custom call", "my_kernel", "layer/Kernel")
    assert not problems(text.replace("my_kernel", "mhlo.topk"))


def test_a_batch_of_unknown_size_fails():
    element = (tf.TensorSpec([None, 8]), tf.TensorSpec([None, 2]))
    with pytest.raises(InputError, match="must have a static shape"):
        _program(_dense, lambda: LARS(1.0), element).check()


def test_loops_with_static_trip_counts_pass():
    _program(lambda: _dense(lambda x: tf.map_fn(tf.nn.relu, x)), lambda: LARS(1.0)).check()
