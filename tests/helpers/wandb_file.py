"""Reads what W&B has written without the network."""

import json
import struct

BLOCK = 1 << 15
HEADER = struct.Struct("<IHB")
START = 7
"""Bytes before the first record: ":W&B", a number and a version."""

WHOLE_OR_LAST = (1, 4)


def _records(content):
    """Gives the records of a file in LevelDB's format of logs."""
    record, position = b"", START
    while position + HEADER.size <= len(content):
        if BLOCK - position % BLOCK < HEADER.size:  # the rest of a block has no room for a header
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, position)
        position += HEADER.size
        record += content[position : position + length]
        position += length
        if kind in WHOLE_OR_LAST:
            yield record
            record = b""


def history(folder):
    """Returns what the only run in a folder has logged: one dictionary per call of `wandb.log`."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    rows = []
    for record in _records(path.read_bytes()):
        message = wandb_internal_pb2.Record.FromString(record)
        if message.WhichOneof("record_type") == "history":
            items = message.history.item
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in items
                }
            )
    return rows
