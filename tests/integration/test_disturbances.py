"""Two real workers of which one is disturbed: what the chief says about it."""

import pytest

from tests.helpers import two_processes


@pytest.mark.slow
def test_a_late_input_and_a_slow_worker_are_named_and_an_undisturbed_run_warns_of_nothing(tmp_path):
    found, others = two_processes.run("tests.helpers.disturbed_worker", tmp_path)
    name = f"worker 1 ({found['workers'][1]})"
    assert set(others) == {"workers"}
    messages = {key: str(value) for key, value in found.items() if key != "workers"}
    assert set(messages) == {"late input", "stopped straggler"}, messages
    assert messages["late input"].startswith(f"{name} waits for its input in ")
    assert messages["stopped straggler"].startswith(f"{name} takes ")
