"""Workers are exempt from gRPC's proxy; `tests.conftest.finished` trains two behind one."""

import pytest

from tf_lars.cluster import proxies
from tf_lars.cluster.spec import Cluster

PROXY = "http://127.0.0.1:9"
CLUSTER = Cluster(("10.0.0.1:2222", "node1:2222", "node1:2223", "[fd00::2]:2222"))


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "10.0.0.1,node1,fd00::2"),
        ({"no_proxy": "a.example, node1,"}, "a.example,node1,10.0.0.1,fd00::2"),
        ({"no_grpc_proxy": "b", "no_proxy": "a"}, "b,10.0.0.1,node1,fd00::2"),
        ({"no_grpc_proxy": "", "no_proxy": "a"}, "10.0.0.1,node1,fd00::2"),
    ],
)
def test_workers_are_added_to_the_hosts_that_grpc_exempts(variable, before, after):
    environment = {variable: PROXY, **before}
    for _ in range(2):
        proxies.bypass(CLUSTER.hosts, environment)
        assert environment == {variable: PROXY, **before, "no_grpc_proxy": after}


@pytest.mark.parametrize("environment", [{}, {"https_proxy": ""}, {"HTTPS_PROXY": PROXY}])
def test_without_a_proxy_that_grpc_uses_nothing_changes(environment):
    before = dict(environment)
    proxies.bypass(CLUSTER.hosts, environment)
    assert environment == before
