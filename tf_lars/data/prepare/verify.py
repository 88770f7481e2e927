"""Checks every shard of a prepared data set against its SHA-256."""

import os
from concurrent.futures import ThreadPoolExecutor

from tf_lars import files
from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.records.dataset_info import DATASET_FILE, DatasetInfo, ShardInfo
from tf_lars.errors import InputError


def verify(data_dir: str | os.PathLike[str]) -> DatasetInfo:
    """Reads every shard and compares its SHA-256 with `dataset.json`.

    Raises:
        InputError: A shard differs (the message names the first ten), or `DatasetInfo.load` fails.
    """
    data_dir = os.fspath(data_dir)
    info = DatasetInfo.load(data_dir)
    shards = [shard for split in info.splits.values() for shard in split.shards]

    def is_whole(shard: ShardInfo) -> bool:
        return files.hash_file(os.path.join(data_dir, shard.name))[1] == shard.sha256

    damaged = []
    # Hashing releases the interpreter lock, so threads use every core.
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress("verify", len(shards), "shards") as progress,
    ):
        for shard, whole in zip(shards, pool.map(is_whole, shards), strict=True):
            progress.advance(1)
            if not whole:
                damaged.append(shard.name)
    if damaged:
        raise InputError(
            f"Every shard must have the SHA-256 recorded in {DATASET_FILE}. Received: "
            f"{len(damaged)} of {len(shards)} that differ in {data_dir!r}: "
            f"{', '.join(damaged[:10])}. Copy the data set again, or prepare it with overwrite."
        )
    return info
