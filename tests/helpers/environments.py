"""What the launchers of jobs tell each of their processes: environments as they set them.

python -m tests.helpers.environments prints the table of docs/cluster.md.
"""

import dataclasses
import json

from tf_lars.cluster import discovery

AGENT_PORT = 29500
_POOLS = {"workerpool0": ["a.vertex:2222"], "workerpool1": ["b.vertex:2222"]}


@dataclasses.dataclass(frozen=True)
class Environment:
    """A job of two processes.

    Attributes:
      name: What sets the variables.
      reads: The variables that are read, and what for.
      variables: Variables of each process, by rank.
      workers: The addresses that follow, "" for one that is learned.
      run: How it has been run, for the table.
    """

    name: str
    reads: str
    variables: tuple[dict[str, str], dict[str, str]]
    workers: tuple[str, str]
    run: str

    def resolve(self, rank, *without):
        """Returns the cluster that a process finds, without some of its variables."""
        environment = {k: v for k, v in self.variables[rank].items() if k not in without}
        return discovery.resolve_cluster(environment, scontrol=scontrol)


def scontrol(arguments):
    """Returns scontrol's output for the nodes n1 and n2."""
    if arguments[:2] == ["show", "hostnames"]:
        return "\n".join(f"n{i}" for i in (1, 2) if str(i) in arguments[2]) + "\n"
    return "NodeName=n1 NodeAddr=10.0.0.1 \nNodeName=n2 NodeAddr=10.0.0.2 \n"


def _both(common, own):
    """Returns the variables of both processes, whose own have the rank in place of RANK."""
    return tuple(
        {**common, **{name: text.replace("RANK", str(rank)) for name, text in own.items()}}
        for rank in (0, 1)
    )


def _tf_config(**cluster):
    tasks = [(kind, i) for kind, hosts in cluster.items() for i in range(len(hosts))]
    return tuple(
        {
            "TF_CONFIG": json.dumps(
                {"cluster": cluster, "task": {"type": kind, "index": i}, "environment": "cloud"}
            )
        }
        for kind, i in tasks
    )


_TORCHRUN = _both(
    {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "head",
        "MASTER_PORT": str(AGENT_PORT),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    },
    {"RANK": "RANK", "LOCAL_RANK": "RANK", "ROLE_RANK": "RANK"},
)
_OPEN_MPI = _both(
    {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_UNIVERSE_SIZE": "2",
        "PMIX_NAMESPACE": "1234567",
        "MASTER_ADDR": "head",
    },
    {
        "OMPI_COMM_WORLD_RANK": "RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK": "RANK",
        "OMPI_COMM_WORLD_NODE_RANK": "RANK",
        "PMIX_RANK": "RANK",
    },
)
_SLURM_STEP = _both(
    {
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    },
    {"SLURM_PROCID": "RANK"},
)
_HETEROGENEOUS = _both(
    {
        "SLURM_JOB_ID": "41234",
        "SLURM_HET_SIZE": "2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_JOB_NODELIST_HET_GROUP_0": "n2",
        "SLURM_TASKS_PER_NODE_HET_GROUP_0": "1",
        "SLURM_JOB_NODELIST_HET_GROUP_1": "n1",
        "SLURM_TASKS_PER_NODE_HET_GROUP_1": "1",
    },
    {"SLURM_PROCID": "RANK"},
)

