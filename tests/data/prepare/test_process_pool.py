import os

import pytest

from tf_lars.data.prepare import process_pool
from tf_lars.data.prepare.process_pool import WorkerDeath
from tf_lars.errors import InputError

TASKS = """
import dataclasses
import os
import signal

from tf_lars.data.prepare.process_pool import working_on
from tf_lars.errors import InputError


def square(task, advance):
    advance(1)
    return str(task * task)


def refuse(task, advance):
    raise InputError(f"bad {task}")


def fail(task, advance):
    raise LookupError(f"no {task}")


def die(task, advance):
    os.write(2, b"last words")
    os._exit(9)


@dataclasses.dataclass(frozen=True)
class Items:
    '''Items to work on, named by what happens then.'''

    items: tuple
    folder: str
    skipped: tuple = ()

    def try_alone(self, item):
        self.work_on(item)

    def without(self, item):
        return dataclasses.replace(self, skipped=(*self.skipped, item))

    def work_on(self, item):
        first = not os.path.exists(os.path.join(self.folder, item))
        open(os.path.join(self.folder, item), "w").close()
        if item.startswith("abort"):
            os.abort()
        if item.startswith("kill") or item.startswith("once killed") and first:
            os.kill(os.getpid(), signal.SIGKILL)


def work(task, advance):
    done = []
    for item in task.items:
        if item in task.skipped:
            continue
        if item == "die between items":
            os._exit(7)
        working_on(item)
        task.work_on(item)
        working_on("")
        advance(1)
        done.append(item)
    return done
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "worker_tasks.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import worker_tasks

        yield worker_tasks


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_every_task_is_done_once_and_its_progress_arrives(tasks, num_processes):
    messages = list(process_pool.run_tasks(tasks.square, [1, 2, 3, 4], num_processes))
    assert sorted(m for m in messages if isinstance(m, str)) == ["1", "16", "4", "9"]
    assert sum(m for m in messages if isinstance(m, int)) == 4


def test_no_task_starts_no_process(tasks):
    assert list(process_pool.run_tasks(tasks.square, [], 2)) == []


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("refuse", InputError, "bad 7"),
        ("fail", RuntimeError, "LookupError: no 7"),
        ("die", WorkerDeath, "exit code 9 .*last words"),
    ],
)
def test_the_error_of_a_worker_reaches_the_caller(tasks, name, error, text):
    with pytest.raises(error, match=text):
        list(process_pool.run_tasks(getattr(tasks, name), [7], 1))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_items_that_end_their_worker_are_left_out_and_the_rest_is_done(
    tasks, tmp_path, num_processes
):
    lists = [("a", "abort 1", "b", "kill 2"), ("c",), ("abort 3", "d\udcff")]
    work = [tasks.Items(items, os.fspath(tmp_path)) for items in lists]
    messages = list(process_pool.run_tasks(tasks.work, work, num_processes))
    done = [message for message in messages if isinstance(message, list)]
    assert sorted(done) == [["a", "b"], ["c"], ["d\udcff"]]
    assert sum(message for message in messages if isinstance(message, int)) == 4


@pytest.mark.parametrize(
    ("items", "code", "item"),
    [
        (("a", "once killed", "b"), -9, "once killed"),
        (("a", "die between items", "b"), 7, ""),
        (("abort", "once killed", "b"), -9, "once killed"),
    ],
)
def test_a_death_that_is_not_the_items_fault_is_an_error(tasks, tmp_path, items, code, item):
    work = [tasks.Items(items, os.fspath(tmp_path))]
    with pytest.raises(WorkerDeath, match=f"exit code {code} .*{item}") as caught:
        list(process_pool.run_tasks(tasks.work, work, 1))
    assert (caught.value.exit_code, caught.value.item) == (code, item)


def test_a_machine_on_which_every_item_ends_its_worker_does_not_go_on_for_ever(
    tasks, tmp_path, monkeypatch
):
    monkeypatch.setattr(process_pool, "_MOST_DEADLY_ITEMS", 2)
    items = tuple(f"abort {number}" for number in range(1000))
    with pytest.raises(WorkerDeath, match="while working on abort 2"):
        list(process_pool.run_tasks(tasks.work, [tasks.Items(items, os.fspath(tmp_path))], 1))
