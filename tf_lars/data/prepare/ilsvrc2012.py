"""ILSVRC2012 archives, as downloaded, as a source of images; nothing is unpacked.

The folder holds three files:

- `ILSVRC2012_img_train.tar`: one tar `<wnid>.tar` per class, each with `<wnid>_<number>.JPEG`;
- `ILSVRC2012_img_val.tar`: `ILSVRC2012_val_<number>.JPEG`;
- `ILSVRC2012_devkit_t12.tar.gz`: the classes and the validation labels.

Labels count from 1 in the order of the sorted WordNet ids, as is usual with ImageNet; the
development kit numbers its classes differently.
"""

import contextlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tf_lars.data.prepare import ilsvrc2012_devkit
from tf_lars.data.prepare.process_pool import run_tasks
from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.prepare.sharding import ImageFile, ImageListing
from tf_lars.errors import InputError, some

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VALIDATION_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
ARCHIVES = (TRAIN_ARCHIVE, VALIDATION_ARCHIVE, DEVKIT_ARCHIVE)

_CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar")
_VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_TAR_BLOCK = 512


@dataclass(frozen=True)
class Ilsvrc2012Archives:
    """An `ImageSource` that reads the three archives.

    Args:
        folder: Local folder with the archives.
    """

    folder: str

    @property
    def name(self) -> str:
        """Name of the data set."""
        return "ILSVRC2012"

    def list_images(self, num_processes: int) -> ImageListing:
        """Reads the development kit and the headers of both tars.

        Raises:
            InputError: An archive is missing, damaged or the wrong one, a class has no images, or
                the validation images do not match the ground truth.
        """
        for archive in ARCHIVES:
            if not os.path.isfile(self._path(archive)):
                raise InputError(
                    f"The folder must hold {', '.join(ARCHIVES)}. Received: {self.folder!r} "
                    f"without {archive}. Download it, or link it into the folder."
                )
        kit = ilsvrc2012_devkit.read(self._path(DEVKIT_ARCHIVE))
        validation = self._validation_images(kit)
        train = self._training_images(kit, num_processes)
        return ImageListing(
            tuple(synset.wnid for synset in kit.synsets),
            tuple(synset.words for synset in kit.synsets),
            {"train": train, "validation": validation},
        )

    def read(self, image: ImageFile) -> bytes:
        """Returns the bytes of an image, read directly from its archive.

        Raises:
            InputError: The archive cannot be read or has become shorter.
        """
        is_train = image.path.startswith("train/")
        path = self._path(TRAIN_ARCHIVE if is_train else VALIDATION_ARCHIVE)
        try:
            with open(path, "rb", buffering=0) as archive:
                data = os.pread(archive.fileno(), image.num_bytes, image.offset)
        except OSError as error:
            raise InputError(
                f"Every input file must be readable. Received: {error}. Check the file, then run "
                "again."
            ) from error
        if len(data) != image.num_bytes:
            raise InputError(
                f"Input files must not change during the preparation. Received: {path!r}, which "
                f"ends before the image {image.path}. Run again."
            )
        return data

    def _path(self, archive: str) -> str:
        return os.path.join(self.folder, archive)

    def _training_images(
        self, kit: ilsvrc2012_devkit.Devkit, num_processes: int
    ) -> tuple[ImageFile, ...]:
        path = self._path(TRAIN_ARCHIVE)
        labels = {synset.wnid: label for label, synset in enumerate(kit.synsets, start=1)}
        tasks = {}
        for member in _members(path):
            match = _CLASS_ARCHIVE.fullmatch(member.name)
            if match is None or match[1] not in labels or match[1] in tasks:
                raise InputError(
                    f"{TRAIN_ARCHIVE} must hold one <wnid>.tar for each of the development kit's "
                    f"{len(labels)} classes. Received: {path!r} with {member.name!r}. "
                    "Check that it is the archive of the training images (task 1 and 2)."
                )
            tasks[match[1]] = _ClassTask(path, match[1], labels[match[1]], member)
        missing = [wnid for wnid in labels if wnid not in tasks]
        if missing:
            raise InputError(
                f"Every class must have training images. Received: {path!r} without "
                f"{len(missing)} of {len(labels)} class archives: {some(missing)}. "
                "Download it again."
            )
        images: list[ImageFile] = []
        with (
            Progress("list", len(tasks), "class archives") as progress,
            contextlib.closing(run_tasks(_class_images, [*tasks.values()], num_processes)) as lists,
        ):
            for found in lists:
                progress.advance(1)
                images += found
        images.sort(key=lambda image: (image.label, image.path))
        _note_counts(kit, images)
        return tuple(images)

    def _validation_images(self, kit: ilsvrc2012_devkit.Devkit) -> tuple[ImageFile, ...]:
        path = self._path(VALIDATION_ARCHIVE)
        truth = kit.validation_labels
        members = {}
        for member in _members(path):
            match = _VALIDATION_IMAGE.fullmatch(member.name)
            if match is None:
                raise InputError(
                    f"{VALIDATION_ARCHIVE} must hold only ILSVRC2012_val_<number>.JPEG. "
                    f"Received: {path!r} with {member.name!r}. Check that it is the archive of "
                    "the validation images."
                )
            members[int(match[1])] = member
        if sorted(members) != list(range(1, len(truth) + 1)):
            raise InputError(
                "The validation images must match the ground truth, numbered from 1. "
                f"Received: {path!r} with {len(members)} images, and {len(truth)} labels in "
                f"{DEVKIT_ARCHIVE}. Download both again."
            )
        images = []
        for number, member in members.items():
            label = truth[number - 1]
            place = f"val/{kit.synsets[label - 1].wnid}/{member.name}"
            images.append(ImageFile(place, label, member.num_bytes, member.offset))
        return tuple(sorted(images, key=lambda image: (image.label, image.path)))


