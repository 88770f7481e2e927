"""A real Slurm with several nodes on this machine, for the duration of a test.

    with slurm_cluster.started(nodes=4) as slurm:
        job = slurm.sbatch("job.sbatch", "--argument", options=["-N4"])
        assert slurm.wait(job) == "COMPLETED"

munged (with a new key), slurmctld and one slurmd per node run as root, in a temporary folder, and
listen on the loopback interface only; each "node" is this machine on a different port. Of another
Slurm on this machine, only the installed programs are used.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.helpers import afterwards
from tf_lars.cluster import supervisor

SECONDS = 60
CPUS_PER_NODE = 4
# Slurm allocates these files as GPUs and sets CUDA_VISIBLE_DEVICES; it needs a file for each.
_GPU_FILES = ("/dev/null", "/dev/zero")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
PACKAGES = "slurm-wlm munge"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
# Debian installs the servers outside of an ordinary user's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# cons_tres and linuxproc work without cgroups and without systemd.
#   config_overrides: a node may claim more CPUs than the machine has.
#   NoInAddrAny, NoCtldInAddrAny: listen on the nodes' addresses, not on all.
#   cred_expire: a requeued job waits for this time plus a second. The default is 120 s, which Slurm
#     also uses for any value below 5.
#   sched_interval, batch_sched_delay: delays of the scheduler before it starts a job.
_CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
PropagateResourceLimits=NONE
ReturnToService=2
MessageTimeout=60
KillWait={kill_wait}
JobRequeue=1
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running Slurm; made by `started`."""

    def __init__(self, folder: Path, nodes: Sequence[str]):
        self.folder = folder
        self.nodes = tuple(nodes)
        """Names of the nodes."""
        self.environment = {
            # If a Slurm job runs these tests, its own settings must not leak into them.
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            "PATH": _PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        """Environment of programs that use this Slurm."""

    def run(
        self, *command, check: bool = True, environment: Mapping[str, str] | None = None, cwd=None
    ) -> subprocess.CompletedProcess:
        """Runs a command that talks to this Slurm, such as `srun`, in the folder `cwd`.

        Raises:
          RuntimeError: If it fails and `check` is set.
        """
        done = subprocess.run(
            [*map(str, command)],
            env={**self.environment, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if check and done.returncode:
            raise RuntimeError(f"`{' '.join(map(str, command))}` failed: {done.stderr.strip()}")
        return done

    def sbatch(
        self,
        script,
        *arguments,
        options: Sequence[str] = (),
        cwd=None,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Submits a script with its arguments and returns the job id.

        Args:
          script: Path of the script.
          arguments: Arguments of the script.
          options: Options of sbatch, which override those in the script.
          cwd: Folder to submit from.
          environment: Variables to set for the job, in addition to `self.environment`.
        """
        command = ["sbatch", "--parsable", *options, script, *arguments]
        done = self.run(*command, cwd=cwd, environment=environment)
        return int(done.stdout.split(";")[0])

    def squeue(self, *arguments) -> str:
        """Returns the output of `squeue`."""
        return self.run("squeue", *arguments).stdout

    def scontrol(self, *arguments) -> str:
        """Returns the output of `scontrol`."""
        return self.run("scontrol", *arguments).stdout

    def cancel(self, job: int, *options) -> None:
        """Cancels a job."""
        self.run("scancel", *options, str(job))

    def job(self, job: int) -> dict[str, str]:
        """Returns the fields of `scontrol show job`."""
        words = self.scontrol("--oneliner", "show", "job", str(job)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: int) -> str:
        """Returns a job's state, such as PENDING, RUNNING or COMPLETED."""
        return self.job(job)["JobState"]

    def wait(self, job: int, seconds: float = SECONDS) -> str:
        """Waits until a job has ended for good, and returns its state.

        Raises:
          TimeoutError: If it has not ended in time; with its state and the end of its output.
        """
        return self.wait_for(job, lambda now: now["JobState"] in ENDED, seconds)["JobState"]

    def wait_for(
        self, job: int, is_so: Callable[[dict[str, str]], bool], seconds: float = SECONDS
    ) -> dict[str, str]:
        """Waits until `is_so(self.job(job))`, and returns the job's fields.

        Raises:
          TimeoutError: If it is not so in time; with the job's state and the end of its output.
        """
        deadline = time.monotonic() + seconds
        while not is_so(now := self.job(job)):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Job {job} is {now['JobState']} ({now['Reason']}) after {seconds} s. Its "
                    f"output ends with:\n{self.output(job)[-2000:]}"
                )
            time.sleep(0.1)
        return now

    def output(self, job: int) -> str:
        """Returns the output of a job so far, from both streams."""
        paths = dict.fromkeys(self.job(job).get(name) for name in ("StdOut", "StdErr"))
        texts = [Path(path).read_text() for path in paths if path and Path(path).exists()]
        return "".join(texts)

    def logs(self) -> str:
        """Returns the end of each server's log."""
        ends = [f"{path.name}:\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log")]
        return "\n".join(ends)

    def _is_ready(self):
        states = self.run("sinfo", "--noheader", "--format=%t", check=False).stdout.split()
        return states == ["idle"]


@contextlib.contextmanager
def started(nodes: int = 4, kill_wait: int = 10):
    """Yields a `Slurm` whose nodes n0, n1, ... are ready.

    Each node has `CPUS_PER_NODE` and two GPUs, which exist in Slurm's bookkeeping only. Skips the
    test if Slurm cannot run. At the end, its jobs and servers are killed.

    Args:
      nodes: Number of nodes.
      kill_wait: Seconds between SIGTERM and SIGKILL when Slurm ends a job or a step; 30 is Slurm's
        default.
    """
    if reason := unavailable():
        pytest.skip(reason)
    # Not pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="tf-lars-slurm-"))
    slurm = Slurm(folder, [f"n{index}" for index in range(nodes)])
    servers: list[subprocess.Popen] = []
    try:
        with afterwards.call(__spec__.name, "end", str(folder)):
            _configure(slurm, kill_wait)
            _start(servers, _munged(folder), slurm)
            _wait_until((folder / "munge.socket").exists, slurm, servers)
            _start(servers, ["slurmctld", "-D"], slurm)
            for name in slurm.nodes:
                _start(servers, ["slurmd", "-D", "-N", name], slurm)
            _wait_until(slurm._is_ready, slurm, servers)
            yield slurm
    finally:
        for server in servers:
            server.wait()


def end(folder: str) -> None:
    """Kills the servers and jobs of the Slurm in a folder, and removes the folder."""
    deadline = time.monotonic() + SECONDS
    while (pids := _users_of(f"{folder}/slurm.conf")) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def unavailable() -> str | None:
    """Returns why Slurm cannot run here, or None."""
    if os.geteuid() != 0:
        return "a private Slurm needs root: its slurmd starts jobs as their users"
    if missing := [name for name in _PROGRAMS if not shutil.which(name, path=_PATH)]:
        return f"no {', '.join(missing)} here (Debian's packages {PACKAGES})"
    return None


def _configure(slurm, kill_wait):
    (slurm.folder / "state").mkdir()
    key = slurm.folder / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(128))
    slurm.folder.chmod(0o755)  # all users need munged's socket
    host = socket.gethostname().split(".")[0]
    controller, *ports = supervisor.free_ports(1 + len(slurm.nodes))
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={CPUS_PER_NODE} Gres=gpu:{len(_GPU_FILES)} State=UNKNOWN"
        for name, port in zip(slurm.nodes, ports, strict=True)
    ]
    gpus = [f"Name=gpu File={file}\n" for file in _GPU_FILES]
    (slurm.folder / "gres.conf").write_text("".join(["AutoDetect=off\n", *gpus]))
    (slurm.folder / "slurm.conf").write_text(
        _CONFIGURATION.format(
            name=slurm.folder.name.replace("_", "-"),
            host=host,
            port=controller,
            folder=slurm.folder,
            kill_wait=kill_wait,
            nodes="\n".join(lines),
        )
    )


