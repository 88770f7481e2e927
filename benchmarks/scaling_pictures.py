"""Figures of docs/scaling.md, drawn by `benchmarks.scaling_page`."""

import functools
import pathlib
import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tf_lars import planner
from tf_lars.planner import Measurement, published_results, search
from tf_lars.recipes.recipes import IMAGENET_EXAMPLES

RESNET50, ALEXNET = planner.workload("resnet50"), planner.workload("alexnet_bn")
GIB = 2**30

PAPER_FORWARD_FLOPS = {"AlexNet": (1.5e9, 61e6), "ResNet-50": (7.7e9, 25e6)}
"""Forward FLOPs per image and number of parameters, as counted in the paper."""


def knl() -> planner.CalibratedDevice:
    """Returns KNL, calibrated only on the paper's results for 512 and 1,024 processors.

    Both ran on Stampede 2, whose network is Omni-Path; the all-reduce takes lg p (a + nB) as in the
    paper.
    """
    rows = [
        Measurement(r.accelerator, r.devices, r.global_batch_size, r.step_seconds, RESNET50)
        for r in published_results()
        if r.work.startswith("You et al. ImageNet") and r.devices in (512, 1024)
    ]
    return planner.calibrate(rows, accelerator="KNL", network="omni_path", algorithm="tree")


def communication(path: pathlib.Path) -> None:
    """Draws iterations and communicated bytes against the batch size."""
    figure, (left, right) = _figure("Savings of a larger batch: ResNet-50 on ImageNet")
    batches = np.geomspace(256, 131072, 100)
    needed = [planner.epochs_to_target("resnet50", b)[0] for b in batches]
    for axes, each, label in (
        (left, 1.0, "iterations"),
        (right, 4 * RESNET50.parameters / GIB, "GiB of gradients per device"),
    ):
        axes.plot(
            batches, 90 * IMAGENET_EXAMPLES / batches * each, label="90 epochs at every batch"
        )
        axes.plot(
            batches,
            np.array(needed) * IMAGENET_EXAMPLES / batches * each,
            label="epochs needed for 75.9 %",
        )
        axes.set_title(label)
        axes.axvline(planner.critical_batch().batch_size, color="grey", ls="--")
        axes.text(planner.critical_batch().batch_size * 0.9, axes.get_ylim()[1] * 0.5,
                  "critical batch", rotation=90, ha="right", va="top", color="grey")  # fmt: skip
        _logarithmic(axes, "global batch")
        axes.legend()
    figure.savefig(path)


def ratio(path: pathlib.Path) -> None:
    """Draws the ratio of computation to communication and its effect on weak scaling."""
    figure, (left, right) = _figure("Why AlexNet scales worse than ResNet-50")
    names = list(PAPER_FORWARD_FLOPS)
    values = [flops / parameters for flops, parameters in PAPER_FORWARD_FLOPS.values()]
    bars = left.bar(names, values, color=["tab:orange", "tab:blue"])
    left.bar_label(bars, [f"{value:.3g}" for value in values])
    left.set_title("forward FLOPs per parameter (as counted in the paper)")
    device = knl()
    counts = 2 ** np.arange(0, 12)
    for name, model, colour in (
        ("AlexNet", ALEXNET, "tab:orange"),
        ("ResNet-50", RESNET50, "tab:blue"),
    ):
        steps = [device.step(model, 64, int(p)) for p in counts]
        right.plot(
            counts,
            [steps[0].total / step.total for step in steps],
            "o-",
            color=colour,
            label=f"{name}, 64 images per device",
        )
    right.set_title("efficiency of weak scaling on KNL, all-reduce lg p (a + nB)")
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter(_number)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_ylim(0, 1.05)
    right.set_xlabel("devices")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path)


def knl_scaling(path: pathlib.Path) -> None:
    """Draws predicted and published times on 512 to 2,048 KNL."""
    figure, axes = _figure("ResNet-50, batch 32,768, 90 epochs, on KNL", columns=1)
    counts = np.geomspace(256, 4096, 30).astype(int)
    at = functools.partial(planner.predict, accelerator=knl(), global_batch_size=32768, epochs=90)
    plans = [at(devices=int(p)) for p in counts]
    axes.plot(counts, [plan.minutes for plan in plans], label="predicted")
    axes.plot(
        counts,
        [plan.minutes * (1 - plan.communication_fraction) for plan in plans],
        ":",
        color="tab:blue",
        label="predicted, without communication",
    )
    for result in published_results():
        if result.accelerator == "KNL" and result.model == "resnet50" and result.epochs == 90:
            given = result.devices == 512
            axes.plot(
                result.devices,
                result.minutes,
                "s" if given else "o",
                color="black" if given else "tab:red",
                label="published, used in the fit" if given else None,
            )
            axes.annotate(
                f"{result.work.split(' (')[0].split(' in ')[0]}: {result.minutes:g} min",
                (result.devices, result.minutes),
                xytext=(8, 4),
                textcoords="offset points",
            )
    axes.plot([], [], "o", color="tab:red", label="published, not used in the fit")
    _logarithmic(axes, "devices", "minutes")
    axes.legend(loc="lower left")
    figure.savefig(path)


def record_rows() -> list[dict]:
    """Returns the papers' results, and the fastest known result of each MLPerf round."""
    families = ("P100", "KNL", "SKX", "TPUv2", "TPUv3", "P40", "V100-SXM")
    chosen = [
        r
        for r in published_results()
        if not r.is_mlperf
        and r.model == "resnet50"
        and r.accelerator in families
        and not r.work.startswith(("DAWNBench", "NVIDIA", "KISTI"))
    ]
    rounds = sorted({r.source for r in published_results() if r.is_mlperf})
    chosen += [
        min((r for r in published_results() if r.source == source), key=lambda r: r.minutes)
        for source in rounds
    ]
    return [
        {
            "result": r,
            "plan": planner.predict(
                accelerator=r.accelerator,
                devices=r.devices,
                global_batch_size=r.global_batch_size,
                epochs=r.epochs,
            ),
        }
        for r in sorted(chosen, key=lambda r: (r.year, -r.minutes))
    ]


