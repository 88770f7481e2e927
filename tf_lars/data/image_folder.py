"""An image folder `train/<class>/*`, `val/<class>/*`, and its division into shards."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tf_lars.data.progress import Progress
from tf_lars.data.records import SPLITS
from tf_lars.errors import InputError

BYTES_PER_SHARD = 128 << 20

_FOLDERS = {"train": ("train",), "validation": ("val", "validation")}
_LAYOUT = "train/<class>/* and val/<class>/*"


class ImageFile(NamedTuple):
    """One image: its path below the input folder, its class counted from 1, its size in bytes."""

    path: str
    label: int
    num_bytes: int


@dataclass(frozen=True)
class ShardPlan:
    """The name of a shard and the images that go into it, in order."""

    name: str
    files: tuple[ImageFile, ...]


@dataclass(frozen=True)
class Plan:
    """Which image goes where.

    Args:
        class_names: The classes' folder names, sorted as strings.
        splits: The shards of "train" and "validation".
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[ShardPlan, ...]]

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """All shards, training first."""
        return tuple(shard for split in SPLITS for shard in self.splits[split])

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return sum(len(shard.files) for shard in self.shards)

    def fingerprint(self, *settings: object) -> str:
        """SHA-256 (hex) over the classes, every image's place and size, and `settings`."""
        digest = hashlib.sha256(repr((settings, self.class_names)).encode())
        for shard in self.shards:
            digest.update(repr(shard.name).encode())
            for file in shard.files:
                digest.update(repr(tuple(file)).encode())
        return digest.hexdigest()


def make_plan(
    input_dir: str, shuffle_seed: int, num_shards: Mapping[str, int | None] | None = None
) -> Plan:
    """Lists an image folder and deals its images to shards.

    The training images are put in the order of SHA-256(seed, path), a shuffle that is the same
    with every version of every library; validation images stay sorted by path. Both are dealt to
    the shards in turn, so that shards differ by one image at most and each is a mixture of
    classes. Hidden files (names that begin with a dot) are left out.

    Args:
        input_dir: Local folder.
        shuffle_seed: Seed of the training order.
        num_shards: Shards per split; where None, about 128 MiB each. Never more than images.

    Raises:
        InputError: The folder is not laid out as above, a class is missing in one split, or a
            class holds no image.
    """
    classes = {split: _classes(_split_dir(input_dir, split)) for split in SPLITS}
    _check_same_classes(classes)
    splits = {}
    for split in SPLITS:
        files = list(_images(input_dir, classes[split]))
        if split == "train":
            files.sort(key=lambda file: _shuffle_key(shuffle_seed, file.path))
        wanted = (num_shards or {}).get(split)
        count = wanted or round(sum(file.num_bytes for file in files) / BYTES_PER_SHARD)
        count = min(max(count, 1), len(files))
        splits[split] = tuple(
            ShardPlan(f"{split}-{index:05d}-of-{count:05d}", tuple(files[index::count]))
            for index in range(count)
        )
    return Plan(tuple(classes["train"]), splits)


def _split_dir(input_dir: str, split: str) -> str:
    if not os.path.isdir(input_dir):
        raise InputError(
            f"The input must be a local folder that holds {_LAYOUT}. Received: {input_dir!r}, "
            "which is no folder. Check the path."
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
    """Folder of every class, sorted by the class name."""
    classes = {}
    for entry in _listing(split_dir):
        if not entry.is_dir():
            raise InputError(
                f"The input folder must hold {_LAYOUT}. Received: the file {entry.path!r} beside "
                "the class folders. Move it into the folder of its class, or away."
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
                f"{len(missing)} in {one} only: {_some(missing)}. Add the class folders to "
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
                        "is no file. Put the images right below the folder of their class."
                    )
                path = os.path.relpath(entry.path, input_dir)
                yield ImageFile(path, label, entry.stat().st_size)
            progress.advance(1)


def _listing(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _shuffle_key(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + os.fsencode(path)).digest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