def _start(servers, command, slurm):
    # Output goes to files, since a server that inherits a pipe keeps it open. In a new session,
    # Ctrl-C does not reach the servers, which the tests end in order.
    with open(slurm.folder / f"{len(servers)}-{command[0]}.log", "w") as log:
        servers.append(
            subprocess.Popen(
                [shutil.which(command[0], path=_PATH), *command[1:]],
                env=slurm.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )


def _wait_until(is_so, slurm, servers):
    deadline = time.monotonic() + SECONDS
    while not is_so():
        ended = [server.args for server in servers if server.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"Slurm does not start; ended: {ended}. Logs:\n{slurm.logs()}")
        time.sleep(0.05)


def _munged(folder):
    command = ["munged", "--foreground", "--force"]  # force: /tmp is writable by all
    for option, name in {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "log-file": "munged.log",
        "pid-file": "munged.pid",
        "seed-file": "munged.seed",
    }.items():
        command.append(f"--{option}={folder / name}")
    return command


def _users_of(configuration):
    """Returns the processes that use a configuration: servers, jobs and their children."""
    mine = f"SLURM_CONF={configuration}".encode()
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mine in path.read_bytes().split(b"\0"):
                pids.append(int(path.parent.name))
    return pids


def main():
    """Starts a Slurm with four nodes, and a shell in which its commands work."""
    if reason := unavailable():
        sys.exit(reason)
    with started() as slurm:
        print(f"{len(slurm.nodes)} nodes; Slurm stops when this shell exits", flush=True)
        subprocess.run([os.environ.get("SHELL", "bash")], env=slurm.environment)


if __name__ == "__main__":
    main()
