"""Measures the critical batch of a run, by branches from its checkpoints with other batches.

python -m launch.critical_batch --model_dir=RUN
"""

import dataclasses
import functools
import json
import math
import os
import statistics
import sys
from collections.abc import Callable

from launch.cli import app, flags, run_flags
from launch.run import build_input, build_model
from launch.run.layout import CHECKPOINTS
from launch.run.settings import TrainingSettings
from launch.run.time_budget import TimeBudget
from tf_lars import scaling
from tf_lars.cluster.discovery import check_alone
from tf_lars.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from tf_lars.planner import critical_batch_file
from tf_lars.planner.critical_batch_file import CriticalBatches, CriticalBatchPoint
from tf_lars.setting import Rule, above, batch_size, setting, within

_GROUP = "Measurement"


@dataclasses.dataclass(frozen=True)
class CriticalBatchSettings(run_flags.RunSettings):
    """Settings of a measurement; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range, or the batches are not powers of two apart.
    """

    at: tuple[float, ...] = setting(
        "Shares of the run at which to measure, such as 0.1,0.4,0.8. The nearest checkpoints are "
        "taken; a run keeps three unless --keep_checkpoints says otherwise.",
        (0.1, 0.4, 0.8),
        rule=within(0, 1),
        group=_GROUP,
    )
    smallest_batch: int | None = setting(
        "Smallest batch of the branches; by default an eighth of the run's, at least 8.",
        None,
        rule=batch_size(),
        group=_GROUP,
    )
    largest_batch: int | None = setting(
        "Largest batch of the branches, a power of two times the smallest; by default four times "
        "the run's.",
        None,
        rule=batch_size(),
        group=_GROUP,
    )
    branch_steps: int = setting(
        "Steps of the branch with the largest batch; all branches take its number of examples.",
        16,
        rule=Rule("a multiple of 8, up to 1,000,000", lambda n: 0 < n <= 1_000_000 and n % 8 == 0),
        group=_GROUP,
    )
    repeats: int = setting(
        "Repeats with other examples, from which the uncertainty follows.",
        3,
        rule=within(1, 1000),
        group=_GROUP,
    )
    tolerance: float = setting(
        "Relative excess over the loss of the smallest batch that the critical batch may have.",
        0.05,
        rule=above(0, 1),
        group=_GROUP,
    )
    budget_minutes: float | None = setting(
        "Minutes after which no further branch is started; the same command continues.",
        None,
        rule=above(0, 1_000_000),
        group=_GROUP,
    )


def define() -> None:
    """Defines the flags of this program."""
    flags.define(CriticalBatchSettings)


def main() -> int:
    """Runs the program; returns its exit code."""
    check_alone("launch.critical_batch")
    asked = CriticalBatchSettings(**flags.values(CriticalBatchSettings))
    run = asked.of_run()
    batches = ladder(asked, run.global_batch_size)

    from tf_lars.study.branch_log import BranchLog
    from tf_lars.study.branches import Branch

    checkpoints = _checkpoints(asked, run)
    examples = build_input.description(run).splits["train"].num_examples
    told = json.dumps({"batches": batches, "branch_steps": asked.branch_steps, "seed": run.seed})
    log = BranchLog(os.path.join(asked.model_dir, "critical_batch.csv"), told)
    todo = [
        branch
        for repeat in range(asked.repeats)
        for step in checkpoints
        for batch in batches
        if (branch := Branch(step, repeat, batch)) not in log.results
    ]
    length = batches[-1] * asked.branch_steps
    print(
        f"{run.model}, {run.optimizer}: {len(todo)} branches of {length:,} examples at batches "
        f"from {batches[0]:,} to {batches[-1]:,}, from steps "
        f"{', '.join(f'{step:,}' for step in checkpoints)}; {len(log.results)} done",
        flush=True,
    )
    code = EXIT_DONE
    try:
        if todo:
            _run(asked, todo, log, functools.partial(_runner, asked, run, batches, checkpoints))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        code = EXIT_INTERRUPTED
    points = {step: _point(asked, log, batches, step) for step in checkpoints}
    known = {step: point for step, point in points.items() if point is not None}
    if known:
        _report(asked, run, log, known, examples)
    return code


