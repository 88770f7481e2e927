"""Models from the user's code: found by module or by file, with one sentence for each mistake."""

import textwrap

import numpy as np
import pytest

import models
from tf_lars.errors import InputError

SOURCE = """
    import keras
    import tensorflow as tf
    from keras import layers


    def functional(num_classes, image_size):
        return keras.Sequential([
            keras.Input((image_size, image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(num_classes),
        ])


    class Net(keras.Model):
        def __init__(self, num_classes):
            super().__init__()
            self.conv = layers.Conv2D(4, 3)
            self.norm = layers.BatchNormalization()
            self.head = layers.Dense(num_classes, dtype="float32")

        def call(self, image, training=False):
            x = self.norm(self.conv(image / 255), training=training)
            return self.head(tf.reduce_mean(tf.nn.relu(x), [1, 2]))


    def subclassed(*, num_classes, image_size):
        return Net(num_classes)


    def with_neighbour(num_classes, image_size):
        from neighbour_of_the_model import layer
        return keras.Sequential([keras.Input((image_size, image_size, 3)), layers.Flatten(),
                                 layer(num_classes)])


    def softmax(num_classes, image_size):
        return keras.Sequential([keras.Input((image_size, image_size, 3)), layers.Flatten(),
                                 layers.Dense(num_classes, activation="softmax")])


    def eleven(num_classes, image_size):
        return functional(11, image_size)


    def features(num_classes, image_size):
        return keras.Sequential([keras.Input((image_size, image_size, 3)), layers.Conv2D(10, 3)])


    def grey(num_classes, image_size):
        return keras.Sequential([keras.Input((image_size, image_size, 1)), layers.Flatten(),
                                 layers.Dense(num_classes)])


    def two_outputs(num_classes, image_size):
        image = keras.Input((image_size, image_size, 3))
        x = layers.Dense(num_classes)(layers.Flatten()(image))
        return keras.Model(image, [x, x])


    def nothing(num_classes, image_size):
        pass


    def no_arguments():
        pass


    def one_argument(num_classes):
        pass


    def failing(num_classes, image_size):
        raise RuntimeError("no luck")


    number = 7
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("the user's code")
    (folder / "net.py").write_text(textwrap.dedent(SOURCE))
    (folder / "neighbour_of_the_model.py").write_text("from keras.layers import Dense as layer\n")
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    (folder / "wrong.py").write_text("def build(:\n")
    package = folder / "users_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.py").write_text(textwrap.dedent(SOURCE))
    return folder


def _create(name):
    return models.create(name, num_classes=10, image_size=8)


@pytest.mark.parametrize("function", ["functional", "subclassed", "with_neighbour"])
def test_a_file_outside_the_repository_gives_a_built_model(folder, function):
    model = _create(f"{folder}/net.py:{function}")
    assert model.built
    assert model.trainable_weights
    assert model(np.zeros((2, 8, 8, 3), "uint8")).shape == (2, 10)
    assert models.describe(model, 8).forward_flops > 0


def test_a_path_may_be_relative_to_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert _create("net.py:functional").built
    assert _create("./net.py:functional").built


def test_a_module_on_the_search_path(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    assert _create("users_package.net:subclassed").built


def test_a_file_does_not_hide_a_module_of_its_name(folder):
    (folder / "json.py").write_text((folder / "net.py").read_text())
    assert _create(f"{folder}/json.py:functional").built
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/net.py:", "must be package.module:function or path/to/file.py:function"),
        (":functional", "must be package.module:function"),
        ("{folder}/net.py:a.b", "must be package.module:function"),
        ("{folder}/missing.py:functional", "The file of --model must exist.*missing.py"),
        ("nothing_of_this_name:functional", "no module 'nothing_of_this_name'"),
        ("keras.nothing_of_this_name:functional", "cannot be imported: ModuleNotFoundError"),
        ("{folder}/broken.py:build", "ModuleNotFoundError.*nothing_of_this_name.*line 1"),
        ("{folder}/wrong.py:build", "cannot be imported: SyntaxError"),
        ("{folder}/net.py:missing", "must define the function 'missing'"),
        ("{folder}/net.py:number", "must define the function 'number'.*is not a function"),
        ("{folder}/net.py:no_arguments", r"Received: no_arguments\(\)"),
        ("{folder}/net.py:one_argument", r"Received: one_argument\(num_classes\)"),
        ("{folder}/net.py:failing", r"fails: RuntimeError: no luck \(.*net.py, line \d+\)"),
        ("{folder}/net.py:nothing", "must return a keras.Model. Received: NoneType"),
        ("{folder}/net.py:eleven", r"logits of shape \[batch, 10\].*Received: \[None, 11\]"),
        ("{folder}/net.py:features", r"Received: \[None, 6, 6, 10\]"),
        ("{folder}/net.py:two_outputs", "Received: list"),
        ("{folder}/net.py:grey", r"does not take images of shape \[batch, 8, 8, 3\]"),
        ("{folder}/net.py:softmax", "Received: a last layer 'dense.*' with softmax"),
    ],
)
def test_whatever_is_wrong_is_told_in_a_sentence(folder, name, message):
    with pytest.raises(InputError, match=message):
        _create(name.format(folder=folder))


def test_synchronised_batch_norm_reaches_a_subclassed_model(folder):
    model = models.create(
        f"{folder}/net.py:subclassed", num_classes=10, image_size=8, sync_batch_norm=True
    )
    assert model.norm.synchronized


def test_groups_of_batch_norm_reach_a_subclassed_model(folder):
    model = models.create(
        f"{folder}/net.py:subclassed", num_classes=10, image_size=8, batch_norm_group_size=4
    )
    assert model.norm.group_size == 4
    images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    assert model(images, training=True).shape == (8, 10)
    with pytest.raises(ValueError, match="groups of 4 on 1 replicas with 6 examples each"):
        model(images[:6], training=True)
