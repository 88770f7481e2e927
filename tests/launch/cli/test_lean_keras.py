"""Keras is imported without the packages that no program uses it with."""

import importlib.util
import json
import subprocess
import sys

from launch.cli import lean_keras
from tests.helpers.paths import ROOT

PROGRAM = """
import importlib, json, sys
from launch.cli import lean_keras
lean_keras.install()
import keras, tensorflow
packages = sys.argv[1:]
imported = [name for name in packages if name in sys.modules]
for name in packages:  # as other modules may
    importlib.import_module(name)
print(json.dumps([imported, keras.utils.to_categorical([1], 2).tolist()]))
"""


def _imported(program, packages):
    done = subprocess.run(
        [sys.executable, "-c", program, *packages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    imported, one_hot = json.loads(done.stdout)
    assert one_hot == [[0.0, 1.0]]
    return imported


def test_keras_is_imported_without_them_and_others_may_import_them():
    packages = {name for names in lean_keras.PACKAGES.values() for name in names}
    installed = sorted(name for name in packages if importlib.util.find_spec(name))
    stock = PROGRAM.replace("lean_keras.install()", "")
    assert _imported(stock, installed) == installed  # else there is nothing to keep out
    assert not _imported(PROGRAM, installed)
