"""The processes of a job, their addresses and ranks."""

import pytest

from tf_lars.cluster.spec import Cluster
from tf_lars.errors import InputError


def test_an_ipv6_address_is_an_address():
    assert Cluster(("[::1]:2222",), 0).num_workers == 1


def test_several_workers_of_a_host_follow_each_other_in_rank_and_port():
    views = Cluster(("a:1", "b:1"), 1).with_workers_per_host(2)
    assert [view.rank for view in views] == [2, 3]
    assert {view.workers for view in views} == {("a:1", "a:2", "b:1", "b:2")}


def test_where_only_the_first_is_known_the_others_are_named_by_rank():
    cluster = Cluster(("head:1", "", ""), 2, "test")
    assert cluster.lacks_addresses
    assert (cluster.hosts, cluster.num_workers) == (("head",), 3)
    assert [cluster.name(rank) for rank in (0, 2)] == ["worker 0 (head:1)", "worker 2"]
    views = cluster.with_workers_per_host(2)
    assert [view.rank for view in views] == [4, 5]
    assert views[0].workers == ("head:1", "", "", "", "", "")
    assert not Cluster(("head:1",), 0).lacks_addresses


def test_some_unknown_addresses_are_refused():
    with pytest.raises(InputError, match=r"form host:port. Received: '' from"):
        Cluster(("a:1", "b:1", ""), 0)
