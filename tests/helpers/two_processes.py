"""Runs two real workers of one cluster on this machine, or more."""

import json
import os
import subprocess
import sys
import time

import numpy as np

from tests.helpers.paths import ROOT
from tf_lars.cluster import supervisor

SECONDS = 800


def run(module, folder, *arguments, workers=2):
    """Runs `python -m module folder arguments` as each worker.

    Returns the contents of each worker<i>.npz.

    Raises:
        AssertionError: If a worker fails; with the end of its output.
        subprocess.TimeoutExpired: If a worker runs for more than `SECONDS`.
    """
    cluster = {"worker": [f"127.0.0.1:{port}" for port in supervisor.free_ports(workers)]}
    processes = []
    try:
        for index in range(workers):
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment = {
                **os.environ,
                "TF_CONFIG": json.dumps(task),
                "CUDA_VISIBLE_DEVICES": "-1",
            }
            with (folder / f"worker{index}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", module, str(folder), *arguments],
                        cwd=ROOT,
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        deadline = time.monotonic() + SECONDS
        for index, process in enumerate(processes):
            code = process.wait(timeout=max(deadline - time.monotonic(), 1))
            assert code == 0, (folder / f"worker{index}.log").read_text()[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [_load(folder / f"worker{index}.npz") for index in range(workers)]


def _load(path):
    with np.load(path) as file:
        return dict(file)