ENVIRONMENTS = (
    Environment(
        "TensorFlow's own variable: Kubeflow's TFJob, Vertex AI, Ray, Azure ML",
        "`TF_CONFIG`, with lists of addresses: the chief or master is rank 0, and the workers "
        "follow; evaluators of the cluster are left out, parameter servers refused",
        _tf_config(chief=["a:2222"], worker=["b:2222"]),
        ("a:2222", "b:2222"),
        "Ray, and processes of one machine",
    ),
    Environment(
        "Slurm's srun",
        "the nodes and tasks of the step (`SLURM_STEP_NODELIST`, `SLURM_STEP_TASKS_PER_NODE`, "
        "`SLURM_PROCID`): [slurm.md](slurm.md)",
        _SLURM_STEP,
        ("10.0.0.1:25234", "10.0.0.2:25235"),
        "a Slurm on one machine",
    ),
    Environment(
        "Slurm's srun for a heterogeneous job",
        "the nodes and tasks of each component (`SLURM_JOB_NODELIST_HET_GROUP_0` and so on); all "
        "components must take part: `srun --het-group=0-1`",
        _HETEROGENEOUS,
        ("10.0.0.2:25234", "10.0.0.1:25235"),
        "a Slurm on one machine",
    ),
    Environment(
        "a Kubernetes JobSet of `launch.render_kubernetes`",
        "the variables of its manifest: [kubernetes.md](kubernetes.md)",
        _both(
            {
                "JOBSET_NAME": "train",
                "JOBSET_REPLICATED_JOB": "worker",
                "JOBSET_JOB_INDEX": "0",
                "JOBSET_NUM_PODS": "2",
            },
            {"JOB_COMPLETION_INDEX": "RANK"},
        ),
        ("train-worker-0-0.train:2222", "train-worker-0-1.train:2222"),
        "no",
    ),
    Environment(
        "Vertex AI without `TF_CONFIG`",
        "`CLUSTER_SPEC`: workerpool0, then workerpool1",
        tuple(
            {"CLUSTER_SPEC": json.dumps({"cluster": _POOLS, "task": {"type": pool, "index": 0}})}
            for pool in _POOLS
        ),
        ("a.vertex:2222", "b.vertex:2222"),
        "no",
    ),
    Environment(
        "Amazon SageMaker",
        "`SM_HOSTS`, `SM_CURRENT_HOST`, or in a container without its training toolkit "
        "`/opt/ml/input/config/resourceconfig.json`: the hosts by name, on port 2222",
        tuple({"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": f"algo-{i}"} for i in (1, 2)),
        ("algo-1:2222", "algo-2:2222"),
        "no",
    ),
    Environment(
        "SkyPilot",
        "`SKYPILOT_NODE_IPS`, `SKYPILOT_NODE_RANK`: the nodes in its order, on port 2222",
        _both(
            {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"},
            {"SKYPILOT_NODE_RANK": "RANK"},
        ),
        ("10.0.0.1:2222", "10.0.0.2:2222"),
        "no",
    ),
    Environment(
        "torchrun, PyTorchJob, Azure ML's PyTorch distribution",
        "`RANK`, `WORLD_SIZE`, and the coordinator `MASTER_ADDR:MASTER_PORT`, or the port after it "
        "under torchrun, which listens at the port itself; `LOCAL_RANK` and `LOCAL_WORLD_SIZE` "
        "share the GPUs of a host",
        _TORCHRUN,
        (f"head:{AGENT_PORT + 1}", ""),
        "torchrun 2.13 on one machine, by hand; its variables on two network namespaces",
    ),
    Environment(
        "Open MPI's mpirun, Azure ML's MPI distribution",
        "`OMPI_COMM_WORLD_RANK` and its like; the coordinator is `--coordinator`, or "
        "`MASTER_ADDR` with `MASTER_PORT` (2222), or Azure ML's `AZ_BATCH_MASTER_NODE`",
        _OPEN_MPI,
        ("head:2222", ""),
        "mpirun on one machine",
    ),
    Environment(
        "the mpirun of MPICH and Intel MPI",
        "`PMI_RANK`, `PMI_SIZE`; the coordinator as for Open MPI",
        _both(
            {"PMI_SIZE": "2", "MPI_LOCALNRANKS": "2", "MASTER_ADDR": "head", "PMI_FD": "9"},
            {"PMI_RANK": "RANK", "MPI_LOCALRANKID": "RANK"},
        ),
        ("head:2222", ""),
        "no",
    ),
    Environment(
        "horovodrun",
        "`HOROVOD_RANK`, `HOROVOD_SIZE`; the coordinator as for Open MPI",
        _both(
            {"HOROVOD_SIZE": "2", "HOROVOD_LOCAL_SIZE": "1", "MASTER_ADDR": "head"},
            {"HOROVOD_RANK": "RANK", "HOROVOD_LOCAL_RANK": "0"},
        ),
        ("head:2222", ""),
        "no",
    ),
    Environment(
        "Kubeflow Trainer v2",
        "`PET_NODE_RANK`, `PET_NNODES`, and the coordinator `PET_MASTER_ADDR:PET_MASTER_PORT`",
        _both(
            {
                "PET_NNODES": "2",
                "PET_NPROC_PER_NODE": "auto",
                "PET_MASTER_ADDR": "job-node-0-0.job",
                "PET_MASTER_PORT": str(AGENT_PORT),
            },
            {"PET_NODE_RANK": "RANK", "JOB_COMPLETION_INDEX": "RANK"},
        ),
        (f"job-node-0-0.job:{AGENT_PORT}", ""),
        "no",
    ),
    Environment(
        "an Indexed Job of Kubernetes, or PMIx",
        "`JOB_COMPLETION_INDEX` or `PMIX_RANK`; the number is `--num_workers` or `WORLD_SIZE`, "
        "the coordinator as for Open MPI",
        _both(
            {"WORLD_SIZE": "2", "MASTER_ADDR": "job-0.job", "MASTER_PORT": "2222"},
            {"JOB_COMPLETION_INDEX": "RANK"},
        ),
        ("job-0.job:2222", ""),
        "no",
    ),
)


def sizes():
    """Returns the variables that say how many processes there are, and nothing else."""
    return sorted(
        {
            name
            for one in ENVIRONMENTS
            for name, value in one.variables[0].items()
            if value == "2" and "LOCAL" not in name
        }
    )


def table():
    """Returns the table of docs/cluster.md."""
    lines = ["| started by | what is read | run here |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.reads} | {one.run} |" for one in ENVIRONMENTS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
