"""State of an output folder: empty, unfinished, finished, or in use for something else.

While a data set is written, the folder holds finished shards and a folder `.prepare` with a note on
the plan and one on each shard; at the end, `dataset.json` appears and the notes are removed. Notes
have checksums: a damaged one, or one of an earlier version, counts as absent, and its shard is
written again.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tf_lars import files
from tf_lars.data.records.dataset_info import DATASET_FILE, DatasetInfo
from tf_lars.errors import InputError
from tf_lars.sealed_json import CHECKSUM, is_sound, seal

_NOTES = ".prepare"
_PLAN = "plan"
_RULE = "The output folder must be empty or hold this data set."
_SHARD_NAME = re.compile(r"(train|validation)-\d{5}-of-\d{5}")
# Files left by a killed process.
_UNFINISHED_NAME = re.compile(r"\.(train-|validation-|dataset\.json\.).*\.tmp")


def is_unfinished(path: str) -> bool:
    """Returns whether a local folder holds an interrupted preparation."""
    return os.path.isdir(os.path.join(path, _NOTES))


@dataclass(frozen=True)
class OutputFolder:
    """A folder for the data set of one plan.

    Args:
        path: Local or remote folder.
        plan_hash: Hash that identifies the images and settings.
    """

    path: str
    plan_hash: str

    def create(self) -> None:
        """Creates the folder if it does not exist."""
        files.make_folder(self.path)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[tuple[int, ...]]:
        """Locks a local folder against other processes of this machine, which wait.

        Yields the file descriptors that hold the lock. A process that inherits them prolongs it, so
        no other process starts while a worker of a killed caller may still write.
        """
        if files.is_remote(self.path):
            yield ()
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            # Some network file systems cannot lock; there, concurrent calls are the caller's risk.
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print(f"waiting for another process that writes to {self.path}", flush=True)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield (descriptor,)
        finally:
            os.close(descriptor)

    def finished_dataset(self, overwrite: bool) -> DatasetInfo | None:
        """Returns the data set if the folder holds it already; None if it may be written there.

        Args:
            overwrite: Whether to remove a finished data set, or an unfinished one of another plan.

        Raises:
            InputError: The folder holds anything else.
        """
        finished = files.exists(self._dataset_file)
        unfinished = None if finished else self._unfinished_plan()
        if overwrite and (finished or unfinished not in (None, self.plan_hash)):
            self._clear()
            finished, unfinished = False, None
        if finished:
            if DatasetInfo.read(self.path).settings.get("plan") != self.plan_hash:
                raise self._occupied("a data set of other images or settings")
            try:
                return DatasetInfo.load(self.path)
            except InputError:  # a shard is missing or cut short: write it again
                self.begin()
                files.remove(self._dataset_file)
                return None
        if unfinished is None:
            names = files.names(self.path)
            if names:
                raise InputError(
                    f"{_RULE} Received: {self.path!r} with other files ({', '.join(names[:3])}). "
                    "Choose another folder."
                )
        elif unfinished != self.plan_hash:
            raise self._occupied("an unfinished preparation of other images or settings")
        return None

    def begin(self) -> None:
        """Notes the plan that is being executed."""
        files.make_folder(self._notes)
        self.write_note(_PLAN, {})

    def finish(self, info: DatasetInfo) -> None:
        """Writes `dataset.json` and removes the notes."""
        info.save(self.path)
        self.tidy()

    def tidy(self) -> None:
        """Removes the notes of a data set that is finished."""
        self._remove(_UNFINISHED_NAME)
        files.remove_folder(self._notes)

    def write_note(self, name: str, content: Mapping[str, Any]) -> None:
        """Notes something about the shard `name`."""
        note = seal({"plan": self.plan_hash, **content})
        files.write_json(self._note_path(name), note)

    def read_note(self, name: str) -> Mapping[str, Any] | None:
        """Returns the note on the shard `name` for this plan, if there is one."""
        note = _read_note(self._note_path(name))
        is_ours = note.get("plan") == self.plan_hash and CHECKSUM in note
        return note if is_ours else None

    @property
    def _dataset_file(self) -> str:
        return os.path.join(self.path, DATASET_FILE)

    @property
    def _notes(self) -> str:
        return os.path.join(self.path, _NOTES)

    def _note_path(self, name: str) -> str:
        return os.path.join(self._notes, f"{name}.json")

    def _unfinished_plan(self) -> str | None:
        """Returns the plan of an interrupted preparation, if there is one.

        Any note tells it. If all are damaged, no shard can be kept, and it may as well be this one.
        """
        if not files.is_folder(self._notes):
            return None
        for name in (f"{_PLAN}.json", *files.names(self._notes)):
            plan = _read_note(os.path.join(self._notes, name)).get("plan")
            if isinstance(plan, str):
                return plan
        return self.plan_hash

    def _clear(self) -> None:
        # First the file that makes the folder look complete.
        files.remove(self._dataset_file)
        self._remove(_SHARD_NAME)
        self._remove(_UNFINISHED_NAME)
        files.remove_folder(self._notes)

    def _remove(self, pattern: re.Pattern) -> None:
        for name in files.names(self.path, hidden=True):
            if pattern.fullmatch(name):
                files.remove(os.path.join(self.path, name))

    def _occupied(self, content: str) -> InputError:
        return InputError(
            f"{_RULE} Received: {self.path!r} with {content}. Choose another folder, or set "
            "overwrite."
        )


def _read_note(path: str) -> Mapping[str, Any]:
    """Returns a note; an empty one if it is absent or damaged."""
    try:
        note = files.read_json(path) if files.exists(path) else {}
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) and is_sound(note) else {}
