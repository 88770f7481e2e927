"""Compares SGD, Nesterov and LARS at large batches: many short runs in one process, and a picture.

python -m launch.large_batch_study --preset=digits
"""

import dataclasses
import math
import os
import statistics
import sys
import time
import types
import typing

from absl import flags

import models
from launch import app
from launch import input as inputs
from launch import model as model_of
from launch.settings import PRECISIONS, SHORT_RUN_EXAMPLES, SHORT_RUN_STEPS
from tf_lars.data import AUGMENTATIONS, check_augmentation
from tf_lars.data.records import DatasetInfo
from tf_lars.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from tf_lars.study import picture, plan, summary
from tf_lars.study.log import ResultLog
from tf_lars.study.plan import Result, Trial
from tf_lars.study.presets import PRESETS, StudySettings

FLAGS = flags.FLAGS

_HELP = {
    "model": "As --model of launch.local.",
    "data_dir": "Folder written by launch.prepare_imagenet; the digits are prepared if missing.",
    "image_size": "Side of the square images that the network sees, in pixels.",
    "stored_size": "Side of the images in memory that augmentation takes its boxes from.",
    "crop_fraction": "Side of the evaluation's centre crop over the image's short side.",
    "held_out_examples": "Training examples that no trial trains on; rates are chosen on them, "
    "never on the test set.",
    "epochs": "Passes over the training data, in each trial.",
    "warmup_epochs": "Epochs in which the rate rises linearly.",
    "weight_decay": "L2 decay, not of biases and batch normalisation.",
    "batch_sizes": "Global batches to compare.",
    "optimizers": f"Of {', '.join(plan.OPTIMIZERS)}.",
    "sgd_learning_rates": "The grid of SGD and of Nesterov.",
    "lars_learning_rates": "The grid of LARS.",
    "seeds": "Of the baseline, and of what is shown at the main batch.",
    "few_seeds": "How many of the seeds serve everything else that is shown.",
    "grid_seeds": "How many of the seeds choose a rate from the grid.",
    "main_batch_size": "The batch with all seeds, whose accuracy is shown against the rate.",
    "baseline_batch_size": "The small batch of the baseline, SGD.",
    "baseline_learning_rate": "Its rate, from which the linear rule scales.",
    "lars_batch_size": "The batch of --lars_learning_rate.",
    "lars_learning_rate": "The rate from which LARS's rule, the square root of the batch, scales.",
    "longer_warmup_epochs": "Longer warm-ups for SGD at the linear rule's rate.",
    "longer_warmup_batch_sizes": "The batches of --longer_warmup_epochs.",
    "augmentation": f"Of all trials: one of {', '.join(AUGMENTATIONS)}.",
    "other_augmentation": "What to compare it with, at the rates that were chosen without it; "
    "empty: nothing.",
    "decay_power": "Power of the polynomial decay to 0 after the warm-up.",
    "momentum": "Momentum of all optimizers.",
    "trust_coefficient": "Trust coefficient of LARS.",
    "excluded_learning_rate_multiplier": "Factor on the rate of what LARS does not adapt: biases "
    "and batch normalisation. A network without batch normalisation needs about 0.01.",
    "label_smoothing": "Share of the label spread over all classes.",
    "mixed_precision": f"Arithmetic of the network: {' or '.join(PRECISIONS[:2])}.",
    "reestimate_batch_norm": "Estimate the statistics of batch normalisation anew, from up to "
    f"{SHORT_RUN_EXAMPLES:,} training examples, before a trial is evaluated. By default in trials "
    f"of fewer than {SHORT_RUN_STEPS:,} steps, whose moving averages are useless.",
    "budget_minutes": "Begin no trial, after the first, that would end later than so many minutes "
    "after the start; the same command goes on where it stopped. 0: no end.",
}


