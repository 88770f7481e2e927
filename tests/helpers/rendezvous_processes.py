"""Worker processes without TensorFlow that meet at a rendezvous."""

import contextlib
import json
import subprocess
import sys
import time

from tests.helpers.paths import ROOT
from tf_lars.cluster.spec import Cluster

SECONDS = 120


class Workers:
    """Worker processes by start order, with their output in files."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = {}

    def start(self, rank, workers, before=(), **options):
        """Starts a worker, prefixed by a command, with its own view of the list of addresses."""
        config = Cluster(tuple(workers), rank, "test").tf_config()
        options = {"folder": str(self.folder), **options}
        command = [sys.executable, "-m", "tests.helpers.rendezvous_worker"]
        name = len(self.processes)
        with open(self.folder / f"out-{name}", "w") as output:
            self.processes[name] = subprocess.Popen(
                [*before, *command, config, json.dumps(options)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return name

    def end(self, name):
        """Waits for a process; returns its exit code and its output."""
        code = self.processes[name].wait(SECONDS)
        return code, (self.folder / f"out-{name}").read_text()

    def ends(self):
        """Waits for all processes; returns their exit codes and outputs."""
        return [self.end(name) for name in self.processes]

    def wait_until_joined(self, *names):
        """Waits until processes have joined, by default all."""
        deadline = time.monotonic() + SECONDS
        outputs = [self.folder / f"out-{name}" for name in names or self.processes]
        while not all("joined" in output.read_text() for output in outputs):
            assert time.monotonic() < deadline, [output.read_text() for output in outputs]
            time.sleep(0.01)

    def kill(self):
        """Ends all processes."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
