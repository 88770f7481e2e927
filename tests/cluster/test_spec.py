"""Cluster discovery from flags, TF_CONFIG, Slurm, a JobSet, or none of them."""

import json
import re

import pytest

from tf_lars.cluster.spec import Cluster, local_cluster, resolve_cluster
from tf_lars.errors import InputError


def _environment(**config):
    return {"TF_CONFIG": json.dumps(config)}


def test_without_tf_config_the_process_is_alone():
    cluster = resolve_cluster({})
    assert (cluster.num_workers, cluster.rank, cluster.workers) == (1, 0, ())
    assert cluster.is_chief


def test_a_cluster_survives_the_way_through_tf_config():
    cluster = local_cluster([2001, 2002, 2003], rank=2)
    found = resolve_cluster({"TF_CONFIG": cluster.tf_config()})
    assert found.workers == ("127.0.0.1:2001", "127.0.0.1:2002", "127.0.0.1:2003")
    assert (found.rank, found.num_workers, found.is_chief) == (2, 3, False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "nonsense"}, "must be JSON"),
        ({"TF_CONFIG": "[]"}, "must be JSON"),
        ({"TF_CONFIG": "{}"}, "Received: none with a cluster"),
        (_environment(cluster={}, task={"type": "worker", "index": 0}), "Received: cluster {}"),
        (_environment(cluster={"worker": ["a:1"]}), "Received: none with a task"),
        (_environment(task={"type": "worker", "index": 0}), "Received: none with a cluster"),
        (
            _environment(sparseCluster={"worker": {"1": "a:1"}}, task={"type": "worker"}),
            "Received: a sparseCluster. Turn dynamic workers off",
        ),
        (
            _environment(cluster={"worker": {"0": "a:1"}}, task={"type": "worker", "index": 0}),
            "list all tasks of the type worker. Received: a dictionary",
        ),
        (
            _environment(cluster={"worker": "a:1,b:1"}, task={"type": "worker", "index": 0}),
            "a list of addresses for worker. Received: 'a:1,b:1'",
        ),
        (
            _environment(cluster={"worker": ["a:1"]}, task={"type": "worker"}),
            "give this task an index. Received: None",
        ),
        (
            _environment(
                cluster={"worker": ["a:1"], "evaluator": ["b:1"]},
                task={"type": "evaluator", "index": 0},
            ),
            "Training evaluates by itself",
        ),
        (
            _environment(cluster={"ps": ["a:1"]}, task={"type": "ps", "index": 0}),
            "types chief and worker, for synchronous training. Received: a task of the type 'ps'",
        ),
        (
            _environment(
                cluster={"chief": ["a:1", "c:1"], "worker": ["b:1"]},
                task={"type": "chief", "index": 0},
            ),
            "have one chief. Received: 2",
        ),
        (
            _environment(cluster={"worker": ["a:1"]}, task={"type": "worker", "index": 1}),
            "an index from 0 to 0",
        ),
        (
            _environment(cluster={"worker": ["a:1"]}, task={"type": "chief", "index": 0}),
            "list the tasks of this one's type",
        ),
        (
            _environment(cluster={"worker": ["a:1", "a:1"]}, task={"type": "worker", "index": 0}),
            "must have a different address",
        ),
        (
            _environment(cluster={"worker": ["a"]}, task={"type": "worker", "index": 0}),
            "host:port",
        ),
        (
            _environment(cluster={"worker": ["a:70000"]}, task={"type": "worker", "index": 0}),
            "port must be from 1 to 65535",
        ),
        (
            {
                **_environment(
                    cluster={"worker": ["a:1", "b:1"]}, task={"type": "worker", "index": 0}
                ),
                "SLURM_STEP_NUM_TASKS": "4",
            },
            "2 in it, and 4 Slurm tasks. Unset it",
        ),
    ],
)
def test_a_wrong_tf_config_is_one_sentence(environment, message):
    with pytest.raises(InputError, match=message):
        resolve_cluster(environment)


@pytest.mark.parametrize(("kind", "index", "rank"), [("chief", 0, 0), ("worker", 1, 2)])
def test_a_chief_comes_before_the_workers(kind, index, rank):
    hosts = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "evaluator": ["d:1"]}
    cluster = resolve_cluster(_environment(cluster=hosts, task={"type": kind, "index": index}))
    assert (cluster.workers, cluster.rank) == (("a:1", "b:1", "c:1"), rank)


