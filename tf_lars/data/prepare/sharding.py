"""Assignment of images to shards, for any source of images."""

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
        path: `train/<class>/<file>` or `val/<class>/<file>`, which identifies the image.
        label: Class, counted from 1.
        num_bytes: Size in bytes.
        offset: Position of the first byte in the file that holds the image.
    """

    path: str
    label: int
    num_bytes: int
    offset: int = 0


@dataclass(frozen=True)
class ImageListing:
    """All images of a source.

    Args:
        synsets: Identifiers of the classes, sorted as strings; the first has label 1.
        class_names: Readable names of the classes, in the same order.
        images: Images of "train" and "validation", sorted by class and then by path.
    """

    synsets: tuple[str, ...]
    class_names: tuple[str, ...]
    images: Mapping[str, tuple[ImageFile, ...]]


class ImageSource(Protocol):
    """A source of images; small, as it is sent to the worker processes."""

    @property
    def name(self) -> str:
        """Name of the data set, unless another is given."""

    def list_images(self, num_processes: int) -> ImageListing:
        """Finds all images.

        Args:
            num_processes: Maximum number of processes to use.

        Raises:
            InputError: The source has another layout.
        """

    def read(self, image: ImageFile) -> bytes:
        """Returns the bytes of an image file.

        Raises:
            InputError: The file cannot be read, or has changed since it was listed.
        """


@dataclass(frozen=True)
class ShardPlan:
    """Name of a shard and its images, in order."""

    name: str
    files: tuple[ImageFile, ...]


@dataclass(frozen=True)
class Plan:
    """Assignment of all images to shards.

    Args:
        synsets: Identifiers of the classes.
        class_names: Names of the classes.
        splits: Shards of "train" and "validation".
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
        """Number of images in all shards."""
        return sum(len(shard.files) for shard in self.shards)

    def fingerprint(self, *settings: object) -> str:
        """Returns the SHA-256 (hex) of the classes, every image's place and size, and settings."""
        digest = hashlib.sha256(repr((settings, self.synsets, self.class_names)).encode())
        for shard in self.shards:
            digest.update(repr(shard.name).encode())
            for file in shard.files:
                # The position of the image in an archive does not matter.
                digest.update(repr(file[:3]).encode())
        return digest.hexdigest()


def make_plan(
    listing: ImageListing, shuffle_seed: int, num_shards: Mapping[str, int | None] | None = None
) -> Plan:
    """Deals images to shards.

    Training images are sorted by SHA-256(seed, path), a shuffle that is the same with every version
    of every library; validation images stay as listed. Both are dealt to the shards in turn, so
    that shards differ by at most one image and each is a mixture of classes.

    Args:
        listing: Images to deal.
        shuffle_seed: Seed of the order of the training images.
        num_shards: Number of shards per split, at most that of images; None for shards of about
            128 MiB.
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
