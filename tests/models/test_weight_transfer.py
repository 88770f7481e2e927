"""Weights of other models and files: which layers fit, and which do not."""

import io

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from models import weight_files
from models.weight_transfer import layers_of_model, transfer
from tests.models.test_freezing import Net
from tf_lars.distribute.grouped_batch_norm import group_batch_norm
from tf_lars.errors import InputError
from tf_lars.training.fused_batch_norm import fuse_batch_norm


def _network(classes=3, width=4, *, name="logits", more=False):
    """Returns a network whose layers, but for the head, have names that Keras makes."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(width, 3)(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(4, 3)(x)
    if more:
        x = keras.layers.Conv2D(4, 1)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(classes, name=name)(x))


def _randomised(model):
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.path)).normal(size=weight.shape))
    return model


def _values(model, count=None):
    return [weight.numpy() for weight in model.weights][:count]


def _same(first, second):
    return [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


def test_names_that_keras_makes_count_by_their_place():
    source, target = _randomised(_network()), _network()
    assert source.weights[0].path != target.weights[0].path
    done = transfer(target, layers_of_model(source))
    assert all(_same(_values(source), _values(target)))
    assert (len(done.loaded), done.missing, done.unused) == (4, {}, {})


@pytest.mark.parametrize("turn", [lambda model: group_batch_norm(model, 4), fuse_batch_norm])
def test_turned_batch_norm_takes_the_weights_of_plain_layers(turn):
    source, target = _randomised(_network()), _network()
    turn(target)
    transfer(target, layers_of_model(source))
    assert all(_same(_values(source), _values(target)))


def test_what_does_not_fit_keeps_its_own_weights_and_is_told():
    source, target = _randomised(_network()), _network(classes=5, name="logits", width=4)
    before = _values(target)
    table_of = transfer(target, layers_of_model(source)).table("a source")
    assert _same(_values(source, -2), _values(target, -2)) == [True] * 8
    assert _same(before[-2:], _values(target)[-2:]) == [True] * 2
    assert [line.split()[-3:] for line in table_of.splitlines() if "oaded" in line] == [
        ["3", "8", "276"],
        ["1", "2", "25"],
    ]
    assert "    logits: [4, 5] [5] here, [4, 3] [3] there" in table_of
    assert "not used           1          2            15" in table_of

    other = transfer(_network(name="head", width=6), layers_of_model(source))
    assert list(other.loaded) == []
    assert other.reasons["head"] == "no layer of this name there"


def test_a_backbone_is_found_in_the_model_around_it_and_the_other_way_round():
    image = keras.Input((8, 8, 3))
    layers = [keras.layers.Conv2D(4, 3, name="c"), keras.layers.BatchNormalization(name="n")]
    inner = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="backbone")
    around = _randomised(keras.Model(image, inner(image)))
    x = keras.layers.BatchNormalization(name="n")(keras.layers.Conv2D(4, 3, name="c")(image))
    alone = keras.Model(image, x)
    assert len(transfer(alone, layers_of_model(around)).loaded) == 2
    assert all(_same(_values(alone), _values(around)))
    _randomised(alone).weights[0].assign(alone.weights[0] * 2)
    assert len(transfer(around, layers_of_model(alone)).loaded) == 2
    assert all(_same(_values(alone), _values(around)))


def test_a_layer_that_keeps_its_weights_does():
    source, target = _randomised(_network()), _network()
    done = transfer(
        target,
        layers_of_model(source),
        lambda layer: isinstance(layer, keras.layers.BatchNormalization),
    )
    assert _same(_values(source), _values(target)) == [True] * 2 + [False] * 4 + [True] * 4
    assert list(done.reasons.values()) == ["belongs to the network, and is not learned"]


def _net():
    net = Net()
    net(tf.zeros([1, 8, 8, 3]))
    return net


def _from_file(path):
    return weight_files.layers_of_file(io.BytesIO(path.read_bytes()), str(path))


@pytest.mark.parametrize("build", [_network, _net])
@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5"])
def test_files_of_keras_are_read_without_the_code_of_the_model(build, name, tmp_path):
    source = _randomised(build())
    source.compile("adam", "mse")  # the optimizer's variables are left out
    save = source.save if name == "a.keras" else source.save_weights
    save(tmp_path / name)
    target = build()
    done = transfer(target, _from_file(tmp_path / name))
    assert all(_same(_values(source), _values(target)))
    assert (done.missing, done.unused) == ({}, {})


def test_files_of_keras_2_are_read(tmp_path):
    from keras.src.legacy.saving import legacy_h5_format

    source = _randomised(_network())
    with h5py.File(tmp_path / "resnet.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, source)
    target = _network()
    assert len(transfer(target, _from_file(tmp_path / "resnet.h5")).loaded) == 4
    assert all(_same(_values(source), _values(target)))


def test_a_damaged_file_is_one_sentence(tmp_path):
    model = _network()
    model.save(tmp_path / "whole.keras")
    model.save_weights(tmp_path / "whole.weights.h5")
    for whole in ("whole.keras", "whole.weights.h5"):
        content = (tmp_path / whole).read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"text"):
            (tmp_path / f"damaged-{whole}").write_bytes(damaged)
            with pytest.raises(InputError, match="which cannot be read"):
                _from_file(tmp_path / f"damaged-{whole}")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="without any"):
        _from_file(tmp_path / "empty.h5")


def test_a_file_cannot_have_other_files_read_as_weights(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret..")
    _network().save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
        variables = []
        file.visititems(lambda _, one: variables.append(one) if one.name.endswith("/0") else None)
        folder, shape = variables[0].parent, (2,)
        del folder["0"]
        secret = [(str(tmp_path / "secret"), 0, 8)]
        folder.create_dataset("0", shape, "f4", external=secret)
    with pytest.raises(InputError, match="its values lie in another file"):
        _from_file(tmp_path / "a.weights.h5")
