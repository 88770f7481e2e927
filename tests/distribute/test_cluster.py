"""Who is in the job, from TF_CONFIG or alone."""

import json

import pytest

from tf_lars.distribute.cluster import Cluster, local, resolve
from tf_lars.errors import InputError


def _environment(**config):
    return {"TF_CONFIG": json.dumps(config)}


def test_without_tf_config_the_process_is_alone():
    cluster = resolve({})
    assert (cluster.num_workers, cluster.rank, cluster.workers) == (1, 0, ())
    assert cluster.is_chief


def test_a_cluster_survives_the_way_through_tf_config():
    cluster = local([2001, 2002, 2003], rank=2)
    found = resolve({"TF_CONFIG": cluster.tf_config()})
    assert found.workers == ("127.0.0.1:2001", "127.0.0.1:2002", "127.0.0.1:2003")
    assert (found.rank, found.num_workers, found.is_chief) == (2, 3, False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "nonsense"}, "must be JSON"),
        ({"TF_CONFIG": "[]"}, "must be JSON"),
        (_environment(cluster={"worker": ["a:1"]}), "must be JSON"),
        (
            _environment(cluster={"ps": ["a:1"]}, task={"type": "ps", "index": 0}),
            "must be JSON",
        ),
        (
            _environment(
                cluster={"chief": ["a:1"], "worker": ["b:1"]}, task={"type": "chief", "index": 0}
            ),
            "type worker only",
        ),
        (
            _environment(cluster={"worker": ["a:1"]}, task={"type": "worker", "index": 1}),
            "rank must be from 0 to 0",
        ),
        (
            _environment(cluster={"worker": ["a:1", "a:1"]}, task={"type": "worker", "index": 0}),
            "an address of its own",
        ),
        (
            _environment(cluster={"worker": ["a"]}, task={"type": "worker", "index": 0}),
            "host:port",
        ),
    ],
)
def test_a_wrong_tf_config_is_one_sentence(environment, message):
    with pytest.raises(InputError, match=message):
        resolve(environment)


def test_an_ipv6_address_is_an_address():
    assert Cluster(("[::1]:2222",), 0).num_workers == 1
