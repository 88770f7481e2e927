"""Keeps TensorFlow and Keras from importing large packages that a process has no use for.

Where they are installed, Keras imports pandas for data frames in `fit`, scikit-learn for its
wrappers and matplotlib for galleries of images; TensorFlow imports SciPy for sparse arrays in its
old Keras, and Keras itself. Each of them may be absent. Of the time in which a process imports
TensorFlow and Keras, the first four are four tenths, and Keras with them is a half.

Only processes that this project starts, programs and their workers, do without them.
"""

import importlib.abc
import sys
from collections.abc import Collection, Mapping
from importlib.machinery import ModuleSpec

KERAS_EXTRAS = {"keras": ("matplotlib", "pandas", "sklearn"), "tensorflow": ("scipy",)}
"""What training does not need."""

KERAS = {"tensorflow": ("keras", "scipy")}
"""What TensorFlow's operations do not need."""


class _Finder(importlib.abc.MetaPathFinder):
    """Lets a package's modules find none of the packages that are kept from it."""

    def __init__(self, packages: Mapping[str, Collection[str]]):
        self._packages = packages

    def find_spec(self, fullname, path=None, target=None):
        kept_out = fullname in self._packages.get(_importer().partition(".")[0], ())
        # None would leave it to others to find the package; an error would break
        # `importlib.util.find_spec`, with which TensorFlow looks for Keras.
        return ModuleSpec(fullname, _Loader()) if kept_out else None


class _Loader(importlib.abc.Loader):
    """Loads nothing."""

    def create_module(self, spec):
        raise ModuleNotFoundError(f"{spec.name} is not needed here", name=spec.name)


def keep_out(packages: Mapping[str, Collection[str]]) -> None:
    """Lets packages find none of some others from now on; all other modules may import these.

    Args:
      packages: Names of top-level packages by that of the package which is to do without them.
    """
    sys.meta_path.insert(0, _Finder(packages))


def _importer() -> str:
    """Returns the name of the module for which `find_spec` was called."""
    frame = sys._getframe(2)
    while frame.f_back and (
        frame.f_code.co_filename.startswith("<frozen importlib")
        or frame.f_globals.get("__name__") == "importlib"
    ):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "")
