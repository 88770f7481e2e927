import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.optimizers.lars import LARS


@keras.saving.register_keras_serializable(package="test_lars_exclusions")
class Block(keras.layers.Layer):
    """Two layers inside a layer."""

    def build(self, shape):
        self.dense = keras.layers.Dense(4, name="dense")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.dense.build(shape)
        self.norm.build((None, 4))

    def call(self, x):
        return self.norm(self.dense(x))


@keras.saving.register_keras_serializable(package="test_lars_exclusions")
class Subclassed(keras.Model):
    """Model whose layers TensorFlow names without their parents."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(name="block")
        self.head = keras.layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.block(x))


def _functional():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(Block(name="block")(inputs)))


def _sequential():
    return keras.Sequential([Block(name="block"), keras.layers.Dense(2, name="head")])


MODELS = pytest.mark.parametrize("make", [_functional, _sequential, Subclassed])


def _built(make, **arguments):
    model = make()
    model(np.zeros((1, 3)))
    optimizer = LARS(1.0, weight_decay=0.5, **arguments)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def _ends(model, chosen):
    """Returns the last two parts of the paths of the chosen variables."""
    pairs = zip(model.trainable_variables, chosen, strict=True)
    return {"/".join(v.path.split("/")[-2:]) for v, c in pairs if c}


def _undecayed(optimizer):
    return [b == 0 for b in optimizer._weight_decays]


def _unadapted(optimizer):
    return [not a for a in optimizer._adapts]


@MODELS
def test_the_default_excludes_rank_1(make):
    model, optimizer = _built(make)
    expected = {"dense/bias", "norm/gamma", "norm/beta", "head/bias"}
    assert _ends(model, _undecayed(optimizer)) == expected
    assert _ends(model, _unadapted(optimizer)) == expected


@MODELS
def test_an_empty_list_excludes_nothing(make):
    _, optimizer = _built(make, exclude_from_weight_decay=[], exclude_from_layer_adaptation=[])
    assert not any(_undecayed(optimizer))
    assert not any(_unadapted(optimizer))


@MODELS
def test_patterns_see_the_whole_path(make):
    model, optimizer = _built(
        make,
        exclude_from_weight_decay=[r"block/norm/.*", "head"],
        exclude_from_layer_adaptation=[r"block/.*bias$"],
    )
    undecayed = {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}
    assert _ends(model, _undecayed(optimizer)) == undecayed
    assert _ends(model, _unadapted(optimizer)) == {"dense/bias"}


@MODELS
def test_single_variables_come_on_top(make):
    model = make()
    model(np.zeros((1, 3)))
    kernel = model.get_layer("head").kernel
    optimizer = LARS(1.0, weight_decay=0.5, exclude_from_layer_adaptation=["gamma"])
    optimizer.exclude_from_weight_decay([kernel])
    optimizer.exclude_from_layer_adaptation(var_list=[kernel], var_names=["beta"])
    optimizer.build(model.trainable_variables)
    rank_1 = {"dense/bias", "norm/gamma", "norm/beta", "head/bias"}
    assert _ends(model, _undecayed(optimizer)) == rank_1 | {"head/kernel"}
    assert _ends(model, _unadapted(optimizer)) == {"norm/gamma", "norm/beta", "head/kernel"}


@MODELS
def test_exclusions_hold_in_training(make):
    model = make()
    model(np.zeros((1, 3)))
    optimizer = LARS(1.0, momentum=0.0, weight_decay=0.5, exclude_from_weight_decay=["head"])
    optimizer.exclude_from_layer_adaptation([model.get_layer("head").kernel])
    model.compile(optimizer, loss=lambda y, p: 0.0 * keras.ops.sum(p, -1))
    before = model.get_layer("head").kernel.numpy(), model.get_layer("block").dense.kernel.numpy()
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=4, verbose=0)
    np.testing.assert_array_equal(model.get_layer("head").kernel, before[0])
    # A zero gradient: r = 1 and the decay still applies.
    np.testing.assert_allclose(model.get_layer("block").dense.kernel, before[1] * 0.5, rtol=1e-6)


@MODELS
def test_exclusions_are_saved_with_the_model(make, tmp_path):
    model = make()
    model(np.zeros((1, 3)))
    optimizer = LARS(0.1, weight_decay=0.5, exclude_from_layer_adaptation=["norm/"])
    optimizer.exclude_from_weight_decay([model.get_layer("head").kernel], ["dense/kernel"])
    model.compile(optimizer, "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert restored.get_config() == optimizer.get_config()
    assert restored._weight_decays == optimizer._weight_decays
    assert restored._adapts == optimizer._adapts


@pytest.mark.parametrize("argument", ["exclude_from_weight_decay", "exclude_from_layer_adaptation"])
def test_a_pattern_that_matches_nothing_lists_the_paths(argument):
    with pytest.raises(InputError, match=rf"{argument}.*Received: 'biass'.*block/dense/kernel"):
        _built(_functional, **{argument: ["kernel", "biass"]})
    optimizer = LARS(1.0)
    getattr(optimizer, argument)(var_names=["biass"])
    with pytest.raises(InputError, match="Received: 'biass'"):
        optimizer.build(_functional().trainable_variables)


def test_a_variable_that_is_not_trained_is_named():
    model = _functional()
    optimizer = LARS(1.0)
    optimizer.exclude_from_weight_decay([keras.Variable(1.0, name="stranger")])
    with pytest.raises(InputError, match="Received: 'stranger', which matches 0 of"):
        optimizer.build(model.trainable_variables)


def test_exclusions_must_come_before_build():
    model, optimizer = _built(_functional)
    for method in (optimizer.exclude_from_weight_decay, optimizer.exclude_from_layer_adaptation):
        with pytest.raises(InputError, match="before the optimizer is built"):
            method([model.trainable_variables[0]])


@pytest.mark.parametrize(("value", "message"), [("bias", r"Write \['bias'\]"), (["("], "Received")])
def test_what_is_no_list_of_patterns_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        LARS(1.0, exclude_from_weight_decay=value)
    with pytest.raises(InputError, match=message):
        LARS(1.0).exclude_from_layer_adaptation(var_names=value)


def test_plain_tensorflow_variables():
    variables = [tf.Variable(tf.ones((2, 2)), name=n) for n in ("a/kernel", "b/kernel")]
    optimizer = LARS(1.0, weight_decay=0.5, exclude_from_weight_decay=["^a/kernel$"])
    optimizer.build(variables)
    assert _undecayed(optimizer) == [True, False]


def test_the_multiplier_scales_the_raw_rate_alone():
    def step(multiplier):
        variables = [keras.Variable(tf.ones(s)) for s in ((2, 2), (2,))]
        optimizer = LARS(2.0, excluded_learning_rate_multiplier=multiplier)
        optimizer.apply([tf.ones((2, 2)), tf.ones(2)], variables)
        return [1 - v.numpy() for v in variables]

    (kernel, bias), (kernel_scaled, bias_scaled) = step(1.0), step(0.01)
    np.testing.assert_array_equal(kernel, kernel_scaled)
    np.testing.assert_allclose(bias_scaled, 0.01 * bias, rtol=1e-5)
    with pytest.raises(InputError, match="Received: excluded_learning_rate_multiplier=-1"):
        LARS(1.0, excluded_learning_rate_multiplier=-1)
