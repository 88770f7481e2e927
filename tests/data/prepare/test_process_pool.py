import pytest

from tf_lars.data.prepare import process_pool
from tf_lars.errors import InputError

TASKS = """
import os

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
        ("die", RuntimeError, "exit code 9 .*last words"),
    ],
)
def test_the_error_of_a_worker_reaches_the_caller(tasks, name, error, text):
    with pytest.raises(error, match=text):
        list(process_pool.run_tasks(getattr(tasks, name), [7], 1))
