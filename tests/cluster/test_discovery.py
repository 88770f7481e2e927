"""Cluster discovery from flags and the environment."""

import json
import re

import pytest

from tests.helpers import environments
from tests.helpers.paths import ROOT
from tf_lars.cluster import platforms
from tf_lars.cluster.discovery import check_alone, resolve_cluster
from tf_lars.cluster.spec import local_cluster
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


def test_a_container_of_sagemaker_without_its_toolkit_reads_its_file(monkeypatch, tmp_path):
    path = tmp_path / "resourceconfig.json"
    monkeypatch.setattr(platforms, "RESOURCE_CONFIG", str(path))
    job = {"TRAINING_JOB_NAME": "train"}
    assert resolve_cluster(job).workers == ()
    path.write_text('{"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}')
    cluster = resolve_cluster(job)
    assert (cluster.workers, cluster.rank) == (("algo-1:2222", "algo-2:2222"), 1)
    with pytest.raises(InputError, match="Received: 2 processes, by SM_HOSTS"):
        check_alone("launch.local", job)


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


ALL = environments.ENVIRONMENTS
_each = pytest.mark.parametrize("environment", ALL, ids=[one.name for one in ALL])


@_each
def test_each_process_of_a_job_finds_the_others_or_the_first(environment):
    for rank in (0, 1):
        cluster = environment.resolve(rank)
        assert (cluster.workers, cluster.rank) == (environment.workers, rank)
        assert cluster.lacks_addresses == (not environment.workers[1])


def _size_or_sentence(environment, missing):
    try:
        return environment.resolve(1, missing).num_workers
    except InputError as error:
        return str(error)


@_each
def test_without_one_of_its_variables_no_process_trains_alone(environment):
    for missing in environment.variables[1]:
        rest = [value for name, value in environment.variables[1].items() if name != missing]
        found = _size_or_sentence(environment, missing)
        if isinstance(found, str):
            assert len(found.splitlines()) == 1
        elif "2" in rest or "n[1-2]" in rest:  # something else says how many there are
            assert found == 2, missing


@_each
def test_a_program_that_trains_alone_refuses_to_be_one_of_several(environment):
    for variables in environment.variables:
        with pytest.raises(InputError, match=r"launch.local trains with one process.*Received: 2"):
            check_alone("launch.local", variables)
    check_alone("launch.local", dict.fromkeys(environments.sizes(), "1"))


def test_the_documentation_has_the_table_of_environments():
    assert environments.table() in (ROOT / "docs" / "cluster.md").read_text()


def _of(name):
    return next(one for one in ALL if name in one.name)


def test_torchrun_keeps_its_port_and_shares_the_gpus_of_its_host():
    cluster = _of("torchrun").resolve(1)
    assert cluster.workers[0] == "head:29501"
    assert (cluster.local_rank, cluster.local_size) == (1, 2)
    assert _of("torchrun").resolve(1, "TORCHELASTIC_USE_AGENT_STORE").workers[0] == "head:29500"


def test_without_a_coordinator_the_remedy_is_named():
    for name in ("torchrun", "Open MPI", "MPICH", "horovodrun", "Indexed Job"):
        with pytest.raises(InputError, match=r"--coordinator=HOST:PORT.*or set MASTER_ADDR"):
            _of(name).resolve(0, "MASTER_ADDR")
    with pytest.raises(InputError, match=r"or set PET_MASTER_ADDR and PET_MASTER_PORT"):
        _of("Kubeflow Trainer").resolve(0, "PET_MASTER_ADDR")


def test_azure_names_the_first_node_of_mpi():
    variables = {**_of("Open MPI").variables[1], "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000"}
    del variables["MASTER_ADDR"]
    assert resolve_cluster(variables).workers[0] == "10.0.0.4:2222"


