import pytest

from benchmarks import loop_overhead
from benchmarks.loop_overhead import BARE, BARE_SKIPPING, FIT, STEPS_PER_CALL, TRAINER, WARM_UP


def test_contenders_run_one_at_a_time_and_in_turn():
    log = []

    def contender(name, steps_per_call):
        def run(total, taken):
            for _ in range(total // steps_per_call):
                log.append(name)
                taken(steps_per_call)

        return run

    contenders = {"a": contender("a", 20), "b": contender("b", 5)}
    times = loop_overhead.take_turns(contenders, steps=20, rounds=2)
    assert log == (["a"] + ["b"] * 4) * (2 + WARM_UP)
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_a_contender_that_fails_does_not_stop_the_others():
    def broken(total, taken):
        raise RuntimeError("broken")

    def whole(total, taken):
        for _ in range(total):
            taken(1)

    with pytest.raises(RuntimeError, match="broken"):
        loop_overhead.take_turns({"broken": broken, "whole": whole}, steps=1, rounds=1)


def test_every_loop_takes_the_steps_that_it_is_asked_for():
    for contend in loop_overhead.contenders().values():
        counts = []
        contend(2 * STEPS_PER_CALL, counts.append)
        assert sum(counts) == 2 * STEPS_PER_CALL


def test_table_and_chart(tmp_path):
    times = {
        TRAINER: [0.2, 0.4, 0.3],
        FIT: [1.0] * 3,
        BARE: [0.25] * 3,
        BARE_SKIPPING: [0.4] * 3,
    }
    rows = loop_overhead.table(times)
    assert rows[0]["to_fit"] == 0.3
    assert rows[0]["to_bare"] == 1.2
    assert rows[0]["to_bare_skipping"] == 0.75
    loop_overhead.chart(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
