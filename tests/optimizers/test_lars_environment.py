import importlib.util

import keras
import pytest
import tensorflow as tf


@pytest.mark.skipif(
    tf.__version__ < "2.16" or importlib.util.find_spec("tf_keras") is not None,
    reason="Keras 2 is installed",
)
def test_without_keras_2_one_message_says_why():
    with pytest.raises(
        ImportError,
        match=r"TensorFlow contains up to 2\.15.*Received: .* without tf_keras.*Install",
    ):
        importlib.import_module("tf_lars.keras2")


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    again = importlib.util.find_spec("tf_lars.optimizers.lars")
    with pytest.raises(ImportError, match=r"needs Keras 3 on TensorFlow\. Received: .*backend jax"):
        again.loader.exec_module(importlib.util.module_from_spec(again))