def test_a_chief_without_workers_is_a_cluster_of_one():
    alone = {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": "0"}}
    cluster = resolve_cluster(_environment(**alone, environment="cloud"))
    assert (cluster.num_workers, cluster.is_chief) == (1, True)


def _vertex(kind, index, **more):
    pools = {"workerpool0": ["a:2222"], "workerpool1": ["b:2222", "c:2222"], **more}
    task = {"type": kind, "index": index, "trial": "1"}
    return {"CLUSTER_SPEC": json.dumps({"cluster": pools, "environment": "cloud", "task": task})}


def test_the_pools_of_vertex_follow_each_other():
    chief = resolve_cluster(_vertex("workerpool0", 0))
    assert (chief.workers, chief.rank) == (("a:2222", "b:2222", "c:2222"), 0)
    assert resolve_cluster(_vertex("workerpool1", 1, workerpool2=[])).rank == 2
    tf_config = local_cluster([2001, 2002]).tf_config()
    both = {**_vertex("workerpool0", 0), "TF_CONFIG": tf_config}
    assert resolve_cluster(both).num_workers == 2


def test_the_hosts_of_sagemaker_are_ranked_by_name():
    hosts = {"SM_HOSTS": '["algo-2", "algo-1"]', "SM_CURRENT_HOST": "algo-2"}
    cluster = resolve_cluster(hosts)
    assert (cluster.workers, cluster.rank) == (("algo-1:2222", "algo-2:2222"), 1)
    assert resolve_cluster({**hosts, "SM_HOSTS": '["algo-2"]'}).workers == ()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CLUSTER_SPEC": "nonsense"}, "CLUSTER_SPEC must be JSON"),
        ({"CLUSTER_SPEC": "{}"}, "CLUSTER_SPEC must be like"),
        (_vertex("workerpool2", 0, workerpool2=["d:1"]), "Leave out the pools of parameter"),
        (_vertex("workerpool1", 2), "rank must be from 0 to 2"),
        ({"SM_HOSTS": "algo-1"}, "SM_HOSTS must be like"),
        ({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-3"}, "must be one of SM_HOSTS"),
    ],
)
def test_a_wrong_variable_of_a_platform_is_one_sentence(environment, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve_cluster(environment)
    assert len(str(caught.value).splitlines()) == 1


def test_an_ipv6_address_is_an_address():
    assert Cluster(("[::1]:2222",), 0).num_workers == 1


STEP = {
    "SLURM_JOB_ID": "41234",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[1-2,7]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2),2",
    "SLURM_PROCID": "3",
}
JOBSET = {
    "JOBSET_NAME": "train",
    "JOBSET_REPLICATED_JOB": "worker",
    "JOBSET_JOB_INDEX": "0",
    "JOBSET_NUM_PODS": "2",
    "JOB_COMPLETION_INDEX": "1",
}


def scontrol(arguments):
    """Returns scontrol's output for three nodes, one with an address different from its name."""
    if arguments[:2] == ["show", "hostnames"]:
        return "gpu1\ngpu2\ngpu7\n"
    assert arguments == ["--oneliner", "show", "node", "gpu[1-2,7]"]
    return (
        "NodeName=gpu1 Arch=x86_64 NodeAddr=10.0.0.1 NodeHostName=gpu1 \n"
        "NodeName=gpu2 Arch=x86_64 NodeAddr=gpu2 NodeHostName=gpu2 \n"
    )


def test_a_slurm_step_gives_each_task_an_address():
    cluster = resolve_cluster(STEP, scontrol=scontrol)
    # 20000 + 41234 % 12000 = 25234
    assert cluster.workers == ("10.0.0.1:25234", "gpu2:25235", "gpu7:25236", "gpu7:25237")
    assert (cluster.rank, cluster.source) == (3, "Slurm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_STEP_NODELIST": ""}, "must start its workers with srun"),
        ({"SLURM_JOB_NUM_NODES": "4"}, "a step on 3 of 4 nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4"}, "1 counts for the 3 nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "many"}, "not a list like"),
        ({"SLURM_PROCID": ""}, "Start it with srun"),
    ],
)
def test_a_wrong_slurm_step_is_one_sentence(change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        resolve_cluster({**STEP, **change}, scontrol=scontrol)


def test_a_single_slurm_task_without_srun_is_alone():
    assert resolve_cluster({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}).workers == ()


def test_a_missing_scontrol_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="needs scontrol"):
        resolve_cluster(STEP)


def test_a_pod_of_a_jobset_finds_the_others_by_their_dns_names():
    cluster = resolve_cluster(JOBSET)
    assert cluster.workers == ("train-worker-0-0.train:2222", "train-worker-0-1.train:2222")
    assert (cluster.rank, cluster.source) == (1, "the Kubernetes JobSet")
    with pytest.raises(InputError, match="JOBSET_NUM_PODS"):
        resolve_cluster({k: v for k, v in JOBSET.items() if k != "JOBSET_NUM_PODS"})


def test_flags_win_over_tf_config_and_that_over_slurm_and_that_over_a_jobset():
    config = {"TF_CONFIG": local_cluster([2001, 2002, 2003, 2004]).tf_config()}
    everything = {**JOBSET, **STEP, **config}
    hosts = {"worker_hosts": ["a:1", "b:1"], "task_index": 1}
    assert resolve_cluster(everything, scontrol=scontrol, **hosts).workers == ("a:1", "b:1")
    assert resolve_cluster(everything, scontrol=scontrol).workers[0] == "127.0.0.1:2001"
    assert resolve_cluster({**JOBSET, **STEP}, scontrol=scontrol).source == "Slurm"


def test_hosts_and_index_come_together():
    with pytest.raises(InputError, match="needs --task_index"):
        resolve_cluster({}, worker_hosts=["a:1"])
    with pytest.raises(InputError, match="without them"):
        resolve_cluster({}, task_index=0)


def test_several_workers_of_a_host_follow_each_other_in_rank_and_port():
    views = Cluster(("a:1", "b:1"), 1).with_workers_per_host(2)
    assert [view.rank for view in views] == [2, 3]
    assert {view.workers for view in views} == {("a:1", "a:2", "b:1", "b:2")}
