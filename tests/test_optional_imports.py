"""TensorFlow and Keras are imported without the packages that a process has no use for."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from tf_lars.optional_imports import KERAS, KERAS_EXTRAS

PROGRAM = """
import importlib, json, sys
from tf_lars import optional_imports
{keep_out}
import {modules}
packages = sys.argv[1:]
imported = [name for name in packages if name in sys.modules]
for name in packages:  # as other modules may
    importlib.import_module(name)
print(json.dumps([imported, {value}]))
"""
ONE_HOT = {"modules": "keras, tensorflow", "value": "keras.utils.to_categorical([1], 2).tolist()"}


def _imported(keep_out, packages, modules, value):
    program = PROGRAM.format(keep_out=keep_out, modules=modules, value=value)
    done = subprocess.run(
        [sys.executable, "-c", program, *packages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout)


def _installed(packages):
    names = {name for kept in packages.values() for name in kept}
    return sorted(name for name in names if importlib.util.find_spec(name))


def test_training_does_without_the_extras_of_keras():
    installed = _installed(KERAS_EXTRAS)
    keep_out = "optional_imports.keep_out(optional_imports.KERAS_EXTRAS)"
    assert _imported(keep_out, installed, **ONE_HOT) == [[], [[0.0, 1.0]]]


@pytest.mark.slow
def test_tensorflow_does_without_keras():
    keep_out = "optional_imports.keep_out(optional_imports.KERAS)"
    found = _imported(
        keep_out,
        _installed(KERAS),
        modules="tensorflow",
        value="tensorflow.math.reduce_sum([1, 2]).numpy().item()",
    )
    assert found == [[], 3]


@pytest.mark.slow
def test_without_a_word_all_are_imported():
    """Otherwise there would be nothing to keep out."""
    installed = sorted({*_installed(KERAS_EXTRAS), *_installed(KERAS)})
    assert _imported("", installed, **ONE_HOT) == [installed, [[0.0, 1.0]]]
