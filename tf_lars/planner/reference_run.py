"""A finished run on your own data, from which the planner scales to other batches.

The run gives E0, the examples to the target, and B0, its batch; `examples_needed` needs its
critical batch too. All are read from the files in the run's folder, without TensorFlow.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.planner import critical_batch_file
from tf_lars.planner.examples_needed import ExamplesNeeded, Phase, phases_of
from tf_lars.setting import above, batch_size, number, whole_number, within

AUTO = "auto"
"""Text for the critical batch of the run itself."""

_LARGEST_BATCH = 1e12


@dataclasses.dataclass(frozen=True)
class ReferenceRun:
    """The examples that a finished run needed to a target.

    Attributes:
      folder: Folder of the run.
      model, data: Names of its model and data, or "".
      global_batch_size: Batch of the run, B0.
      examples: Examples to the target, E0 = steps x batch.
      examples_per_epoch: Examples of an epoch, N.
      outcome: What it had reached then, in words.
    """

    folder: str
    model: str
    data: str
    global_batch_size: int
    examples: int
    examples_per_epoch: float
    outcome: str


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The examples that any batch needs, and where the numbers are from.

    Attributes:
      needed: Examples by batch, E(B).
      run: The run with E0 and B0.
      notes: Remarks for the user.
    """

    needed: ExamplesNeeded
    run: ReferenceRun
    notes: tuple[str, ...]


def scaling(
    runs: Sequence[str],
    critical_batch: str,
    *,
    target_top1: float | None = None,
    target_loss: float | None = None,
) -> Scaling:
    """Returns the examples that any batch needs, by finished runs and their critical batch.

    Args:
      runs: Folders or results.json files of finished runs. The first one that has reached the
        target gives E0 and B0.
      critical_batch: "auto", a number of examples or the path of a critical_batch.json. "auto"
        takes the critical_batch.json of the first run, and without one the last gradient noise
        scale in its metrics.jsonl, which is only a proxy.
      target_top1: Target, as a top-1 accuracy of validation that the runs have reached. The first
        evaluation with it counts, so E0 may be too large by the examples between two evaluations.
        By default, the target is whatever the first run had reached when it ended.
      target_loss: The same as a loss of validation.

    Raises:
      InputError: A file cannot be read or lacks a value, no run has reached the target, or the
        critical batch is unknown.
    """
    if target_top1 is not None and target_loss is not None:
        raise InputError(
            "The target must be an accuracy or a loss. Received: both "
            f"--target_top1={target_top1:g} and --target_loss={target_loss:g}. Leave one out."
        )
    run = _first_at_target(runs, target_top1, target_loss)
    phases, source = _phases(critical_batch, _folder(runs[0]), run)
    needed = ExamplesNeeded(run.global_batch_size, phases)
    origin = (
        f"{run.folder} {run.outcome} after {run.examples:,} examples at batch "
        f"{run.global_batch_size:,}; the epochs are those to the same target, with the learning "
        "rate tuned at each batch"
    )
    return Scaling(needed, run, (origin, *source, *_range_notes(needed)))


def _first_at_target(
    runs: Sequence[str], target_top1: float | None, target_loss: float | None
) -> ReferenceRun:
    if target_top1 is not None:
        name, target, sign, words = "top1", target_top1, 1, f"reached {target_top1:g} top-1"
    elif target_loss is not None:
        name, target, sign, words = "loss", target_loss, -1, f"reached a loss of {target_loss:g}"
    else:
        results = _results(runs[0])
        at = f" at {results['top1']:.4g} top-1" if "top1" in results else ""
        return _run(
            runs[0], results, list(_lines(_folder(runs[0]))), results["steps"], f"ended{at}"
        )
    best = []
    for path in runs:
        results, lines = _results(path), list(_lines(_folder(path)))
        at_end = {"step": results["steps"], f"val_{name}": results.get(name)}
        evaluations = [
            (line["step"], value)
            for line in [*lines, at_end]
            if (value := _finite(line.get(f"val_{name}"))) is not None and line["step"] > 0
        ]
        reached = [step for step, value in evaluations if sign * value >= sign * target]
        if reached:
            return _run(path, results, lines, reached[0], words)
        if evaluations:
            best.append(f"{sign * max(sign * v for _, v in evaluations):.4g} in {_folder(path)}")
    raise InputError(
        "A run in --calibrate must have reached the target. Received: "
        f"--target_{name}={target:g}, but the best is {', '.join(best) or 'unknown'}. Give a "
        "target that a run has reached."
    )


