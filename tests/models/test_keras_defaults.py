"""Networks and runs are the same whatever Keras's own configuration is."""

import json

import keras
import numpy as np
import pytest

import models
from tests.helpers import programs

OTHERWISE = {"image_data_format": "channels_first", "floatx": "float64", "epsilon": 1e-3}


@pytest.fixture
def otherwise():
    """Keras configured otherwise than by default."""
    before = {name: getattr(keras.config, name)() for name in OTHERWISE}
    for name, value in OTHERWISE.items():
        getattr(keras.config, f"set_{name}")(value)
    yield
    for name, value in before.items():
        getattr(keras.config, f"set_{name}")(value)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("small_resnet8", 32, {}),
        ("resnet18", 64, {"space_to_depth_stem": True}),
        ("alexnet", 96, {}),
        ("keras.applications/MobileNetV2", 32, {}),
        ("keras_cv/EfficientNetV2B0Backbone", 32, {}),
    ],
)
def test_a_network_does_not_depend_on_it(name, size, options, request):
    if name.startswith("keras_cv/"):
        pytest.importorskip("keras_cv")
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))

    def built():
        keras.utils.set_random_seed(0)
        model = models.create(name, num_classes=10, image_size=size, **options)
        return model, model.weights

    _, expected = built()
    request.getfixturevalue("otherwise")
    model, weights = built()
    assert {name: getattr(keras.config, name)() for name in OTHERWISE} == OTHERWISE
    assert [(w.path, w.shape, w.dtype) for w in weights] == [
        (w.path, w.shape, w.dtype) for w in expected
    ]
    if not name.startswith("keras_cv/"):  # whose layers look again when they are called
        assert model(images).shape == (2, 10)


@pytest.mark.slow
def test_a_run_does_not_depend_on_it(finished, short_run, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({**OTHERWISE, "backend": "jax"}))
    done = programs.run(
        "launch.local",
        *short_run,
        f"--model_dir={tmp_path / 'run'}",
        environment={"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr
    results = [
        json.loads((d / "results.json").read_text()) for d in (finished[0], tmp_path / "run")
    ]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]


def test_a_configuration_that_keras_refuses_is_named(digits_dir, tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": "float65"}')
    done = programs.run(
        "launch.local",
        f"--data_dir={digits_dir}",
        f"--model_dir={tmp_path / 'run'}",
        environment={"KERAS_HOME": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "error: Keras's configuration, keras.json" in done.stderr
    assert "Traceback" not in done.stderr