def records(path: pathlib.Path) -> None:
    """Draws published and predicted times from 2015 to 2024."""
    figure, axes = _figure("ResNet-50 on ImageNet, 2015 to 2024", columns=1, height=7.5)
    rows = record_rows()
    places = -np.arange(len(rows))
    published, predicted = ([row[key].minutes for row in rows] for key in ("result", "plan"))
    axes.hlines(places, published, predicted, color="grey", zorder=1)
    axes.plot(published, places, "ko", ms=5, label="published")
    axes.plot(
        predicted,
        places,
        "o",
        mfc="none",
        color="tab:red",
        ms=9,
        label="predicted, with the published epochs",
    )
    labels = [
        f"{row['result'].year}  {short(row['result'].work)}: {row['result'].devices:,} "
        f"{row['result'].accelerator}"
        for row in rows
    ]
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_number)
    axes.set_xlabel("minutes")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


def strong_and_weak(path: pathlib.Path) -> None:
    """Draws efficiency against devices, at a fixed batch size and at fixed images per device."""
    figure, (left, right) = _figure("Images per second and device, relative to 8 devices")
    counts = 2 ** np.arange(3, 13)
    for name in ("A100-SXM", "A100-PCIe", "H100-SXM", "V100-SXM", "TPUv4", "Gaudi"):
        family = planner.device(name)
        for axes, images in ((left, lambda p: 8192 / p), (right, lambda p: 64)):
            rates = np.array([images(p) / family.step(RESNET50, images(p), int(p)).total
                              for p in counts])  # fmt: skip
            seen = counts <= family.most_devices
            (line,) = axes.plot(counts[seen], (rates / rates[0])[seen], label=name)
            axes.plot(counts, rates / rates[0], ":", color=line.get_color())
    for axes, title in (
        (left, "strong scaling: batch 8,192"),
        (right, "weak scaling: 64 images per device"),
    ):
        axes.set_title(title)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_number)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("devices (dotted: beyond all published results)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left")
    left.set_ylim(0, 1.05)
    right.set_ylim(0.9, 1.005)
    figure.savefig(path)


def limits(path: pathlib.Path) -> None:
    """Draws the speed-up from larger batches, up to 100,000 devices."""
    figure, (left, right) = _figure("Speed-up from larger batches, up to 100,000 H100")
    at = functools.partial(planner.predict, accelerator="H100-SXM")
    counts = np.unique(np.geomspace(1, 100_000, 60).astype(int))
    for images in (4, 16, 64, 256):
        plans = [at(devices=int(p), global_batch_size=int(p) * images) for p in counts]
        published = np.array([not plan.epochs_extrapolated for plan in plans])
        minutes = np.array([plan.minutes for plan in plans])
        (line,) = left.plot(counts[published], minutes[published], label=f"{images} images each")
        left.plot(counts, minutes, ":", color=line.get_color())
    floor = planner.critical_batch()
    step = planner.device("H100-SXM").step(RESNET50, 1, 1)
    limit = floor.epochs * IMAGENET_EXAMPLES / floor.batch_size * step.overhead / 60
    left.axhline(limit, color="grey", ls="--")
    left.text(1, limit * 1.1, "lower bound: E0 N / Bc steps of overhead alone", color="grey")
    left.plot(3584, 0.183, "k*", ms=10, label="fastest known H100 result")
    _logarithmic(left, "devices (dotted: beyond all published batch sizes)", "minutes")
    left.legend()
    batches = np.geomspace(1024, 1e6, 80)
    speedup = [2 * planner.epochs_to_target("resnet50", b)[0]
               / planner.epochs_to_target("resnet50", 2 * b)[0] for b in batches]  # fmt: skip
    line = [2 * floor(b) / floor(2 * b) for b in batches]
    right.plot(batches, speedup, label="reference points, then E0 (1 + B/Bc)")
    right.plot(batches, line, ":", label="E0 (1 + B/Bc)")
    right.axhline(search.LEAST_SPEEDUP, color="grey", ls="--")
    right.axvline(floor.batch_size, color="grey", ls="--")
    right.text(floor.batch_size * 1.1, 1.9, "critical batch", color="grey")
    right.set_title("speed-up from doubling devices and batch")
    _logarithmic(right, "global batch")
    right.set_yscale("linear")
    right.set_ylim(1, 2.05)
    right.legend()
    figure.savefig(path)


def short(work: str) -> str:
    """Returns the name of a work without its system or group."""
    mlperf = re.fullmatch(r"(MLPerf v[\d.]+) (\S+) .*", work)
    return f"{mlperf[1]} {mlperf[2]}" if mlperf else work.split(" (")[0]


def _figure(title: str, columns: int = 2, height: float = 4.8):
    figure = Figure(figsize=(12, height), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, figure.subplots(1, columns)


def _logarithmic(axes, x: str, y: str = "") -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(_number)
    axes.yaxis.set_major_formatter(_number)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def _number(value: float, _) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


PICTURES = {
    "scaling_communication.png": communication,
    "scaling_ratio.png": ratio,
    "scaling_knl.png": knl_scaling,
    "scaling_records.png": records,
    "scaling_strong_weak.png": strong_and_weak,
    "scaling_limits.png": limits,
}
