"""All-reduces in closed form, and networks."""

import pytest

from tf_lars.errors import InputError
from tf_lars.planner import communication
from tf_lars.planner.communication import Network, all_reduce

LINK = Network("link", latency=1e-6, seconds_per_byte=1e-10)
NODE = Network("node", latency=2e-6, seconds_per_byte=4e-12)
N = 1e8


@pytest.mark.parametrize(
    ("algorithm", "p", "seconds"),
    [
        ("ring", 8, 2 * 7 * 1e-6 + 2 * 7 / 8 * N * 1e-10),
        ("halving_doubling", 8, 2 * 3 * 1e-6 + 2 * 7 / 8 * N * 1e-10),
        ("halving_doubling", 6, 2 * 3 * 1e-6 + 2 * 5 / 6 * N * 1e-10),
        ("tree", 2048, 11 * (1e-6 + N * 1e-10)),
        ("tree", 1600, 11 * (1e-6 + N * 1e-10)),
        (
            "two_level",
            32,
            2 * 7 * 2e-6 + 2 * 7 / 8 * N * 4e-12 + 2 * 3 * 1e-6 + 2 * 3 / 4 * N / 8 * 1e-10,
        ),
        (
            "torus",
            32,  # 4 by 8
            2 * 3e-6 + 2 * 3 / 4 * N * 1e-10 + 2 * 7e-6 + 2 * 7 / 8 * N / 4 * 1e-10,
        ),
        ("torus", 7, 2 * 6e-6 + 2 * 6 / 7 * N * 1e-10),  # a prime: a ring
    ],
)
def test_closed_forms(algorithm, p, seconds):
    assert all_reduce(algorithm, p, N, LINK, NODE, 8) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("algorithm", communication.ALGORITHMS)
def test_one_device_sends_nothing(algorithm):
    assert all_reduce(algorithm, 1, N, LINK) == 0


def test_two_level_without_a_link_of_its_own_uses_the_network():
    assert all_reduce("two_level", 8, N, LINK, None, 8) == all_reduce("ring", 8, N, LINK)


def test_a_ring_is_bound_by_latency_on_many_devices_and_halving_is_not():
    small = 1e4
    assert all_reduce("ring", 4096, small, LINK) > 100 * all_reduce(
        "halving_doubling", 4096, small, LINK
    )


def test_networks_by_name_and_by_numbers():
    assert communication.network("fdr").seconds_per_byte == pytest.approx(0.2e-9)
    given = communication.network("1.5:200")
    assert given.latency == pytest.approx(1.5e-6)
    assert given.seconds_per_byte == pytest.approx(8 / 200e9)
    assert all(link.source for link in communication.networks().values())


@pytest.mark.parametrize("text", ["ethernet", "1:0", "1:-5", "x:100", "1:2:3", "nan:1"])
def test_an_unknown_network_is_told_what_is_known(text):
    with pytest.raises(InputError, match=r"one of fdr, qdr, 10gbe.*LATENCY_US:GIGABITS.*Received"):
        communication.network(text)


def test_an_unknown_algorithm_is_told_what_is_known():
    with pytest.raises(InputError, match=r"one of ring, halving_doubling, tree.*'butterfly'"):
        all_reduce("butterfly", 2, N, LINK)
