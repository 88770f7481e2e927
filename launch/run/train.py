"""Runs one training process, alone or as a worker of a cluster, from settings to results."""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import models
from launch.run import (
    batch_norm_groups,
    build_input,
    build_model,
    determinism,
    extension,
    initial_weights,
    mlperf,
    outcome,
    summary,
    watchers,
)
from launch.run.extension import Extension
from launch.run.layout import CHECKPOINTS, METRICS, TENSORBOARD
from launch.run.settings import TrainingSettings
from tf_lars.cluster.spec import Cluster
from tf_lars.data import order
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import PeerFailure

if TYPE_CHECKING:
    from launch.run.job import Job


def run(settings: TrainingSettings, job: "Job") -> int:
    """Trains, evaluates and writes the results; returns the exit code.

    Args:
      settings: Settings of the run.
      job: Connection of this process to the other workers.

    Raises:
      InputError: If a flag or an input is wrong.
      PeerFailure: If another worker is lost.
      Preempted: If a stop was requested; a checkpoint has been written.
    """
    init_start = time.time()
    if settings.deterministic:
        determinism.enable()
    import keras
    import tensorflow as tf

    from tf_lars import Trainer
    from tf_lars.data.image_input import to_device_batch
    from tf_lars.distribute.replicas import broadcast_from_chief
    from tf_lars.tracking.bad_records import BadRecordCount
    from tf_lars.tracking.console import ProgressLine
    from tf_lars.tracking.observation import Observe
    from tf_lars.training.checkpoints import CheckpointStore

    info = build_input.description(settings)
    training = build_input.training(settings, settings.batches)
    taken = settings.steps_over(training.num_examples)
    steps = taken.epoch_ends(settings.epochs)[-1]
    strategy = job.join()
    cluster = job.cluster
    from_chief = functools.partial(broadcast_from_chief, strategy)
    extended = extension.agreed(settings, cluster.is_chief, from_chief)
    replicas = strategy.num_replicas_in_sync
    order.shares(settings.batches, replicas)
    evaluation = build_input.evaluation(
        settings, build_input.evaluation_batch_size(settings, replicas)
    )
    order.per_replica_batch_size(evaluation.global_batch_size, replicas)
    settings, normalised = batch_norm_groups.resolve(settings, replicas)

    with strategy.scope():
        model = build_model.create(
            settings,
            num_classes=info.num_classes,
            steps=steps,
            num_examples=training.num_examples,
            extension=extended,
        )
    trainer = Trainer(
        model,
        strategy,
        prepare_batch=functools.partial(to_device_batch, num_classes=info.num_classes),
        micro_batch_size=settings.micro_batch_size,
        steps_per_loop=settings.steps_per_loop,
        max_skipped_steps=settings.max_skipped_steps,
        evaluate_average=bool(settings.ema_momentum),
        reduction_dtype=settings.gradient_reduction_dtype,
        bytes_per_pack=settings.bytes_per_pack,
        jit_compile=settings.jit_compile,
        observe=Observe(
            layers_every=watchers.layers_every(settings, steps), noise_scale=settings.noise_scale
        ),
    )
    identity = _identity(settings, info, extended)
    checkpoints = CheckpointStore(
        os.path.join(settings.model_dir, CHECKPOINTS),
        identity,
        is_chief=cluster.is_chief,
        keep=settings.keep_checkpoints,
        keep_best="val_top1" if settings.keep_best else None,
        resume=settings.resume,
        continues=lambda one: extended is not None and extended.begins_at(one, identity),
        job=job.name,
    )
    bad_records = BadRecordCount(build_input.readers(settings), strategy, settings.max_bad_records)
    callbacks: list[keras.callbacks.Callback] = [bad_records] if settings.max_bad_records else []
    callbacks.append(_after_first_steps(job.has_trained))
    if settings.initial_weights:
        callbacks.append(_starting_weights(settings, checkpoints, trainer, cluster))
    mlperf_log = None
    recording: AbstractContextManager = contextlib.nullcontext([])
    if cluster.is_chief:
        about = watchers.Run(
            settings,
            cluster,
            trainer,
            models.describe(model, settings.image_size),
            taken,
            steps,
        )
        print(_describe(about, info, extended, normalised), flush=True)
        callbacks += [
            _beginning(settings, checkpoints, trainer, steps),
            ProgressLine(total_steps=steps, epochs=settings.epochs, position=taken.position),
        ]
        recording = watchers.recording(about)
        if settings.mlperf_log:
            mlperf_log = mlperf.create(
                settings, info, trainer, checkpoints, steps=steps, init_start=init_start
            )
    try:
        with checkpoints.exclusive(from_chief), mlperf.aborted_by_errors(mlperf_log):
            with recording as recorders:
                # MLPerf's log is last, since it starts the clock.
                last = [mlperf_log] if mlperf_log else []
                history = trainer.fit(
                    training,
                    epochs=settings.epochs,
                    validation_data=evaluation,
                    validation_freq=settings.epochs_between_evaluations,
                    verbose=0,
                    batch_norm_examples=settings.batch_norm_examples_for(steps),
                    callbacks=[*callbacks, *recorders, *last],
                    checkpoints=checkpoints,
                    stop_requested=job.stop_requested,
                )
            more = summary.results(settings, info, extended)
            return outcome.finish(settings, cluster, trainer, history, bad_records.count, more)
    except tf.errors.OpError as error:
        told = outcome.explained(error)
        if isinstance(told, PeerFailure):
            job.explain_lost_peer()
        raise told from error


