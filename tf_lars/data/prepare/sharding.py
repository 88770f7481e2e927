"""Which image goes into which shard, whatever the images come from."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tf_lars.data.records.dataset_info import SPLITS

BYTES_PER_SHARD = 128 << 20


class ImageFile(NamedTuple):
    """One image file of a source.

    Args:
        path: `train/<class>/<file>` or `val/<class>/<file>`; tells the image from all others.
        label: Its class, counted from 1.
        num_bytes: Its size.
        offset: Where its bytes begin in the file that the source keeps it in.
    """

    path: str
    label: int
    num_bytes: int
    offset: int = 0


@dataclass(frozen=True)
class ImageListing:
    """All images of a source.

    Args:
        synsets: The classes' identifiers, sorted as strings; label 1 is the first.
        class_names: The classes' names for people, in the same order.
        images: The images of "train" and "validation", sorted by class and then by path.
    """

    synsets: tuple[str, ...]
    class_names: tuple[str, ...]
    images: Mapping[str, tuple[ImageFile, ...]]


class ImageSource(Protocol):
    """Where images come from. It is sent to the worker processes, so it holds little."""

    @property
    def name(self) -> str:
        """The data set's name, unless another is given."""

    def list_images(self, num_processes: int) -> ImageListing:
        """Finds all images, on as many processes as are worth it.

        Raises:
            InputError: The source is not laid out as it should be.
        """

    def read(self, image: ImageFile) -> bytes:
        """The bytes of an image file.

        Raises:
            InputError: It cannot be read, or is no longer as it was listed.
        """


@dataclass(frozen=True)
class ShardPlan:
    """The name of a shard and the images that go into it, in order."""

    name: str
    files: tuple[ImageFile, ...]


@dataclass(frozen=True)
class Plan:
    """Which image goes where.

    Args:
        synsets: The classes' identifiers.
        class_names: The classes' names.
        splits: The shards of "train" and "validation".
    """

    synsets: tuple[str, ...]
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
        digest = hashlib.sha256(repr((settings, self.synsets, self.class_names)).encode())
        for shard in self.shards:
            digest.update(repr(shard.name).encode())
            for file in shard.files:
                # Where an archive keeps the image does not matter.
                digest.update(repr(file[:3]).encode())
        return digest.hexdigest()


def make_plan(
    listing: ImageListing, shuffle_seed: int, num_shards: Mapping[str, int | None] | None = None
) -> Plan:
    """Deals images to shards.

    The training images are put in the order of SHA-256(seed, path), a shuffle that is the same
    with every version of every library; validation images stay as listed. Both are dealt to the
    shards in turn, so that shards differ by one image at most and each is a mixture of classes.

    Args:
        listing: The images.
        shuffle_seed: Seed of the training order.
        num_shards: Shards per split; where None, about 128 MiB each. Never more than images.
    """
    splits = {}
    for split in SPLITS:
        files = list(listing.images[split])
        if split == "train":
            files.sort(key=lambda file: _shuffle_key(shuffle_seed, file.path))
        wanted = (num_shards or {}).get(split)
        count = wanted or round(sum(file.num_bytes for file in files) / BYTES_PER_SHARD)
        count = min(max(count, 1), len(files))
        splits[split] = tuple(
            ShardPlan(f"{split}-{index:05d}-of-{count:05d}", tuple(files[index::count]))
            for index in range(count)
        )
    return Plan(listing.synsets, listing.class_names, splits)


def _shuffle_key(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + os.fsencode(path)).digest()
