"""Random faults in jobs on three hosts: time to detection, reported reason and lost steps.

python -m benchmarks.faults --data_dir=data/digits

Requires root, for network namespaces and small disks. The hosts are network namespaces on this
machine; each runs `launch.gpu_cluster` with one worker, on the handwritten digits. Every run except
the first suffers each kind of fault once, in random order, on random hosts and at random times. It
must finish without intervention, with the same weights as the undisturbed run.
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
"""Duration of a link failure, longer than its detection takes."""
LIMIT_SECONDS = 600.0
"""Time limit for each fault, and for the rest of the run."""
NOTICED = ("restart ", "asked to save and stop", "warning: no checkpoint")
RESULTS = pathlib.Path(__file__).parent / "results" / "faults.csv"


def main():
    """Runs the undisturbed job, then the jobs with faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="Folder of the prepared digits.")
    parser.add_argument("--runs", type=int, default=5, help="Number of runs with six faults each.")
    parser.add_argument("--epochs", type=int, default=40, help="Epochs per run.")
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
    """Runs a job with a sequence of faults.

    Args:
      hosts: The three hosts.
      flags: Training flags.
      faults: Kinds of faults, from `FAULTS`.
      draw: Random number generator.

    Returns:
      A row for each fault, and the outcome of the run.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, faulty_disks.small(folder, 64) as disk:
        job = ClusterJob(hosts, flags, disk.path / "run")
        try:
            job.start()
            rows = []
            for kind in faults:
                # At least two epochs later, so that one starts and ends after the last fault.
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
    """Injects a fault and, if it is temporary, removes it; returns the job's reaction."""
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
        if kind == "link cut":  # restored after `SECONDS_OUT`, or once detected if that is later
            threading.Event().wait(max(0.0, at + SECONDS_OUT - time.monotonic()))
    mended = time.monotonic()
    result = {
        "seconds_to_notice": round(noticed - at, 1),
        "told": reason(job, seen, told, but=victim if kind == "link cut" else None),
    }
    if "warning" in told:  # training was not interrupted
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
    """Returns the step in the last progress line."""
    return _highest(r"step (\d+)/", job)


def last_epoch(job):
    """Returns the epoch in the last progress line."""
    return _highest(r"epoch (\d+)/", job)


def _highest(pattern, job):
    numbers = [re.search(pattern, line) for _, _, line in job.lines]
    return max((int(found[1]) for found in numbers if found), default=0)


def reason(job, seen, told, but):
    """Returns the first reason reported by a host, except by the one that is cut off."""
    words = ("error: ", "was killed", "warning: ", "asked to save")
    lines = [
        line
        for _, host, line in job.lines[seen:]
        if host != but and any(word in line for word in words)
    ]
    return (lines or [told])[0][:160]


if __name__ == "__main__":
    main()