def _run(
    path: str, results: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], step: int, words: str
) -> ReferenceRun:
    batch = results["global_batch_size"]
    # Lines tell the epoch in fractions; results.json rounds it up.
    fractions = [
        line["step"] * batch / epoch
        for line in lines
        if (epoch := _finite(line.get("epoch"))) and epoch > 0 and line["step"] > 0
    ]
    per_epoch = fractions[-1] if fractions else results["steps"] * batch / results["epochs"]
    names = {key: results[key] if isinstance(results.get(key), str) else "" for key in _NAMES}
    return ReferenceRun(
        folder=_folder(path),
        global_batch_size=batch,
        examples=step * batch,
        examples_per_epoch=per_epoch,
        outcome=words,
        **names,
    )


_NAMES = ("model", "data")


def _phases(
    critical_batch: str, folder: str, run: ReferenceRun
) -> tuple[tuple[Phase, ...], list[str]]:
    """Returns the phases of the run, and remarks on their source."""
    value = _as_number(critical_batch)
    if value is not None:
        value = number("--critical_batch", value, above(0, _LARGEST_BATCH))
        return (Phase(run.examples, value),), []
    path = critical_batch
    if critical_batch == AUTO:
        path = os.path.join(folder, critical_batch_file.FILE_NAME)
        if not files.exists(path):
            return _from_noise_scale(folder, run)
    if not files.exists(path):
        raise InputError(
            "--critical_batch must be auto, a number of examples or a file of critical batches. "
            f"Received: {critical_batch!r}, which does not exist. Give one of them."
        )
    content = critical_batch_file.read(path)
    try:
        phases = phases_of(content.points, run.examples)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')} ({path}).") from error
    notes = []
    if len(phases) > 1:
        notes.append(
            f"the critical batches of {len(phases)} phases of training, from {path}: "
            f"{min(p.critical_batch for p in phases):,.0f} to "
            f"{max(p.critical_batch for p in phases):,.0f}"
        )
    else:
        notes.append(f"the critical batch is from {path}, for all of training")
    for name in _NAMES:
        measured, own = getattr(content, name), getattr(run, name)
        if measured and own and measured != own:
            notes.append(f"the file is of {name} {measured}, but the run is of {name} {own}")
    return phases, notes


def _from_noise_scale(folder: str, run: ReferenceRun) -> tuple[tuple[Phase, ...], list[str]]:
    scales = [
        (line["step"], scale)
        for line in _lines(folder)
        if (scale := _finite(line.get("noise/scale"))) is not None and scale > 0
    ]
    if not scales:
        raise InputError(
            f"--critical_batch=auto needs a {critical_batch_file.FILE_NAME} or a noise scale in "
            f"the metrics.jsonl of the first run. Received: {folder!r}, which has neither. Give "
            "--critical_batch=N, or train on two devices or in micro-batches, whose runs record it."
        )
    step, scale = scales[-1]
    note = (
        f"the critical batch is the gradient noise scale at step {step:,}, only a proxy "
        "(arXiv:2505.23971) that can be far off; launch.critical_batch measures the batch itself"
    )
    return (Phase(run.examples, scale),), [note]


def _range_notes(needed: ExamplesNeeded) -> Iterator[str]:
    unknown = sum(p.low is None and p.high is None for p in needed.phases)
    if not needed.knows_its_error:
        yield (
            "the uncertainty of the critical batch is unknown; the range of the time covers only "
            "that of the step"
        )
    elif unknown:
        yield (
            f"{unknown} of {len(needed.phases)} critical batches have no interval; the range of "
            "the time takes them as exact"
        )


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _folder(path: str) -> str:
    return path if files.is_folder(path) else os.path.dirname(path) or os.curdir


def _results(path: str) -> dict[str, Any]:
    """Returns the content of results.json, with the entries that are needed here checked."""
    path = os.path.join(path, "results.json") if files.is_folder(path) else path
    try:
        with files.reading(path):
            results = files.read_json(path)
        whole = {
            "steps": within(1, 10**12),
            "epochs": within(1, 10**9),
            "global_batch_size": batch_size(),
        }
        checked = {name: whole_number(name, results[name], rule) for name, rule in whole.items()}
        measured = {k: v for k in ("top1", "loss") if (v := _finite(results.get(k))) is not None}
        return {name: results.get(name) for name in _NAMES} | checked | measured
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).rstrip(".") if isinstance(error, InputError) else repr(error)
        raise InputError(
            "--critical_batch needs the steps, epochs and batch in the results.json of a finished "
            f"run. Received: {path!r} ({reason[:300]}). Name the folder of a run of a launcher."
        ) from error


def _lines(folder: str) -> Iterator[Mapping[str, Any]]:
    """Yields the lines of metrics.jsonl that are complete; none if there is no such file."""
    path = os.path.join(folder, "metrics.jsonl")
    if not files.exists(path):
        return
    try:
        with files.reading(path), files.open_file(path, "r") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"metrics.jsonl must be as a launcher has written it. Received: {path!r} ({error}). "
            "Restore or remove it."
        ) from error
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def _finite(value: Any) -> float | None:
    """Returns a number of JSON as a finite float, or None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e100 and math.isfinite(value) else None
