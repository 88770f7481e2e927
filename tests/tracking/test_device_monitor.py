"""What a run writes about its devices and its host."""

import os
import sys
import time
import types

import psutil
import pytest
import tensorflow as tf

from tf_lars.machine import available_cores
from tf_lars.tracking import device_monitor
from tf_lars.tracking.device_monitor import DeviceMonitor

HOST = {"devices/host_cpu", "devices/host_memory_bytes"}
DRIVER = {"devices/utilization", "devices/power_watts"}


class _Log:
    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        self.rows.append((step, values))


class _Driver(types.ModuleType):
    """A stand-in for nvidia-ml-py with two GPUs; there is no GPU where the tests run."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.broken = False

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):
        if number not in (0, 1):
            raise self.NVMLError("not found")
        return number

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return {"GPU-a": 0, "GPU-b": 1}[uuid]

    def nvmlDeviceGetUtilizationRates(self, handle):
        if self.broken:
            raise self.NVMLError("not supported")
        return types.SimpleNamespace(gpu=(40, 80)[handle])

    def nvmlDeviceGetPowerUsage(self, handle):
        return (300_000, 500_500)[handle]


@pytest.fixture
def driver(monkeypatch):
    module = _Driver()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def _measured(calls=2, seconds=0.0):
    """Runs a few calls of the loop, waiting for each measurement; returns the rows."""
    log = _Log()
    monitor = DeviceMonitor(log, seconds)
    monitor.on_train_begin()
    for step in range(0, 5 * calls, 5):
        monitor.on_train_batch_end(step)
        if monitor._measured is not None:
            monitor._measured.result(timeout=60)
    monitor.on_epoch_end(0, {"step": 5 * calls})
    monitor.on_train_end()
    return log.rows


def test_the_host_is_measured_with_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (step, _), (last, values) = _measured()
    assert (step, last) == (6, 10)
    assert values.keys() == HOST
    assert 0 <= values["devices/host_cpu"] <= 1.5  # the clocks of a short interval are coarse
    assert values["devices/host_memory_bytes"] == pytest.approx(
        psutil.Process().memory_info().rss, rel=0.5
    )


def test_the_cpu_is_a_share_of_the_cores_of_this_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading = dict(device_monitor._readers())["host_cpu"]
    before, start = sum(os.times()[:2]), time.perf_counter()
    while time.perf_counter() - start < 1.0:
        sum(range(10_000))
    elapsed, used = time.perf_counter() - start, sum(os.times()[:2]) - before
    assert reading() == pytest.approx(used / elapsed / available_cores(), rel=0.3)


def test_gpus_are_measured_with_the_driver(driver):
    values = _measured()[-1][1]
    assert values.keys() == HOST | DRIVER
    assert values["devices/utilization"] == pytest.approx(0.6)
    assert values["devices/power_watts"] == pytest.approx(800.5)


@pytest.mark.parametrize(
    ("visible", "utilization"),
    [("1", 0.8), ("GPU-a", 0.4), ("0,7,1", 0.4), ("1, 0", 0.6), ("-1", None), ("", None)],
)
def test_only_visible_gpus_are_measured(driver, monkeypatch, visible, utilization):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _measured()[-1][1].get("devices/utilization") == (
        utilization and pytest.approx(utilization)
    )


def test_memory_is_summed_over_the_gpus_of_tensorflow(driver, monkeypatch):
    def memory(device):
        assert device in ("/device:GPU:0", "/device:GPU:1")
        return {"current": 3.0, "peak": 5.0}

    gpus = [types.SimpleNamespace(name=f"/device:GPU:{i}") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", memory)
    values = _measured()[-1][1]
    assert values["devices/memory_in_use_bytes"] == 6
    assert values["devices/memory_peak_bytes"] == 10


def test_what_fails_is_left_out_and_the_rest_is_written(driver):
    driver.broken = True
    assert _measured()[-1][1].keys() == HOST | {"devices/power_watts"}


def test_nothing_is_written_without_the_optional_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert _measured() == []


def test_it_measures_at_most_once_per_interval(driver):
    assert len(_measured(calls=20, seconds=3600.0)) == 1


def test_training_does_not_wait_for_the_driver(driver, monkeypatch):
    import threading

    answer = threading.Event()
    monkeypatch.setattr(driver, "nvmlDeviceGetPowerUsage", lambda handle: answer.wait(60) and 0)
    log = _Log()
    monitor = DeviceMonitor(log, 0.0)
    monitor.on_train_begin()
    for step in range(10):
        monitor.on_train_batch_end(step)  # returns although the driver does not
    assert log.rows == []
    answer.set()
    monitor.on_train_end()
