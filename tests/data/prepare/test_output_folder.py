"""What a power cut, or damage, does to an unfinished preparation."""

import json
import os

import pytest

from tests.data.prepare.test_preparation import (  # noqa: F401 (fixtures)
    config,
    contents,
    in_this_process,
    same_images,
    undisturbed,
)
from tf_lars import files
from tf_lars.data.prepare.output_folder import OutputFolder
from tf_lars.data.prepare.preparation import prepare_images
from tf_lars.errors import InputError


@pytest.fixture
def unfinished(same_images, tmp_path, in_this_process, monkeypatch):  # noqa: F811
    """A folder whose shards are all written, without its dataset.json."""

    def stop(self, info):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_images(config(same_images, tmp_path))
    return tmp_path


def _change(note, **values):
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, **values}))


DAMAGE = {
    "empty": lambda note: note.write_bytes(b""),
    "zeros": lambda note: note.write_bytes(bytes(500)),
    "cut": lambda note: note.write_bytes(note.read_bytes()[:40]),
    "no text": lambda note: note.write_bytes(b"\xff\xfe"),
    "a list": lambda note: note.write_text("[]"),
    "a text": lambda note: note.write_text('"a checksum"'),
    "a number": lambda note: note.write_text("7"),
    "too deep": lambda note: note.write_text("[" * 10**5),
    "no keys": lambda note: note.write_text("{}"),
    "other keys": lambda note: note.write_text('{"plan": 3, "shard": 4}'),
    "another value": lambda note: _change(note, num_resized=5),
    "an earlier version's": lambda note: note.write_text(
        json.dumps({"plan": json.loads(note.read_text())["plan"], "shard": {}})
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_note_counts_as_absent_and_its_shard_is_written_again(
    kind,
    unfinished,
    same_images,  # noqa: F811
    undisturbed,  # noqa: F811
):
    DAMAGE[kind](unfinished / ".prepare" / "train-00001-of-00004.json")
    DAMAGE[kind](unfinished / ".prepare" / "plan.json")
    _, report = prepare_images(config(same_images, unfinished))
    assert (report.shards_written, report.shards_kept) == (1, 5)
    assert contents(unfinished) == contents(undisturbed)


def test_if_all_notes_are_damaged_all_shards_are_written_again(
    unfinished,
    same_images,  # noqa: F811
    undisturbed,  # noqa: F811
):
    for note in (unfinished / ".prepare").iterdir():
        note.write_bytes(b"")
    _, report = prepare_images(config(same_images, unfinished))
    assert (report.shards_written, report.shards_kept) == (6, 0)
    assert contents(unfinished) == contents(undisturbed)


def test_the_notes_of_another_preparation_are_respected(unfinished, same_images):  # noqa: F811
    (unfinished / ".prepare" / "plan.json").write_bytes(b"")
    with pytest.raises(InputError, match="unfinished preparation of other images or settings"):
        prepare_images(config(same_images, unfinished, train_shards=3))


def test_each_file_is_on_its_storage_before_it_gets_its_name(
    same_images,  # noqa: F811
    tmp_path,
    in_this_process,  # noqa: F811
    monkeypatch,
):
    """After what speaks of other files, so is the folder that holds the names."""
    events = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        sync(descriptor)
        status = os.fstat(descriptor)
        events.append(("sync", status.st_ino, status.st_size))

    def rename(source, target):
        status = os.stat(source)
        folder = os.stat(os.path.dirname(target))
        replace(source, target)
        events.append(("rename", target, status.st_ino, status.st_size, folder.st_ino))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    prepare_images(config(same_images, tmp_path))
    renamed = [(i, *event[1:]) for i, event in enumerate(events) if event[0] == "rename"]
    names = {os.path.basename(target) for _, target, *_ in renamed}
    assert {
        "dataset.json",
        "plan.json",
        "train-00000-of-00004",
        "train-00000-of-00004.json",
    } <= names
    assert len(names) == 6 + 6 + 2
    for place, target, inode, size, folder in renamed:
        assert events[place - 1] == ("sync", inode, size), target
        if target.endswith(".json"):
            assert events[place + 1][:2] == ("sync", folder), target


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch):
    sync = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_json(str(tmp_path / "note.json"), {"a": 1})
    assert files.read_json(str(tmp_path / "note.json")) == {"a": 1}
