"""A job of `launch.gpu_cluster` on network hosts, whose output is read line by line."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from tests.helpers import programs

PORT = 2222


class ClusterJob:
    """One launcher on each host, and the lines that they print.

    Args:
      hosts: Hosts from `network_hosts.connected`.
      flags: Training flags.
      model_dir: Folder of the run, shared by all hosts.
      of_host: Additional flags by host.
    """

    def __init__(self, hosts, flags, model_dir, of_host=None):
        self.hosts = hosts
        self.model_dir = Path(model_dir)
        self._flags = list(flags)
        self._of_host = of_host or {}
        self._condition = threading.Condition()
        self.lines: list[tuple[float, int, str]] = []
        """All output as (time.monotonic(), host, line)."""
        self.launchers: list[subprocess.Popen | None] = [None] * hosts.count

    def start(self, *which):
        """Starts the launchers of some hosts, by default of all."""
        addresses = ",".join(f"{self.hosts.name(i)}:{PORT}" for i in range(self.hosts.count))
        for host in which or range(self.hosts.count):
            command = [
                *programs.command("launch.gpu_cluster", *self._flags),
                f"--worker_hosts={addresses}",
                f"--model_dir={self.model_dir}",
                *self._of_host.get(host, []),
            ]
            self.launchers[host] = self.hosts.popen(
                host,
                command,
                cwd=programs.ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"},
            )
            threading.Thread(target=self._read, args=(host,), daemon=True).start()
        return self

    def _read(self, host):
        for line in self.launchers[host].stdout:
            with self._condition:
                self.lines.append((time.monotonic(), host, line.rstrip()))
                self._condition.notify_all()

    def wait_for(self, *words, since=0, seconds=programs.SECONDS):
        """Returns the first line that contains one of the texts, and its time.

        Args:
          words: Texts to look for.
          since: Number of lines to skip.
          seconds: Time limit.
        """
        deadline = time.monotonic() + seconds
        with self._condition:
            while True:
                for when, _, line in self.lines[since:]:
                    if any(word in line for word in words):
                        return line, when
                over = all(one is None or one.poll() is not None for one in self.launchers)
                assert time.monotonic() < deadline, f"no {words} in time; {self.tail()}"
                assert not over, f"no {words}, and all have ended; {self.tail()}"
                self._condition.wait(1.0)

    def tail(self, lines=40):
        """Returns the last lines of output, for messages."""
        return "\n".join(f"host{host}: {line}" for _, host, line in self.lines[-lines:])

    def exit_codes(self, seconds=programs.SECONDS):
        """Waits for all launchers and returns their exit codes."""
        deadline = time.monotonic() + seconds
        try:
            return [one.wait(max(1.0, deadline - time.monotonic())) for one in self.launchers]
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"a launcher has not ended; {self.tail()}") from error

    def results(self):
        """Returns the content of the run's results.json."""
        path = self.model_dir / "results.json"
        assert path.exists(), self.tail()
        return json.loads(path.read_text())

    def worker(self, host):
        """Returns the process id of a host's worker."""
        return next(iter(self._processes_on(host, "launch.worker")))

    def left(self):
        """Returns the processes that still run on the hosts, by host."""
        return {h: p for h in range(self.hosts.count) if (p := self._processes_on(h))}

    def _processes_on(self, host, word=""):
        listed = subprocess.run(
            ["ip", "netns", "pids", self.hosts.namespace(host)], capture_output=True, text=True
        ).stdout.split()
        found = {}
        for pid in listed:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command and word in command:
                    found[int(pid)] = command
        return found

    def signal_worker(self, host, number):
        """Sends a signal to a host's worker."""
        os.kill(self.worker(host), number)

    def end(self):
        """Kills the launchers, which ends their workers too."""
        for one in self.launchers:
            if one and one.poll() is None:
                one.send_signal(signal.SIGKILL)
                one.wait()


def flags_for_digits(digits_dir, workers, *more):
    """Returns the flags of a run on the digits whose results are identical each time."""
    return [
        "--flagfile=launch/recipes/digits.flags",
        f"--data_dir={digits_dir}",
        "--model=small_resnet8",
        f"--num_workers={workers}",
        f"--global_batch_size={128 * workers}",
        "--deterministic",
        *more,
    ]