def ladder(asked: CriticalBatchSettings, batch: int) -> list[int]:
    """Returns the batches of the branches, each twice the one before.

    Args:
      asked: Settings of the measurement.
      batch: Batch of the run.

    Raises:
      InputError: The largest batch is not a power of two times the smallest, or less than four.
    """
    smallest = asked.smallest_batch or max(8, batch // 8)
    largest = asked.largest_batch or smallest * 2 ** max(2, round(math.log2(4 * batch / smallest)))
    doublings = math.log2(largest / smallest)
    if not doublings.is_integer() or doublings < 2:
        raise InputError(
            "--largest_batch must be 4, 8, 16, ... times --smallest_batch. Received: "
            f"{largest:,} and {smallest:,}. Use {4 * smallest:,}, for example."
        )
    return [smallest * 2**i for i in range(int(doublings) + 1)]


def _checkpoints(asked: CriticalBatchSettings, run: TrainingSettings) -> dict[int, object]:
    """Returns the checkpoints nearest to the shares of the run, by step and in order."""
    from tf_lars.data import order
    from tf_lars.training.checkpoint_folder import complete_checkpoints

    directory = os.path.join(asked.model_dir, CHECKPOINTS)
    found = {one.step: one for one in complete_checkpoints(directory)}
    if not found:
        raise InputError(
            "--model_dir must have a checkpoint to branch from. Received: "
            f"{asked.model_dir!r} without a complete one. Train it for an epoch."
        )
    examples = build_input.description(run).splits["train"].num_examples
    last = order.epoch_end_steps(examples, run.batches, run.epochs)[-1]
    steps = sorted({min(found, key=lambda step: abs(step - share * last)) for share in asked.at})
    if len(steps) < len(asked.at):
        print(
            f"note: the run has checkpoints of steps {', '.join(map(str, sorted(found)))} only; "
            "with --keep_checkpoints=1000, it keeps all",
            flush=True,
        )
    return {step: found[step] for step in steps}


def _run(asked: CriticalBatchSettings, todo: list, log, make_runner: Callable) -> None:
    """Runs branches until all have run or the time is over."""
    budget = TimeBudget(asked.budget_minutes, "branches")
    runner = make_runner()
    for number, branch in enumerate(todo, start=1):
        if not budget.allows(len(todo) - number + 1):
            return
        result = runner.run(branch)
        log.add(result)
        budget.add(result.seconds)
        print(
            f"branch {number}/{len(todo)}  step {branch.step:,}  repeat {branch.repeat + 1}  batch "
            f"{branch.global_batch_size:<7,} loss {result.loss:.5g}  {result.seconds:.1f} s  "
            f"ETA {budget.eta(len(todo) - number)}",
            flush=True,
        )


def _runner(asked: CriticalBatchSettings, run: TrainingSettings, batches, checkpoints):
    import tensorflow as tf

    from tf_lars import Trainer, create_strategy
    from tf_lars.data.image_input import to_device_batch
    from tf_lars.study.adjustable_schedule import AdjustableRate
    from tf_lars.study.branches import BranchRunner
    from tf_lars.tracking.observation import Observe

    info = build_input.description(run)
    strategy = create_strategy()
    replicas = strategy.num_replicas_in_sync
    if batches[0] % replicas:
        raise InputError(
            "--smallest_batch must be a multiple of the number of devices. Received: "
            f"{batches[0]} on {replicas}."
        )
    rate = AdjustableRate()
    with strategy.scope():
        model = build_model.create(
            run,
            num_classes=info.num_classes,
            steps=1,
            num_examples=info.splits["train"].num_examples,
            schedule=rate,
        )
    trainer = Trainer(
        model,
        strategy,
        prepare_batch=functools.partial(to_device_batch, num_classes=info.num_classes),
        micro_batch_size=batches[0] // replicas,
        observe=Observe(noise_scale=True),
    )
    size = run.image_size
    trainer.build(
        {
            "image": tf.TensorSpec([batches[0], size, size, 3], tf.uint8),
            "label": tf.TensorSpec([batches[0]], tf.int32),
        }
    )
    scale = scaling.lars_scaling if run.optimizer == "lars" else scaling.linear_scaling
    plain = dataclasses.replace(
        run, image_size_schedule=None, batch_size_schedule=None, batch_schedule_rate=None
    )
    taken = run.steps_over(info.splits["train"].num_examples)
    return BranchRunner(
        trainer,
        rate,
        restore=lambda step: checkpoints[step].read_into(model),
        data=lambda batch: build_input.training(plain, batch),
        examples=batches[-1] * asked.branch_steps,
        used=taken.position,
        rate_at=lambda step: checkpoints[step].history[-1]["learning_rate"],
        scale=scale,
        batch_at=taken.batch_size,
    )


def _point(asked: CriticalBatchSettings, log, batches: list[int], step: int):
    """Returns the critical batch at a step, as the largest within the tolerance and as B_crit.

    None where no repeat has run at all batches, or the smallest one diverged.
    """
    from tf_lars.study import critical_point, examples_law
    from tf_lars.study.branches import Branch

    whole = [
        repeat
        for repeat in range(asked.repeats)
        if all(Branch(step, repeat, batch) in log.results for batch in batches)
    ]
    if not whole:
        return None
    results = {b: [log.results[Branch(step, r, b)] for r in whole] for b in batches}
    losses = {batch: [one.loss for one in found] for batch, found in results.items()}
    if not all(map(math.isfinite, losses[batches[0]])):
        return None
    return (
        critical_point.measure(losses, asked.tolerance),
        examples_law.fit(
            {batch: [one.losses for one in found] for batch, found in results.items()}
        ),
    )


def _report(asked, run: TrainingSettings, log, points, examples: int) -> None:
    """Prints, draws and writes what has been measured."""
    from tf_lars.study import critical_picture

    taken = run.steps_over(examples)
    written = []
    for step, (within_tolerance, law) in points.items():
        of_step = [one for one in log.results.values() if one.branch.step == step]
        scales = [one.noise_scale for one in of_step if one.noise_scale]
        noise = statistics.median(scales) if scales else None
        told = critical_picture.sentence(step, within_tolerance, asked.tolerance, law, noise)
        print(told, flush=True)
        written.append(
            CriticalBatchPoint(
                step=step,
                epoch=taken.epoch(step),
                examples=float(taken.position(step)),
                critical_batch=law.critical_batch,
                low=law.low,
                high=law.high,
                noise_scale=noise,
                efficient=within_tolerance.efficient(asked.tolerance),
            )
        )
    path = os.path.join(asked.model_dir, critical_batch_file.FILE_NAME)
    critical_batch_file.write(
        path,
        CriticalBatches(
            tuple(written),
            model=run.model,
            data=build_input.description(run).name,
            optimizer=run.optimizer,
            tolerance=asked.tolerance,
        ),
    )
    picture = os.path.join(asked.model_dir, "critical_batch.png")
    critical_picture.draw(
        {step: point for step, (point, _) in points.items()}, asked.tolerance, picture
    )
    print(f"results in {path} and {log.path}, picture in {picture}", flush=True)


if __name__ == "__main__":
    define()
    app.run(main)
