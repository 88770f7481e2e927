"""`--dry_run`: quickly prints what a job would do, without starting it.

A launcher calls this before it starts anything:

    if dry_run.wanted():
        return dry_run.show(settings, cluster)

Only the picture of the schedule is written, to --dry_run_output and never into --model_dir, so that
a later run finds that folder unchanged.
"""

import dataclasses
import math
import os
from collections.abc import Iterator

import numpy as np
from absl import flags as absl_flags

import models
from launch.cli import flags
from launch.run import (
    batch_norm_groups,
    build_input,
    build_model,
    extension,
    forecast,
    preflight,
    summary,
)
from launch.run.extension import Extension
from launch.run.layout import CHECKPOINTS, checkpoints_in
from launch.run.settings import TrainingSettings
from tf_lars import machine, planner, schedule_formulas
from tf_lars.cluster.spec import Cluster
from tf_lars.data import order
from tf_lars.data.batch_schedule import sizes_of
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import EXIT_DONE, require
from tf_lars.planner.devices import Device
from tf_lars.planner.plan_table import planned_time
from tf_lars.planner.workloads import name_at
from tf_lars.schedule_formulas import rate_factor
from tf_lars.setting import check, picture, setting, within
from tf_lars.training.checkpoint_names import nothing_to_resume
from tf_lars.xla import targets

LISTED_WORKERS = 16
"""Largest number of workers that are all listed."""
_INDENT = " " * 12