def define() -> None:
    """Defines the flags, one for each field of `StudySettings`."""
    flags.DEFINE_string("preset", "digits", f"Settings by name: {', '.join(PRESETS)}. A flag wins.")
    flags.DEFINE_string(
        "output",
        None,
        "Path without ending: .csv has a line per trial, .png the picture, .settings.json what "
        "all trials share. By default runs/large_batch_PRESET.",
    )
    flags.DEFINE_boolean("dry_run", False, "List the trials, and train nothing.")
    for field in dataclasses.fields(StudySettings):
        kind = _kind(field.type)
        text = f"{_HELP[field.name]} By default the preset's."
        if kind in (int, float, str, bool):
            define_one = {
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
                str: flags.DEFINE_string,
                bool: flags.DEFINE_boolean,
            }[kind]
            define_one(field.name, None, text)
        else:
            flags.DEFINE_list(field.name, None, f"{text} Separated by commas.")


def _kind(annotation: object) -> object:
    """Returns the type of a field, without the None that it may be."""
    if isinstance(annotation, types.UnionType):
        return next(one for one in typing.get_args(annotation) if one is not types.NoneType)
    return annotation


def settings() -> StudySettings:
    """Returns the preset with the flags that are given.

    Raises:
      InputError: no such preset, or a flag is out of its range.
    """
    if FLAGS.preset not in PRESETS:
        raise InputError(
            f"--preset must be one of {', '.join(PRESETS)}. Received: {FLAGS.preset!r}."
        )
    given = {}
    for field in dataclasses.fields(StudySettings):
        value = FLAGS[field.name].value
        if value is None:
            continue
        kind = _kind(field.type)
        if isinstance(value, list):
            value = _numbers(field.name, value, typing.get_args(kind)[0])
        given[field.name] = value
    chosen = dataclasses.replace(PRESETS[FLAGS.preset], **given)
    for name in ("image_size", "stored_size", "held_out_examples", "epochs"):
        _check(getattr(chosen, name) >= 1, chosen, name, "at least 1")
    for name in ("decay_power", "trust_coefficient"):
        _check(getattr(chosen, name) > 0, chosen, name, "above 0")
    for name in ("weight_decay", "excluded_learning_rate_multiplier"):
        _check(getattr(chosen, name) >= 0, chosen, name, "0 or above")
    for name in ("momentum", "label_smoothing"):
        _check(0 <= getattr(chosen, name) < 1, chosen, name, "at least 0 and below 1")
    _check((chosen.budget_minutes or 0) >= 0, chosen, "budget_minutes", "0 or above")
    _check(0 < chosen.crop_fraction <= 1, chosen, "crop_fraction", "above 0 and at most 1")
    for epochs in (chosen.warmup_epochs, *chosen.longer_warmup_epochs):
        _check(epochs <= chosen.epochs, chosen, "epochs", f"at least the warm-up, {epochs:g}")
    _check(
        chosen.mixed_precision in PRECISIONS[:2],
        chosen,
        "mixed_precision",
        " or ".join(PRECISIONS[:2]),
    )
    return chosen


def _numbers(name: str, texts: list[str], kind: type) -> tuple:
    try:
        return tuple(kind(text) for text in texts)
    except ValueError as error:
        raise InputError(
            f"--{name} must be numbers separated by commas. Received: {','.join(texts)!r}."
        ) from error


def _check(right: bool, chosen: StudySettings, name: str, rule: str) -> None:
    if not right:
        raise InputError(f"--{name} must be {rule}. Received: {getattr(chosen, name)!r}.")


def main() -> int:
    """Runs what is left of the study, and draws it."""
    chosen = settings()
    models.check(chosen.model)
    for augmentation in filter(None, (chosen.augmentation, chosen.other_augmentation)):
        check_augmentation(augmentation)
    output = FLAGS.output or os.path.join("runs", f"large_batch_{FLAGS.preset}")
    if FLAGS.dry_run:
        for trial in plan.remaining(chosen, {}):
            print(_describe(trial))
        return EXIT_DONE
    if FLAGS.preset == "digits":
        from tf_lars.data import digits

        digits.prepare(chosen.data_dir)
    inputs.describe_once(chosen.data_dir)
    info = DatasetInfo.load(chosen.data_dir)
    log = ResultLog(f"{output}.csv", chosen.of_all_trials() | {"data": info.fingerprint})
    title = (
        f"{chosen.model} on {info.name}, {chosen.image_size} px, {chosen.epochs} epochs, "
        f"{chosen.warmup_epochs:g} of them warm-up"
    )
    try:
        _run(chosen, info, log)
        code = EXIT_DONE
    except KeyboardInterrupt:
        left = len(plan.remaining(chosen, log.results))
        print(
            f"\ninterrupted; the same command goes on with the {left} trials that are left",
            file=sys.stderr,
        )
        code = EXIT_INTERRUPTED
    if log.results:
        picture.draw(chosen, log.results, f"{output}.png", title)
        print(f"\n{summary.table(chosen, log.results)}")
        print(f"\nresults in {log.path}, picture in {output}.png", flush=True)
    return code


