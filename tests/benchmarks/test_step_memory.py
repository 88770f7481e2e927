import pytest

from benchmarks import step_memory


def test_resident_memory_is_read():
    now, highest = step_memory.resident("VmRSS"), step_memory.resident("VmHWM")
    assert 1e7 < now <= highest < 1e12


@pytest.mark.exhaustive
def test_a_step_of_the_trainer_holds_little_more_than_the_gradients():
    held = step_memory.run("trainer", 1, None)
    assert 0.7 < held["peak"] - held["before"] < 1.6
