"""Compares LARS with other optimizers at large batches, in many short runs within one process.

python -m launch.large_batch_study --preset=digits
"""

import dataclasses
import os
import sys

import models
from launch.cli import app, flags
from launch.run import build_input, build_model
from launch.run.time_budget import TimeBudget
from tf_lars.cluster.discovery import check_alone
from tf_lars.data.augmentation_names import check_augmentation
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.defaults import SHORT_RUN_EXAMPLES, SHORT_RUN_STEPS
from tf_lars.errors import EXIT_DONE, EXIT_INTERRUPTED
from tf_lars.setting import Rule, check, one_of, setting
from tf_lars.study import result_table, study_picture, trials
from tf_lars.study.result_log import ResultLog
from tf_lars.study.study_presets import PRESETS, StudySettings
from tf_lars.study.trials import Trial


@dataclasses.dataclass(frozen=True)
class ProgramSettings:
    """Settings of this program besides those of the study; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    preset: str = setting(
        f"Settings by name: {', '.join(PRESETS)}. Other flags override them.",
        "digits",
        rule=one_of(*PRESETS),
        group="Program",
    )
    output: str | None = setting(
        "Path without extension: .csv is for the results with a line per trial, .settings.json for "
        "the settings of all trials, and _batch.png, _rates.png and _augmentation.png for the "
        "pictures. Defaults to runs/large_batch_PRESET.",
        None,
        rule=Rule("a path without extension", lambda path: bool(os.path.basename(path))),
        group="Program",
    )
    dry_run: bool = setting("List the trials without training.", False, group="Program")

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the program's flags, which include every field of `StudySettings`."""
    flags.define(ProgramSettings)
    flags.define(StudySettings, unset="Defaults to the preset's.")


def main() -> int:
    """Runs the remaining trials of the study, and prints and draws the results."""
    check_alone("launch.large_batch_study")
    asked = ProgramSettings(**flags.values(ProgramSettings))
    chosen = dataclasses.replace(PRESETS[asked.preset], **flags.values(StudySettings))
    models.check(chosen.model)
    for augmentation in filter(None, (chosen.augmentation, chosen.other_augmentation)):
        check_augmentation(augmentation)
    output = asked.output or os.path.join("runs", f"large_batch_{asked.preset}")
    if asked.dry_run:
        for trial in trials.remaining(chosen, {}):
            print(_describe(trial))
        return EXIT_DONE
    if asked.preset == "digits":
        from tf_lars.data.prepare import digits

        digits.prepare(chosen.data_dir)
    build_input.describe_once(chosen.data_dir)
    info = DatasetInfo.load(chosen.data_dir)
    log = ResultLog(f"{output}.csv", chosen.of_all_trials() | {"data": info.fingerprint})
    try:
        _run(chosen, info, log)
        code = EXIT_DONE
    except KeyboardInterrupt:
        left = len(trials.remaining(chosen, log.results))
        print(
            f"\ninterrupted; the same command continues with the {left} remaining trials",
            file=sys.stderr,
        )
        code = EXIT_INTERRUPTED
    if log.results:
        for table in result_table.tables(chosen, log.results, chosen.target_points):
            print(f"\n{table}")
        title = study_picture.title(chosen, info.name)
        paths = study_picture.draw(chosen, log.results, output, title, chosen.target_points)
        print(f"\nresults in {log.path}, pictures in {', '.join(paths)}", flush=True)
    return code


def _run(chosen: StudySettings, info: DatasetInfo, log: ResultLog) -> None:
    """Runs trials until all have run or the time is over."""
    budget = TimeBudget(chosen.budget_minutes, "trials")
    todo = trials.remaining(chosen, log.results)
    # Some will coincide once tuning has chosen.
    most = "at most " if any(trial.point is None for trial in todo) else ""
    print(f"{most}{len(todo)} trials to run, {len(log.results)} done in {log.path}", flush=True)
    if not todo:
        return
    runner = _runner(chosen, info)
    while todo and budget.allows(len(todo)):
        trial = trials.resolve(chosen, log.results, todo[0])
        assert trial  # What tuning chooses comes after the tuning.
        result = runner.run(trial)
        log.add(result)
        budget.add(result.seconds)
        todo = trials.remaining(chosen, log.results)
        done = len(log.results)
        print(
            f"trial {done}/{done + len(todo)}  {_describe(result.trial)}  | "
            f"held-out {result.held_out_top1:.2%}  test {result.test_top1:.2%}"
            f"{'  diverged' if result.diverged else ''}  {result.seconds:.1f} s  "
            f"ETA {budget.eta(len(todo))}",
            flush=True,
        )


def _describe(trial: Trial) -> str:
    point = trial.point
    how = "chosen" if point is None else f"{point.learning_rate:<6g} momentum {point.momentum:g}"
    decay = "" if point is None else f" decay {point.weight_decay:g}"
    return (
        f"{trial.optimizer:8} batch {trial.global_batch_size:<5,} {trial.epochs} epochs rate "
        f"{how}{decay} augmentation {trial.augmentation} seed {trial.seed}"
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

    def compile_model(model, optimizer, schedule, point):
        build_model.compile_for_classes(
            model,
            build_model.study_optimizer(
                optimizer,
                schedule,
                momentum=point.momentum,
                weight_decay=point.weight_decay,
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
        seeds=chosen.seeds,
        compile_model=compile_model,
        evaluations=chosen.evaluations,
        augmentation=chosen.augmentation_arguments(),
        decay_power=chosen.decay_power,
        reestimate_batch_norm=reestimate,
        batch_norm_examples=SHORT_RUN_EXAMPLES,
    )


if __name__ == "__main__":
    define()
    app.run(main)