@dataclasses.dataclass(frozen=True)
class DryRunSettings:
    """Settings of dry runs; without `dry_run`, the others have no effect."""

    dry_run: bool = setting(
        "Print the cluster, the batch arithmetic, the schedule and the planned time, draw the "
        "schedule, and start nothing.",
        False,
        group="Dry run",
    )
    dry_run_output: str = setting(
        "File for the picture of the schedule; empty for none.",
        "schedule.png",
        rule=picture(),
        group="Dry run",
    )
    devices_per_worker: int | None = setting(
        "Devices per worker, for a dry run away from the job's machines. By default what the "
        "launcher knows, or the GPUs of this machine, or 1.",
        None,
        rule=within(1, 100_000),
        group="Dry run",
    )
    accelerator: str | None = setting(
        "Device family for the planned time of a dry run, one of those with published results: "
        f"{', '.join(planner.accelerators())}; or by its data sheet, not measured: "
        f"{', '.join(planner.unmeasured_accelerators())}. By default that of this machine's GPUs.",
        None,
        group="Dry run",
    )
    target: str | None = setting(
        "Device whose memory a dry run checks, such as h100_sxm or v5e: see launch.compile_for "
        "--list.",
        None,
        group="Dry run",
    )
    memory: str | None = setting(
        "File of launch.compile_for for --target; by default the models and devices that come "
        "with the package.",
        None,
        group="Dry run",
    )
    calibrate: tuple[str, ...] | None = setting(
        "Folders of finished runs (their --model_dir) from which to predict the planned time of a "
        "dry run.",
        None,
        group="Dry run",
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags of dry runs."""
    flags.define(DryRunSettings)


def wanted() -> bool:
    """Returns whether this is a dry run."""
    return absl_flags.FLAGS.dry_run


def show(
    settings: TrainingSettings,
    cluster: Cluster,
    *,
    devices_per_worker: int | None = None,
    accelerator: str | None = None,
    joined: bool = True,
) -> int:
    """Prints what the job would do, and draws its schedule; returns the exit code.

    Args:
      settings: Settings of the run.
      cluster: Cluster of the job.
      devices_per_worker: Devices per worker, if the launcher knows it; the flag takes precedence.
      accelerator: The planner's name of the devices, if the launcher knows it; the flag takes
        precedence.
      joined: Whether this process would itself be one of the workers, rather than start them.

    Raises:
      InputError: If the run would end with this error at its start.
    """
    asked = DryRunSettings(**flags.values(DryRunSettings))
    preflight.check(settings, cluster.num_workers, make_folders=False)
    here = machine.gpu_names()
    devices_per_worker = asked.devices_per_worker or devices_per_worker or len(here) or 1
    devices = cluster.num_workers * devices_per_worker
    shares = order.shares(settings.batches, devices)
    if settings.evaluation_batch_size:
        order.per_replica_batch_size(settings.evaluation_batch_size, devices)
    info = build_input.description(settings)
    extended = extension.planned(settings)
    examples = info.splits["train"].num_examples
    taken = settings.steps_over(examples)
    steps = taken.epoch_ends(settings.epochs)[-1]
    schedule = _Schedule(settings, steps, examples, extended)
    epochs = settings.epochs - (extended.ends[-1] if extended else 0)
    lines = [
        "dry run     nothing is started",
        *_cluster(cluster, joined),
        *_batch(settings, cluster.num_workers, devices_per_worker, shares),
        *_ramp(settings, taken, devices),
        batch_norm_groups.resolve(settings, devices).line,
        summary.data(settings, info),
        summary.model(settings, _size(settings, info)),
        *summary.beginning(settings),
        f"{summary.steps(settings, examples, steps)}: {taken.position(steps):,} images",
        *summary.extension(settings, extended),
        summary.optimizer(settings),
        f"{_INDENT}momentum {settings.momentum:g}, weight decay {settings.weight_decay:g}, "
        f"label smoothing {settings.label_smoothing:g}",
        *schedule.lines(),
        *_time(settings, asked, devices, epochs, examples, accelerator, here),
        *_memory(settings, asked, shares),
        _model_dir(settings),
    ]
    if asked.dry_run_output:
        schedule.draw(asked.dry_run_output)
        lines.append(f"picture     {asked.dry_run_output}")
    print("\n".join(lines), flush=True)
    return EXIT_DONE


def _cluster(cluster: Cluster, joined: bool) -> Iterator[str]:
    if not cluster.workers:
        yield f"cluster     1 worker, this process ({cluster.source})"
        return
    started = "" if joined else "; it would start them on free ports such as these"
    yield f"cluster     {cluster.num_workers} workers, from {cluster.source}{started}"
    ranks = range(cluster.num_workers)
    shown = set(ranks)
    if len(ranks) > LISTED_WORKERS:
        shown = {*ranks[: LISTED_WORKERS // 2], cluster.rank, ranks[-1]}
    width = len(str(ranks[-1]))
    for rank in ranks:
        if rank in shown:
            this = "  this process" if joined and rank == cluster.rank else ""
            address = cluster.workers[rank] or "registers its address at the start"
            yield f"{_INDENT}rank {rank:>{width}}  {address}{this}"
        elif rank - 1 in shown:
            yield f"{_INDENT}..."


def _batch(
    settings: TrainingSettings, workers: int, devices_per_worker: int, shares: list[int]
) -> Iterator[str]:
    """Yields the line about the batch, or about each batch of a schedule."""
    size = order.common_micro_batch(settings.micro_batch_size, shares)
    sizes = sizes_of(settings.batches)
    width = len(f"{max(sizes):,}") if len(sizes) > 1 else 0
    for index, (batch, share) in enumerate(zip(sizes, shares, strict=True)):
        line = (
            f"{_INDENT if index else 'batch       '}{batch:>{width},} = "
            f"{workers:,} {_plural('worker', workers)} x "
            f"{devices_per_worker} {_plural('device', devices_per_worker)} x "
        )
        if size is None:
            yield f"{line}{share:,} images"
        elif isinstance(size, str):
            yield f"{line}{share:,} images, in the largest equal parts that fit"
        else:
            parts = order.num_micro_batches(share, size)
            yield f"{line}{parts:,} {_plural('micro-batch', parts)} x {size:,} images"


def _ramp(settings: TrainingSettings, taken: order.Steps, devices: int) -> Iterator[str]:
    """Yields a table of the phases of a schedule of batches."""
    if not settings.batch_size_schedule:
        return
    shares = order.shares(settings.batches, devices)
    size = order.common_micro_batch(settings.micro_batch_size, shares)
    ends = taken.epoch_ends(settings.epochs)
    last_steps = [*taken.changes, ends[-1]]
    yield (
        f"ramp        {'epochs':>9}  {'batch':>9}  {'steps':>9}  {'micro-batches':>13}  rate factor"
    )
    for phase, end in zip(taken.phases, last_steps, strict=True):
        first, end = phase.first_step, min(end, ends[-1])
        if first >= end:
            break
        begun = sum(one <= first for one in ends)
        done = sum(one <= end for one in ends)
        batch, parts = phase.global_batch_size, "auto"
        if not isinstance(size, str):
            parts = f"{batch // devices // (size or batch // devices):,}"
        factor = rate_factor(settings.rate_rule, batch / settings.global_batch_size)
        epochs = f"{begun + 1}-{done}" if done > begun + 1 else f"{done}"
        yield f"{_INDENT}{epochs:>9}  {batch:>9,}  {end - first:>9,}  {parts:>13}  {factor:.4g}"


def _size(settings: TrainingSettings, info: DatasetInfo) -> str:
    """Returns parameters and FLOPs if they are known without building the model."""
    known = planner.workloads().get(name_at(settings.model, settings.image_size))
    # Counted for ImageNet's classes, all of them trained.
    if known is None or info.num_classes != 1000 or settings.freeze:
        return "its size is counted when it is built"
    return str(models.Description(known.parameters, round(known.forward_flops)))


class _Schedule:
    """The schedule of a run, or of the epochs that extend it."""

    def __init__(
        self,
        settings: TrainingSettings,
        steps: int,
        examples: int,
        extended: Extension | None,
    ):
        self._settings = settings
        self._first = extended.first_step if extended else 0
        self._steps = extended.added_steps(steps) if extended else steps
        self._whole = settings.steps_over(examples)
        self._taken, _ = build_model.steps_of_schedule(settings, steps, examples, extended)
        batch = settings.global_batch_size
        equivalent = order.equivalent_steps(self._taken, self._steps, batch)
        self._arguments = build_model.schedule_arguments(settings, equivalent, examples)

    def _rates(self, steps):
        settings = self._settings
        equivalent, factor = schedule_formulas.ramped(
            np,
            np.asarray(steps, np.float64),
            self._taken.phases,
            settings.global_batch_size,
            settings.rate_rule,
        )
        rates = schedule_formulas.rates(settings.schedule, equivalent, **self._arguments)
        return rates * factor

    def _step_at(self, equivalent: float) -> int:
        """Returns the step at which the examples of some steps of the first batch are used."""
        examples = equivalent * self._settings.global_batch_size
        phase = max(p for p in self._taken.phases if p.first_position <= examples)
        return phase.first_step + math.ceil(
            (examples - phase.first_position) / phase.global_batch_size
        )

    def lines(self) -> Iterator[str]:
        """Yields a table of rates."""
        steps, warmup_steps = self._steps, self._step_at(self._arguments["warmup_steps"])
        shown = {0: ["first step"]}
        shown.setdefault(warmup_steps, []).append("end of warm-up")
        for percent in (25, 50, 75):
            shown.setdefault(steps * percent // 100, []).append(f"{percent} %")
        shown.setdefault(steps - 1, []).append("last step")
        shown = {step: shown[step] for step in sorted(shown) if step < steps}
        if not warmup_steps:
            shown[0].remove("end of warm-up")
        yield f"schedule    {'step':>9}  {'epoch':>7}  {'rate':>10}"
        for (step, names), rate in zip(shown.items(), self._rates(list(shown)), strict=True):
            step += self._first
            epoch = self._whole.epoch(step)
            yield f"{_INDENT}{step:>9,}  {epoch:>7.2f}  {rate:>10.5g}  {', '.join(names)}"

    def draw(self, path: str) -> None:
        """Draws the picture of the schedule."""
        from tf_lars.tracking import schedule_picture

        settings, last = self._settings, self._steps - 1
        # Every step of a short run; for a long run, enough for the picture's width in pixels, and
        # both sides of each corner.
        warmup_steps = self._step_at(self._arguments["warmup_steps"])
        boundaries = schedule_formulas.step_boundaries(self._arguments["total_steps"])
        corners = [warmup_steps, *map(self._step_at, boundaries), *self._taken.changes]
        beside = [corner + side for corner in corners for side in (-1, 0)]
        at = np.unique(np.clip([*np.linspace(0, last, 2000), *beside], 0, last).astype(int))
        batch = settings.batch_size_schedule or f"{settings.global_batch_size:,}"
        at = at + self._first
        schedule_picture.draw(
            at,
            np.array([self._whole.epoch(step) for step in at]),
            self._rates(at - self._first),
            path,
            f"{settings.model}, {settings.optimizer}, global batch {batch}",
            warmup_end=self._whole.epoch(self._first + warmup_steps) if warmup_steps else None,
        )


def _time(
    settings: TrainingSettings,
    asked: DryRunSettings,
    devices: int,
    epochs: int,
    examples: int,
    accelerator: str | None,
    here: list[str],
) -> Iterator[str]:
    """Yields the lines with the planned time, or with how to get it."""
    device: Device
    if asked.calibrate:
        device = planner.calibrate(asked.calibrate, accelerator=asked.accelerator)
    else:
        name = asked.accelerator or accelerator or forecast.family_of(here)
        if name is None:
            these = f" ({', '.join(sorted(set(here)))})" if here else ""
            yield (
                f"time        unknown for these devices{these}: --accelerator=NAME plans it from "
                f"published results, {forecast.CALIBRATE}"
            )
            return
        device = planner.device(name)
    planned = forecast.plan(settings, device, devices, epochs, examples)
    if planned is None:
        yield (
            f"time        unknown for {name_at(settings.model, settings.image_size)}, which the "
            f"planner does not know: {forecast.CALIBRATE}"
        )
        return
    yield f"time        {planned_time(planned)}, on {devices:,} x {planned.accelerator}"
    yield (
        f"{_INDENT}{1e3 * planned.step_seconds:,.4g} ms per step; the input must give "
        f"{planned.images_per_second:,.0f} images/s"
    )
    for note in forecast.notes(settings, device, devices):
        yield f"note        {note}"


def _memory(settings: TrainingSettings, asked: DryRunSettings, shares: list[int]) -> Iterator[str]:
    """Yields a line about the memory of a device.

    Raises:
      InputError: The batch does not fit into it.
    """
    if asked.target is None:
        require(
            asked.memory is None,
            "--memory",
            "beside --target",
            asked.memory,
            "Name the device whose memory is checked, such as --target=h100_sxm.",
        )
        return
    told = forecast.memory(settings, targets.target(asked.target), asked.memory, max(shares))
    yield f"memory      {told}"


def _model_dir(settings: TrainingSettings) -> str:
    """Returns the line that tells where the run would resume."""
    found = checkpoints_in(settings.model_dir)
    if not found:
        if settings.resume == "must":
            raise nothing_to_resume(os.path.join(settings.model_dir, CHECKPOINTS))
        what = "starts afresh"
    elif settings.resume == "never":
        what = f"starts afresh, and moves the checkpoints up to {found[-1]} aside"
    elif settings.extend:
        what = f"continues from {found[-1]} if it is complete"
    else:
        what = f"resumes from {found[-1]} if it is complete and has the same settings"
    return f"model_dir   {settings.model_dir}: the run {what}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}es" if noun.endswith("ch") else f"{noun}s"