def _run(chosen: StudySettings, info: DatasetInfo, log: ResultLog) -> None:
    """Runs trials until none is left or the time is over."""
    begin = time.perf_counter()
    budget = 60 * (chosen.budget_minutes or math.inf)
    todo = plan.remaining(chosen, log.results)
    # Some will be the same, once the grids have chosen.
    most = "at most " if any(trial.learning_rate is None for trial in todo) else ""
    print(f"{most}{len(todo)} trials to be run, {len(log.results)} are in {log.path}", flush=True)
    if not todo:
        return
    runner = _runner(chosen, info)
    seconds: list[float] = []
    while todo:
        trial = plan.resolve(chosen, log.results, todo[0])
        assert trial  # what a grid chooses comes after the grid
        spent = time.perf_counter() - begin
        # One trial at least, or a start whose time went into reading the data would never end.
        if seconds and spent + statistics.median(seconds) > budget:
            print(
                f"{chosen.budget_minutes:g} minutes are over, with {len(todo)} trials left; the "
                "same command goes on with them",
                flush=True,
            )
            return
        result = runner.run(trial)
        log.add(result)
        seconds.append(result.seconds)
        todo = plan.remaining(chosen, log.results)
        total = len(log.results) + len(todo)
        print(_progress(result, len(log.results), total, statistics.mean(seconds)), flush=True)


def _progress(result: Result, number: int, total: int, typical: float) -> str:
    from tf_lars.tracking.progress import clock

    return (
        f"trial {number}/{total}  {_describe(result.trial)}  | "
        f"held-out {result.held_out_top1:.2%}  test {result.test_top1:.2%}"
        f"{'  diverged' if result.diverged else ''}  {result.seconds:.1f} s  "
        f"ETA {clock(typical * (total - number))}"
    )


def _describe(trial: Trial) -> str:
    rate = "best of the grid" if trial.learning_rate is None else f"{trial.learning_rate:g}"
    return (
        f"{trial.optimizer:8} batch {trial.global_batch_size:<5,} rate {rate:5} warm-up "
        f"{trial.warmup_epochs:g} augmentation {trial.augmentation} seed {trial.seed}"
    )


def _runner(chosen: StudySettings, info: DatasetInfo):
    import keras

    from tf_lars.study.runner import StudyData, StudyRunner

    if chosen.mixed_precision != "float32":
        keras.mixed_precision.set_dtype_policy(f"mixed_{chosen.mixed_precision}")

    def create_model(seed):
        keras.utils.set_random_seed(seed)
        return models.create(
            chosen.model, num_classes=info.num_classes, image_size=chosen.image_size
        )

    def compile_model(model, optimizer, schedule):
        model_of.compile_for_classes(
            model,
            model_of.optimizer(
                optimizer,
                schedule,
                momentum=chosen.momentum,
                weight_decay=chosen.weight_decay,
                trust_coefficient=chosen.trust_coefficient,
                excluded_learning_rate_multiplier=chosen.excluded_learning_rate_multiplier,
            ),
            info.num_classes,
            chosen.label_smoothing,
        )

    def reestimate(steps):
        given = chosen.reestimate_batch_norm
        return steps < SHORT_RUN_STEPS if given is None else given

    data = StudyData.load(
        chosen.data_dir,
        num_classes=info.num_classes,
        image_size=chosen.image_size,
        stored_size=chosen.stored_size,
        crop_fraction=chosen.crop_fraction,
        held_out_examples=chosen.held_out_examples,
    )
    return StudyRunner(
        data,
        create_model=create_model,
        compile_model=compile_model,
        epochs=chosen.epochs,
        decay_power=chosen.decay_power,
        reestimate_batch_norm=reestimate,
        batch_norm_examples=SHORT_RUN_EXAMPLES,
    )


if __name__ == "__main__":
    define()
    app.run(main)
