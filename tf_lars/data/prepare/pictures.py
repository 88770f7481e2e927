"""Pictures from anywhere, encoded like the images of a data set."""

import contextlib
from collections.abc import Callable, Sequence

from tf_lars.data.prepare.encode import EncodingSettings, to_jpeg
from tf_lars.data.prepare.image_header import BadImage
from tf_lars.data.prepare.process_pool import WorkerDeath, run_tasks, working_on


def encode_pictures(paths: Sequence[str], encoding: EncodingSettings) -> list[bytes]:
    """Returns pictures as JPEG files, decoded in another process, which a decoder may crash.

    Args:
        paths: Local files.
        encoding: Settings of the data set.

    Raises:
        BadImage: A file cannot be read or decoded, or crashes its decoder; the message names it.
    """
    tasks = [(tuple(paths), encoding)]
    try:
        with contextlib.closing(run_tasks(_encode, tasks, num_processes=1)) as messages:
            (encoded,) = messages
    except WorkerDeath as death:
        if not death.item:
            raise
        raise BadImage(
            f"{death.item!r} (its decoder ended with exit code {death.exit_code})"
        ) from death
    for bad in encoded[-1:]:
        if isinstance(bad, BadImage):
            raise bad
    return encoded


def _encode(
    task: tuple[Sequence[str], EncodingSettings], advance: Callable[[int], None]
) -> list[bytes | BadImage]:
    """Encodes pictures in a worker process, up to the first bad one."""
    paths, encoding = task
    pictures: list[bytes | BadImage] = []
    for path in paths:
        working_on(path)
        try:
            with open(path, "rb") as file:
                pictures.append(to_jpeg(file.read(), encoding).data)
        except (OSError, BadImage) as error:
            pictures.append(BadImage(f"{path!r} ({error})"))
            break
    working_on("")
    return pictures