def is_among(folder: str) -> bool:
    """Returns whether the folder holds one of the archives."""
    return any(os.path.isfile(os.path.join(folder, archive)) for archive in ARCHIVES)


class _Member(NamedTuple):
    """A file in a tar: its name without folders, and the position of its content."""

    name: str
    offset: int
    num_bytes: int


class _ClassTask(NamedTuple):
    path: str
    wnid: str
    label: int
    archive: _Member


def _class_images(task: _ClassTask, advance: Callable[[int], None]) -> list[ImageFile]:
    """Lists one class in a worker process: a million headers are spread all over the tar."""
    images = [
        ImageFile(f"train/{task.wnid}/{name}", task.label, num_bytes, offset)
        for name, offset, num_bytes in _members(task.path, task.archive)
    ]
    if not images or len({image.path for image in images}) != len(images):
        raise InputError(
            "Every class archive must hold images with different names. Received: "
            f"{task.archive.name} in {task.path!r} with "
            f"{'the same name twice' if images else 'no images'}. Download the archive again."
        )
    return images


def _members(path: str, archive: _Member | None = None) -> Iterator[_Member]:
    """Yields the files of a tar, or of a tar inside a tar, which must be complete."""
    inside = f"{archive.name} in {path!r}" if archive else f"{path!r}"
    with open(path, "rb", buffering=0) as file:
        start = archive.offset if archive else 0
        end = start + archive.num_bytes if archive else os.fstat(file.fileno()).st_size
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} ends beyond it")
                    if not (member.isfile() or member.isdir()):
                        raise tarfile.ReadError(f"{member.name} is not a regular file")
                    if member.isfile():
                        name = os.path.basename(member.name)
                        yield _Member(name, member.offset_data, member.size)
                # tarfile takes a damaged or missing header for the end of the archive.
                if os.pread(file.fileno(), _TAR_BLOCK, tar.offset) != bytes(_TAR_BLOCK):
                    raise tarfile.ReadError(f"no end marker at byte {tar.offset - start}")
        except tarfile.TarError as error:
            raise InputError(
                f"Every archive must be a complete, uncompressed tar. Received: {inside}, which is "
                f"cut short, damaged or something else ({error}). Download it again."
            ) from error


def _note_counts(kit: ilsvrc2012_devkit.Devkit, images: Sequence[ImageFile]) -> None:
    """Prints the classes whose number of images differs from that in the development kit."""
    counts = [0] * len(kit.synsets)
    for image in images:
        counts[image.label - 1] += 1
    others = [
        f"{synset.wnid} has {count} instead of {synset.num_train_images}"
        for synset, count in zip(kit.synsets, counts, strict=True)
        if count != synset.num_train_images
    ]
    if others:
        print(
            f"note: {len(others)} classes have another number of training images than in the "
            f"development kit: {some(others)}",
            flush=True,
        )
