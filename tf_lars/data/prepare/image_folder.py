"""Image folders `train/<class>/*`, `val/<class>/*` (or `validation/`) as a source of images."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.prepare.sharding import ImageFile, ImageListing
from tf_lars.data.records.dataset_info import SPLITS
from tf_lars.errors import InputError, some

_FOLDERS = {"train": ("train",), "validation": ("val", "validation")}
_LAYOUT = "train/<class>/* and val/<class>/*"


@dataclass(frozen=True)
class ImageFolder:
    """An `ImageSource` that reads class folders, except hidden files (with a leading dot).

    The names of the folders are the identifiers and names of the classes.

    Args:
        path: Local folder.
    """

    path: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return os.path.basename(os.path.abspath(self.path))

    def list_images(self, num_processes: int) -> ImageListing:
        """Finds all images, in this process.

        Raises:
            InputError: The folder has another layout, a class is missing in one split, or a class
                holds no image.
        """
        classes = {split: _classes(_split_dir(self.path, split)) for split in SPLITS}
        _check_same_classes(classes)
        names = tuple(classes["train"])
        images = {split: tuple(_images(self.path, classes[split])) for split in SPLITS}
        return ImageListing(names, names, images)

    def read(self, image: ImageFile) -> bytes:
        """Returns the content of an image file.

        Raises:
            InputError: The file cannot be read, or its size has changed since it was listed.
        """
        path = os.path.join(self.path, image.path)
        try:
            with open(path, "rb") as opened:
                data = opened.read()
        except OSError as error:
            raise InputError(
                f"Every input file must be readable. Received: {error}. Check the file, then run "
                "again."
            ) from error
        if len(data) != image.num_bytes:
            raise InputError(
                f"Input files must not change during the preparation. Received: {path!r} of "
                f"{len(data)} bytes instead of {image.num_bytes}. Run again."
            )
        return data


def _split_dir(input_dir: str, split: str) -> str:
    if not os.path.isdir(input_dir):
        raise InputError(
            f"The input must be a local folder that holds {_LAYOUT}. Received: {input_dir!r}, "
            "which is not a folder. Check the path."
        )
    candidates = [os.path.join(input_dir, name) for name in _FOLDERS[split]]
    found = [folder for folder in candidates if os.path.isdir(folder)]
    if len(found) != 1:
        state = " and ".join(_FOLDERS[split]) if found else f"no {' or '.join(_FOLDERS[split])}"
        raise InputError(
            f"The input folder must hold {_LAYOUT}. Received: {input_dir!r} with {state}. "
            "Give each split one folder."
        )
    return found[0]


def _classes(split_dir: str) -> dict[str, str]:
    """Returns the folder of each class, sorted by class name."""
    classes = {}
    for entry in _listing(split_dir):
        if not entry.is_dir():
            raise InputError(
                f"The input folder must hold {_LAYOUT}. Received: the file {entry.path!r} next "
                "to the class folders. Move it into the folder of its class, or away."
            )
        classes[entry.name] = entry.path
    if not classes:
        raise InputError(
            f"The input folder must hold {_LAYOUT}. Received: {split_dir!r} without a class "
            "folder. Sort the images into one folder per class."
        )
    return classes


def _check_same_classes(classes: Mapping[str, Mapping[str, str]]) -> None:
    for one, other in (SPLITS, SPLITS[::-1]):
        missing = [name for name in classes[one] if name not in classes[other]]
        if missing:
            raise InputError(
                "Training and validation must have the same classes. Received: "
                f"{len(missing)} in {one} only: {some(missing)}. Add the class folders to "
                f"{other}, or remove them from {one}."
            )


def _images(input_dir: str, classes: Mapping[str, str]) -> Iterator[ImageFile]:
    # Millions of files on network storage take minutes to list.
    with Progress("list", len(classes), "class folders") as progress:
        for label, folder in enumerate(classes.values(), start=1):
            entries = _listing(folder)
            if not entries:
                raise InputError(
                    f"Every class folder must hold images. Received: {folder!r}, which is empty. "
                    "Add images, or remove the class from both splits."
                )
            for entry in entries:
                if not entry.is_file():
                    raise InputError(
                        f"The input folder must hold {_LAYOUT}. Received: {entry.path!r}, which "
                        "is not a file. Put the images directly into the folder of their class."
                    )
                path = os.path.relpath(entry.path, input_dir)
                yield ImageFile(path, label, entry.stat().st_size)
            progress.advance(1)


def _listing(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)
