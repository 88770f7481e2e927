"""Keeps Keras from importing large packages that no program here uses it with.

Where they are installed, Keras imports pandas for data frames in `fit`, scikit-learn for its
wrappers and matplotlib for galleries of images; the older Keras within TensorFlow imports SciPy for
sparse arrays. They take four tenths of the time in which a process imports TensorFlow and Keras,
and every worker is a process.
"""

import importlib.abc
import sys

PACKAGES = {"keras": ("matplotlib", "pandas", "sklearn"), "tensorflow": ("scipy",)}
"""Packages that another one imports if they are there, and does without if not."""


class _Finder(importlib.abc.MetaPathFinder):
    """Lets those that import `PACKAGES` find none of them."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname in PACKAGES.get(_importer().partition(".")[0], ()):
            raise ModuleNotFoundError(f"{fullname} is not needed here", name=fullname)


def install() -> None:
    """Has Keras imported without its optional packages in this process; others may import them."""
    sys.meta_path.insert(0, _Finder())


def _importer() -> str:
    """Returns the name of the module whose import is being resolved."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "")