def _identity(
    settings: TrainingSettings, info: DatasetInfo, extended: Extension | None
) -> dict[str, object]:
    """Returns the values that a run must share with a checkpoint to resume from it."""
    ends = {extension.EXTENDED_FROM: list(extended.ends)} if extended else {}
    return settings.values_where("identifies_run") | {"data": info.fingerprint} | ends


def _describe(
    run: watchers.Run, info: DatasetInfo, extended: Extension | None, normalised: str
) -> str:
    """Returns the lines that describe the run before training.

    Args:
      run: The run.
      info: Description of its data.
      extended: Beginning of the epochs that extend it, if any.
      normalised: Line about batch normalisation.
    """
    settings, cluster, replicas = run.settings, run.cluster, run.replicas
    batch = settings.global_batch_size
    return "\n".join(
        [
            summary.model(settings, run.description),
            summary.data(settings, info),
            f"replicas    {replicas} ({cluster.num_workers} worker processes, {cluster.source})",
            f"batch       {batch:,} = {replicas} x {batch // replicas:,}",
            normalised,
            summary.steps(settings, info.splits["train"].num_examples, run.steps),
            *summary.extension(settings, extended),
            summary.optimizer(settings),
        ]
    )


def _starting_weights(settings: TrainingSettings, checkpoints, trainer, cluster: Cluster):
    """Returns a callback that loads `--initial_weights` once no checkpoint was restored."""
    import keras

    def begin(logs=None):
        if not checkpoints.resumed_from:
            table = initial_weights.load(settings, trainer.model, trainer.strategy)
            if cluster.is_chief:
                print(table, flush=True)

    return keras.callbacks.LambdaCallback(on_train_begin=begin)


def _beginning(settings: TrainingSettings, checkpoints, trainer, steps: int):
    """Returns a callback that runs once the checkpoint is restored and all checks have passed.

    It writes the flags, makes room for new metrics, and prints where training resumes.
    """
    import keras

    from tf_lars.training.checkpoints import move_aside

    def begin(logs=None):
        outcome.write_flags(settings)
        if checkpoints.started_afresh:
            for name in (TENSORBOARD, METRICS):
                move_aside(os.path.join(settings.model_dir, name))
        if checkpoints.resumed_from:
            left = "nothing is left to train" if trainer.step >= steps else f"of {steps:,}"
            print(
                f"resuming from {checkpoints.resumed_from}, step {trainer.step:,} {left}",
                flush=True,
            )

    return keras.callbacks.LambdaCallback(on_train_begin=begin)


def _after_first_steps(tell: Callable[[], None]):
    """Returns a callback that calls `tell` once, after the first steps."""
    import keras

    told: list[int] = []

    def on_train_batch_end(batch, logs=None):
        if not told:
            told.append(batch)
            tell()

    return keras.callbacks.LambdaCallback(on_train_batch_end=on_train_batch_end)
