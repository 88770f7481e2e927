"""Memory, utilisation and power of the devices, and what this process uses of its host."""

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.machine import available_cores
from tf_lars.tracking.metric_log import MetricLog

Reader = Callable[[], float]


class DeviceMonitor(keras.callbacks.Callback):
    """Writes what the devices and this process use, measured in a thread.

    | tag | meaning | unit | when |
    |---|---|---|---|
    | `devices/memory_in_use_bytes` | memory of TensorFlow, summed over its GPUs | bytes | * |
    | `devices/memory_peak_bytes` | their peaks since the process started, summed | bytes | * |
    | `devices/utilization` | time with a kernel running, mean over these GPUs | 0 to 1 | * |
    | `devices/power_watts` | power, summed over these GPUs | W | * |
    | `devices/host_cpu` | share of its cores that this process keeps busy | 0 to 1 | * |
    | `devices/host_memory_bytes` | resident memory of this process | bytes | * |

    \\* every `seconds`; written at the end of the next call of the loop.

    Other processes of the host, such as further workers on it, are not counted. The GPUs are those
    that CUDA_VISIBLE_DEVICES names, by nvidia-smi's number or whole identifier. Utilization and
    power need nvidia-ml-py, the last two tags psutil: the extra `monitor`. What is absent or fails
    is left out, as is the memory of devices other than GPUs. A measurement takes 0.04 ms on a host
    without GPUs.

    Args:
      log: Log to write to; an earlier callback must have begun it in `on_train_begin`.
      seconds: Minimum seconds between measurements.
    """

    def __init__(self, log: MetricLog, seconds: float = 5.0):
        super().__init__()
        self._log = log
        self._seconds = seconds
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._measured: concurrent.futures.Future[dict[str, float]] | None = None
        self._due = 0.0
        self._readers: dict[str, Reader] = {}

    def on_train_begin(self, logs=None):
        """Finds out what can be measured."""
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "device_monitor")
        self._readers = dict(_readers())
        self._due = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Writes what has been measured, and starts the next measurement if it is due."""
        self._write(int(batch) + 1)
        now = time.monotonic()
        if self._thread is not None and self._measured is None and now >= self._due:
            self._due = now + self._seconds
            # Drivers take milliseconds to answer, which training must not wait for.
            self._measured = self._thread.submit(_measure, self._readers)

    def on_epoch_end(self, epoch, logs=None):
        """Writes what has been measured, so that a short run has some of it."""
        self._write(int((logs or {})["step"]))

    def on_train_end(self, logs=None):
        """Ends the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = self._measured = None

    def _write(self, step: int) -> None:
        if self._measured is not None and self._measured.done():
            values = self._measured.result()
            self._measured = None
            if values:
                self._log.scalars(step, values)


def _measure(readers: dict[str, Reader]) -> dict[str, float]:
    values = {}
    for name, read in readers.items():
        with contextlib.suppress(Exception):  # of the driver, or of a process without rights
            values[f"devices/{name}"] = float(read())
    return values


def _readers() -> Iterator[tuple[str, Reader]]:
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if gpus:
        yield "memory_in_use_bytes", lambda: _memory(gpus, "current")
        yield "memory_peak_bytes", lambda: _memory(gpus, "peak")
    with contextlib.suppress(Exception):  # not installed, or without a driver
        yield from _of_driver()
    with contextlib.suppress(Exception):
        import psutil

        process, cores = psutil.Process(), available_cores()
        process.cpu_percent()  # the next call returns the share since this one
        yield "host_cpu", lambda: process.cpu_percent() / 100 / cores
        yield "host_memory_bytes", lambda: process.memory_info().rss


def _memory(gpus: list[str], which: str) -> float:
    return sum(tf.config.experimental.get_memory_info(gpu)[which] for gpu in gpus)


def _of_driver() -> Iterator[tuple[str, Reader]]:
    import pynvml

    pynvml.nvmlInit()
    handles = _visible(pynvml)
    if handles:
        yield (
            "utilization",
            lambda: (
                sum(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles)
                / (100 * len(handles))
            ),
        )
        yield (
            "power_watts",
            lambda: sum(pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1000,
        )


def _visible(pynvml: Any) -> list[Any]:
    """Returns the handles of the GPUs that CUDA_VISIBLE_DEVICES names, or of all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [
            pynvml.nvmlDeviceGetHandleByIndex(number)
            for number in range(pynvml.nvmlDeviceGetCount())
        ]
    handles = []
    for entry in (part.strip() for part in visible.split(",")):
        try:
            by_number = entry.lstrip("-").isdigit()
            handles.append(
                pynvml.nvmlDeviceGetHandleByIndex(int(entry))
                if by_number
                else pynvml.nvmlDeviceGetHandleByUUID(entry)
            )
        except pynvml.NVMLError:
            break  # like CUDA, which uses the devices before the first that does not exist
    return handles
