"""Random faults in jobs of three hosts: who notices, how soon, and what is lost.

python -m benchmarks.faults --data_dir=data/digits

Needs root (network namespaces and small disks). The hosts are network namespaces of this machine;
each runs `launch.gpu_cluster` with one worker, on the handwritten digits. Each run but the first
meets every kind of fault once, in random order, on random hosts, at random instants. It must end
by itself with the weights of the undisturbed run.
"""

import argparse
import contextlib
import pathlib
import random
import re
import signal
import tempfile
import threading
import time

from benchmarks import tables
from tests.helpers import faulty_disks, network_hosts
from tests.helpers.cluster_job import ClusterJob, flags_for_digits

HOSTS = 3
FAULTS = (
    "kill -9",
    "SIGSTOP",
    "SIGTERM",
    "link cut",
    "checkpoints read-only",
    "disk full",
)
SECONDS_OUT = 40.0
"""How long a link stays cut: longer than it takes to notice."""
LIMIT_SECONDS = 600.0
"""For each fault, and for the rest of the run."""
NOTICED = ("restart ", "asked to save and stop", "warning: no checkpoint")
RESULTS = pathlib.Path(__file__).parent / "results" / "faults.csv"


def main():
    """Runs the undisturbed job, and then one for each fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="The digits, prepared.")
    parser.add_argument("--runs", type=int, default=5, help="Runs with six faults each.")
    parser.add_argument("--epochs", type=int, default=40, help="Epochs of each run.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    flags = flags_for_digits(
        arguments.data_dir,
        HOSTS,
        f"--epochs={arguments.epochs}",
        "--epochs_between_evaluations=10",
        "--steps_per_loop=1",
        "--startup_timeout=180",
        f"--max_restarts={len(FAULTS)}",
    )
    print(tables.machine())
    with network_hosts.connected(HOSTS) as hosts:
        _, undisturbed = run(hosts, flags, [], draw)
        rows = []
        for number in range(arguments.runs):
            of_run, result = run(hosts, flags, draw.sample(FAULTS, len(FAULTS)), draw)
            same = result.pop("weights") == undisturbed["weights"]
            rows += [{"run": number, **row, **result, "same_weights": same} for row in of_run]
            tables.write(rows, arguments.output)
    tables.show(rows)


def run(hosts, flags, faults, draw):
    """Runs a job with some faults, one after the other.

    Args:
      hosts: three.
      flags: of the training.
      faults: kinds, of `FAULTS`.
      draw: random numbers.

    Returns:
      A row for each fault, and how the run ended.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, faulty_disks.small(folder, 64) as disk:
        job = ClusterJob(hosts, flags, disk.path / "run")
        try:
            job.start()
            rows = []
            for kind in faults:
                # After two epochs at least, of which one ends after the last fault.
                epochs = last_epoch(job) + draw.randrange(2, 5)
                job.wait_for(f"epoch {epochs}/", seconds=LIMIT_SECONDS)
                threading.Event().wait(draw.uniform(0.0, 0.5))
                victim = 0 if kind in FAULTS[4:] else draw.randrange(HOSTS)
                row = {"fault": kind, "host": victim, "after_epoch": epochs}
                rows.append(row | inflict(kind, job, disk, victim))
                print(rows[-1], flush=True)
            codes = job.exit_codes(LIMIT_SECONDS)
            return rows, {
                "seconds_of_run": round(time.monotonic() - begin, 1),
                "exit_codes": " ".join(map(str, codes)),
                "processes_left": sum(map(len, job.left().values())),
                "weights": job.results()["weights_sha256"],
            }
        finally:
            job.end()


def inflict(kind, job, disk, victim):
    """Does the harm and, where it passes, mends it; returns how it was taken."""
    seen = len(job.lines)
    step = last_step(job)
    at = time.monotonic()
    with contextlib.ExitStack() as harm:
        if kind == "link cut":
            job.hosts.cut(victim)
            harm.callback(job.hosts.restore, victim)
        elif kind == "checkpoints read-only":
            harm.enter_context(faulty_disks.read_only(job.model_dir / "checkpoints"))
        elif kind == "disk full":
            disk.fill()
            harm.callback(disk.free)
        else:
            number = {"kill -9": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
            job.signal_worker(victim, number.get(kind, signal.SIGTERM))
        told, noticed = job.wait_for(*NOTICED, since=seen)
        if kind == "link cut":  # for so long, or until all know
            threading.Event().wait(max(0.0, at + SECONDS_OUT - time.monotonic()))
    mended = time.monotonic()
    result = {
        "seconds_to_notice": round(noticed - at, 1),
        "told": reason(job, seen, told, but=victim if kind == "link cut" else None),
    }
    if "warning" in told:  # it went on all the time
        return result | {"seconds_to_resume": 0.0, "steps_lost": 0}
    line, _ = job.wait_for("resuming from", since=seen, seconds=LIMIT_SECONDS)
    resumed = int(re.search(r"step ([\d,]+) of", line)[1].replace(",", ""))
    after = job.lines.index(next(entry for entry in job.lines if entry[2] == line))
    _, trains = job.wait_for("epoch ", since=after)
    start = mended if kind == "link cut" else at
    return result | {
        "seconds_to_resume": round(trains - start, 1),
        "steps_lost": max(0, step - resumed),
    }


def last_step(job):
    """Returns the step of the last line of progress."""
    return _highest(r"step (\d+)/", job)


def last_epoch(job):
    """Returns the epoch of the last line of progress."""
    return _highest(r"epoch (\d+)/", job)


def _highest(pattern, job):
    numbers = [re.search(pattern, line) for _, _, line in job.lines]
    return max((int(found[1]) for found in numbers if found), default=0)


def reason(job, seen, told, but):
    """Returns the first reason that a host gave: not the one that is cut off itself."""
    words = ("error: ", "was killed", "warning: ", "asked to save")
    lines = [
        line
        for _, host, line in job.lines[seen:]
        if host != but and any(word in line for word in words)
    ]
    return (lines or [told])[0][:160]


if __name__ == "__main__":
    main()
