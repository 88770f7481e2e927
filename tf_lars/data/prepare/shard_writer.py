"""Writes images into one shard: the task of a worker process of the preparation."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from tf_lars import files
from tf_lars.data.prepare.encode import EncodedImage, EncodingSettings, to_jpeg
from tf_lars.data.prepare.image_header import BadImage
from tf_lars.data.prepare.output_folder import OutputFolder
from tf_lars.data.prepare.process_pool import working_on
from tf_lars.data.prepare.sharding import ImageFile, ImageSource, ShardPlan
from tf_lars.data.records.dataset_info import ShardInfo
from tf_lars.data.records.example import example_bytes
from tf_lars.data.records.tfrecord import write_shard

_IMAGES_PER_MESSAGE = 64


class FileNote(NamedTuple):
    """An image that was re-encoded or refused, and its format or fault."""

    file: str
    reason: str


@dataclass(frozen=True)
class ShardTask:
    """A shard to write, and everything needed to do so; a `process_pool.Separable` task.

    Args:
        source: Source of the images.
        output: Folder for the shard.
        encoding: Settings of how images are stored.
        synsets: Identifiers of the classes.
        class_names: Names of the classes.
        shard: Name and images of the shard.
        deadly: Paths of files whose decoding ends the process, to be refused.
    """

    source: ImageSource
    output: OutputFolder
    encoding: EncodingSettings
    synsets: tuple[str, ...]
    class_names: tuple[str, ...]
    shard: ShardPlan
    deadly: tuple[str, ...] = ()

    def try_alone(self, path: str) -> None:
        """Encodes one image; its result does not matter."""
        (file,) = (file for file in self.shard.files if file.path == path)
        with contextlib.suppress(BadImage):
            self.encoded(file)

    def without(self, path: str) -> "ShardTask":
        """Returns the task with one more deadly file."""
        return replace(self, deadly=(*self.deadly, path))

    def encoded(self, file: ImageFile) -> EncodedImage:
        """Reads and encodes an image.

        Raises:
            BadImage: It cannot be decoded.
        """
        if file.path in self.deadly:
            raise BadImage("crashes the decoder")
        data = self.source.read(file)
        working_on(file.path)
        try:
            return to_jpeg(data, self.encoding)
        finally:
            working_on("")


@dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Args:
        shard: Name, size and hash of the shard.
        reencoded: Images whose format was changed.
        refused: Files that are not intact images, and so not in the shard.
        num_resized: Number of images made smaller.
        num_oriented: Number of images with an EXIF orientation other than upright.
        kept: Whether an earlier call wrote the shard.
    """

    shard: ShardInfo
    reencoded: tuple[FileNote, ...]
    refused: tuple[FileNote, ...]
    num_resized: int
    num_oriented: int
    kept: bool = False


def write_task(task: ShardTask, advance: Callable[[int], None]) -> ShardResult:
    """Writes a shard and a note on it, unless an intact shard with a note exists.

    Args:
        task: Shard to write.
        advance: Function called with the number of images done since the last call.
    """
    result = _kept_shard(task)
    if result is not None:
        advance(len(task.shard.files))
        return result
    reencoded: list[FileNote] = []
    refused: list[FileNote] = []
    num_resized = num_oriented = 0

    def examples() -> Iterator[bytes]:
        nonlocal num_resized, num_oriented
        for done, file in enumerate(task.shard.files, start=1):
            if done % _IMAGES_PER_MESSAGE == 0:
                advance(_IMAGES_PER_MESSAGE)
            try:
                image = task.encoded(file)
            except BadImage as bad:
                refused.append(FileNote(file.path, str(bad)))
                continue
            if image.reencoded_from is not None:
                reencoded.append(FileNote(file.path, image.reencoded_from))
            num_resized += image.resized
            num_oriented += image.oriented
            yield example_bytes(
                encoded=image.data,
                label=file.label,
                synset=task.synsets[file.label - 1],
                text=task.class_names[file.label - 1],
                filename=os.path.basename(file.path),
                height=image.header.height,
                width=image.header.width,
                channels=image.header.channels,
            )
        advance(len(task.shard.files) % _IMAGES_PER_MESSAGE)

    shard = write_shard(os.path.join(task.output.path, task.shard.name), examples())
    result = ShardResult(shard, tuple(reencoded), tuple(refused), num_resized, num_oriented)
    task.output.write_note(task.shard.name, asdict(result))
    return result


def _kept_shard(task: ShardTask) -> ShardResult | None:
    """Returns the result noted by an earlier call of the same plan, if the shard is unchanged."""
    path = os.path.join(task.output.path, task.shard.name)
    note = task.output.read_note(task.shard.name)
    if note is None or not files.exists(path):
        return None
    shard = ShardInfo(**note["shard"])
    if files.hash_file(path) != (shard.num_bytes, shard.sha256):
        return None
    reencoded, refused = (
        tuple(FileNote(*entry) for entry in note[kind]) for kind in ("reencoded", "refused")
    )
    counts = note["num_resized"], note["num_oriented"]
    return ShardResult(shard, reencoded, refused, *counts, kept=True)