@pytest.mark.parametrize(
    ("environment", "arguments", "rank"),
    [
        (_of("Open MPI").variables[1], {}, 1),
        (_of("srun").variables[1], {}, 1),
        ({"JOB_COMPLETION_INDEX": "1"}, {"num_workers": 2}, 1),
        ({"PMIX_RANK": "1", "WORLD_SIZE": "2"}, {}, 1),
        ({}, {"num_workers": 2, "task_index": 1}, 1),
        ({"RANK": "0", "WORLD_SIZE": "5"}, {"num_workers": 2, "task_index": 1}, 1),
    ],
)
def test_a_given_coordinator_takes_the_rank_from_the_launcher(environment, arguments, rank):
    cluster = resolve_cluster(environment, coordinator="first:7", **arguments)
    assert (cluster.workers, cluster.rank) == (("first:7", ""), rank)


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ({}, {}, "neither --task_index nor a launcher's variable"),
        ({"JOB_COMPLETION_INDEX": "1"}, {}, "neither --num_workers nor a launcher's variable"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, {}, "RANK must be a number from 0. Received: 'one'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, {}, "rank must be from 0 to 1"),
        ({}, {"worker_hosts": ["a:1"]}, "Received: both"),
    ],
)
def test_a_coordinator_without_ranks_is_one_sentence(environment, arguments, message):
    with pytest.raises(InputError, match=message):
        resolve_cluster(environment, coordinator="first:7", **arguments)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "must know its rank. Received: WORLD_SIZE=2"),
        ({"PMI_SIZE": "4"}, "must know its rank. Received: PMI_SIZE=4"),
        ({"PMIX_RANK": "0"}, "must say how many processes it has started. Received: PMIX_RANK=0"),
        ({"JOB_COMPLETION_INDEX": "0"}, "unset JOB_COMPLETION_INDEX to train in this process"),
        (
            {"PET_NODE_RANK": "0", "PET_NNODES": "1:4", "PET_MASTER_ADDR": "a"},
            "PET_NNODES must be a number from 1. Received: '1:4'. The number is fixed",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "http"},
            "MASTER_PORT must be a number",
        ),
        (
            {**_of("SkyPilot").variables[0], "SKYPILOT_NODE_RANK": "2"},
            "SKYPILOT_NODE_RANK must be an index into SKYPILOT_NODE_IPS",
        ),
    ],
)
def test_ranks_without_enough_to_go_on_are_one_sentence(environment, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve_cluster(environment)
    assert len(str(caught.value).splitlines()) == 1


def test_a_number_of_one_is_this_machine_alone():
    for environment in ({"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "1"}, {"RANK": "3"}):
        assert resolve_cluster(environment).workers == ()


def test_the_innermost_launcher_counts():
    step = _of("srun").variables[1]
    # srun sets MPI's variables too, with the same ranks, but knows the addresses.
    assert (
        resolve_cluster(
            {**step, "PMI_RANK": "1", "PMI_SIZE": "2"}, scontrol=environments.scontrol
        ).source
        == "Slurm"
    )
    # mpirun and torchrun in tasks of Slurm have started processes of their own.
    within = {**step, **_of("Open MPI").variables[1], "OMPI_COMM_WORLD_SIZE": "4"}
    assert resolve_cluster(within, scontrol=environments.scontrol).num_workers == 4
    outside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", **_of("Open MPI").variables[1]}
    assert resolve_cluster(outside).source == "Open MPI"
    both = {**_of("SageMaker").variables[0], **_of("torchrun").variables[1]}
    assert resolve_cluster(both).source == "torchrun"


def test_a_step_of_one_component_of_a_heterogeneous_job_is_refused_by_name():
    alone = {
        **_of("heterogeneous").variables[0],
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_NODELIST": "n2",
        "SLURM_STEP_TASKS_PER_NODE": "1",
    }
    with pytest.raises(InputError, match=r"a step with 1 of its 2 tasks. Run srun --het-group=0-1"):
        resolve_cluster(alone, scontrol=environments.scontrol)
