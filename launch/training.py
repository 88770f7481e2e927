"""One training process, alone or as a worker of a cluster, from the settings to the results."""

import dataclasses
import errno
import functools
import os
import re
import statistics
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import models
from launch import determinism, summary
from launch import input as inputs
from launch import model as model_of
from launch.settings import SHORT_RUN_EXAMPLES, SHORT_RUN_STEPS, TrainingSettings, as_arguments
from tf_lars.data import check_augmentation, order, reader, records
from tf_lars.data.records import DatasetInfo
from tf_lars.data.workers import available_cores
from tf_lars.distribute.cluster import Cluster
from tf_lars.errors import EXIT_DONE, InputError, PeerFailure

if TYPE_CHECKING:
    from launch.job import Job

CHECKPOINTS, TENSORBOARD, LOGS = "checkpoints", "tensorboard", "logs"
"""Folders in the model folder."""


def check(settings: TrainingSettings, num_workers: int, *, make_folders: bool = True) -> None:
    """Finds, within a moment and without TensorFlow, what would end the run later.

    Args:
      settings: of the run.
      num_workers: processes.
      make_folders: make those that the run writes to; otherwise nothing is written, and they are
        only looked at.

    Raises:
      InputError: no such model, an augmentation without its package, no usable data, an
        unwritable folder, a batch that does not divide.
    """
    models.check(
        settings.model,
        space_to_depth_stem=settings.space_to_depth_stem,
        any_image_size=bool(settings.image_size_schedule),
    )
    check_augmentation(settings.augmentation)
    inputs.describe_once(settings.data_dir)
    for split in records.SPLITS:
        reader.open_split(settings.data_dir, split, settings.max_bad_records)
    order.per_replica_batch_size(settings.global_batch_size, num_workers)
    if settings.evaluation_batch_size:
        order.per_replica_batch_size(settings.evaluation_batch_size, num_workers)
    for name in ("", CHECKPOINTS, TENSORBOARD, LOGS if num_workers > 1 else ""):
        folder = os.path.join(settings.model_dir, name)
        try:
            if not make_folders:
                _look_at(folder)
                continue
            os.makedirs(folder, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
                pass
        except OSError as error:
            raise InputError(
                f"--model_dir must be a folder that can be written to, and so must what is in it. "
                f"Received: {folder!r} ({error.strerror}). Name another --model_dir."
            ) from error


def _look_at(folder: str) -> None:
    """Raises an OSError where the folder, or the first above it that exists, is not for us."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    os.listdir(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def run(settings: TrainingSettings, cluster: Cluster, job: "Job") -> int:
    """Trains, evaluates and writes the results; returns the exit code.

    Args:
      settings: what to do.
      cluster: who is in the job.
      job: this process's ties to the others.

    Raises:
      InputError: a flag or an input is wrong.
      PeerFailure: another worker is gone.
      Preempted: somebody has asked to stop, and a checkpoint is written.
    """
    if settings.deterministic:
        determinism.enable()
    import keras
    import tensorflow as tf

    from tf_lars import Trainer
    from tf_lars.checkpoints import CheckpointStore
    from tf_lars.data.imagenet import to_device_batch
    from tf_lars.tracking.bad_records import BadRecordCount
    from tf_lars.tracking.progress import ProgressLine
    from tf_lars.tracking.tensorboard import ScalarLogger

    info = DatasetInfo.load(settings.data_dir)
    training = inputs.training(settings, settings.global_batch_size)
    steps = order.epoch_end_steps(
        training.num_examples, settings.global_batch_size, settings.epochs
    )[-1]
    strategy = job.join()
    replicas = strategy.num_replicas_in_sync
    order.per_replica_batch_size(settings.global_batch_size, replicas)
    evaluation = inputs.evaluation(settings, inputs.evaluation_batch_size(settings, replicas))
    order.per_replica_batch_size(evaluation.global_batch_size, replicas)

    with strategy.scope():
        model = model_of.create(
            settings,
            num_classes=info.num_classes,
            steps=steps,
            num_examples=training.num_examples,
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
    )
    checkpoints = CheckpointStore(
        os.path.join(settings.model_dir, CHECKPOINTS),
        _identity(settings, info),
        is_chief=cluster.is_chief,
        keep=settings.keep_checkpoints,
        keep_best="val_top1" if settings.keep_best else None,
        resume=settings.resume,
        job=job.name,
    )
    bad_records = BadRecordCount(
        {
            split: reader.open_split(settings.data_dir, split, settings.max_bad_records)
            for split in records.SPLITS
        },
        strategy,
        settings.max_bad_records,
    )
    watchers: list[keras.callbacks.Callback] = [bad_records] if settings.max_bad_records else []
    watchers.append(_after_first_steps(job.has_trained))
    if cluster.is_chief:
        print(_describe(settings, info, model, cluster, replicas, steps), flush=True)
        watchers += [
            _beginning(settings, checkpoints, trainer, steps),
            ProgressLine(total_steps=steps, epochs=settings.epochs),
            ScalarLogger(os.path.join(settings.model_dir, TENSORBOARD)),
        ]
    try:
        history = trainer.fit(
            training,
            epochs=settings.epochs,
            validation=evaluation,
            epochs_between_evaluations=settings.epochs_between_evaluations,
            batch_norm_examples=_batch_norm_examples(settings, steps),
            callbacks=watchers,
            checkpoints=checkpoints,
            stop_requested=job.stop_requested,
        )
        return _finish(settings, cluster, trainer, history, bad_records.count)
    except tf.errors.OpError as error:
        told = explained(error)
        if isinstance(told, PeerFailure):
            job.explain_lost_peer()
        raise told from error


def explained(error) -> Exception:
    """Returns what a person should read of an error from within TensorFlow's runtime."""
    import tensorflow as tf

    told = re.search(r"InputError: (.+)", error.message)  # raised by the input pipeline
    if told:
        return InputError(told[1])
    if isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
        return PeerFailure(f"another worker is gone: {error.message.splitlines()[0]}")
    return error


def _batch_norm_examples(settings: TrainingSettings, steps: int) -> int:
    if settings.batch_norm_examples is not None:
        return settings.batch_norm_examples
    return SHORT_RUN_EXAMPLES if steps < SHORT_RUN_STEPS else 0


_NOT_IDENTITY = frozenset(
    {
        "data_dir",
        "model_dir",
        "resume",
        "steps_per_loop",
        "evaluation_batch_size",
        "max_bad_records",
        "cache",
        "max_skipped_steps",
        "keep_checkpoints",
        "keep_best",
        # How a step is computed and when it is looked at may change with the machines, as the
        # number of replicas may.
        "micro_batch_size",
        "bytes_per_pack",
        "jit_compile",
        "epochs_between_evaluations",
        "batch_norm_examples",
    }
)


def _identity(settings: TrainingSettings, info: DatasetInfo) -> dict[str, object]:
    """Returns what a run must have in common with a checkpoint to go on from it."""
    fields = dataclasses.asdict(settings).items()
    return {name: value for name, value in fields if name not in _NOT_IDENTITY} | {
        "data": info.fingerprint
    }


def _write_flags(settings: TrainingSettings) -> None:
    with open(os.path.join(settings.model_dir, "flags.txt"), "w") as file:
        file.write("\n".join(as_arguments(settings)) + "\n")


def _describe(settings, info: DatasetInfo, model, cluster: Cluster, replicas: int, steps: int):
    """Returns the lines that say, before training, what will be done."""
    batch = settings.global_batch_size
    return "\n".join(
        [
            summary.model(settings, models.describe(model, settings.image_size)),
            summary.data(info),
            f"replicas    {replicas} ({cluster.num_workers} worker processes, {cluster.source})",
            f"batch       {batch:,} = {replicas} x {batch // replicas:,}",
            summary.steps(settings, info.splits["train"].num_examples, steps),
            summary.optimizer(settings),
        ]
    )


def _finish(settings, cluster: Cluster, trainer, history, bad_records: int) -> int:
    """Writes the results on the chief, after all workers have shown the same weights."""
    from tf_lars.tracking import report, results

    digest = results.weights_sha256(trainer.model)
    digests = results.gather_digests(trainer.strategy, digest)
    print(f"worker {cluster.rank}: weights_sha256 {digest}", flush=True)
    if len(set(digests)) > 1:
        raise RuntimeError(f"All replicas must end with the same weights. Received: {digests}.")
    if not cluster.is_chief:
        return EXIT_DONE
    last = history[-1]
    summary = {
        "top1": last["val_top1"],
        "top5": last["val_top5"],
        "loss": last["val_loss"],
        "eval_examples": last["val_examples"],
        "bad_records": bad_records,
        "skipped_steps": trainer.skipped_steps,
        "steps": last["step"],
        "epochs": last["epoch"],
        "global_batch_size": settings.global_batch_size,
        # The median epoch: the first one holds the time for tracing.
        "images_per_second": statistics.median(e["images_per_second"] for e in history),
        "weights_sha256": digest,
        "replica_weights_sha256": digests,
        "num_workers": cluster.num_workers,
        # Training and evaluation, before and after any interruption, without the start-up.
        "seconds": sum(e["seconds"] for e in history),
        **_what_was_measured(settings, cluster, trainer),
    }
    path = os.path.join(settings.model_dir, "results.json")
    results.write(path, summary)
    picture = os.path.join(settings.model_dir, "report.png")
    report.draw(
        history,
        picture,
        f"{settings.model}, {settings.optimizer}, global batch {settings.global_batch_size:,}",
    )
    print(f"\n{results.table(summary)}\n\nresults in {path}, picture in {picture}", flush=True)
    return EXIT_DONE


def _what_was_measured(settings, cluster: Cluster, trainer) -> dict[str, object]:
    """Returns what `tf_lars.planner.calibrate` must know about the run besides its speed."""
    import tensorflow as tf

    hosts = {worker.rpartition(":")[0] for worker in cluster.workers} or {""}
    gpus = tf.config.list_physical_devices("GPU")
    replicas = trainer.strategy.num_replicas_in_sync
    device, cores = "CPU", None
    if gpus:
        device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    else:
        # Workers that were given no cores of their own share all of them.
        on_this_host = replicas / len(hosts)
        cores = min(available_cores(), (os.cpu_count() or 1) / on_this_host)
    return {
        "model": settings.model,
        "image_size": settings.image_size,
        **dataclasses.asdict(models.describe(trainer.model, settings.image_size)),
        "device": device,
        "replicas": replicas,
        "cores_per_replica": cores,
        "num_hosts": len(hosts),
    }


def _beginning(settings: TrainingSettings, checkpoints, trainer, steps: int):
    """Returns a callback for when the checkpoint is restored, and nothing was refused.

    It writes the flags, makes room for new event files, and says from where training goes on.
    """
    import keras

    from tf_lars.checkpoints import move_aside

    def begin(logs=None):
        _write_flags(settings)
        if checkpoints.started_anew:
            move_aside(os.path.join(settings.model_dir, TENSORBOARD))
        if checkpoints.resumed_from:
            left = "nothing is left to train" if trainer.step >= steps else f"of {steps:,}"
            print(
                f"going on from {checkpoints.resumed_from}, step {trainer.step:,} {left}",
                flush=True,
            )

    return keras.callbacks.LambdaCallback(on_train_begin=begin)


def _after_first_steps(tell: Callable[[], None]):
    """Returns a callback that tells, once, that the first steps have been taken."""
    import keras

    told = []

    def on_train_batch_end(batch, logs=None):
        if not told:
            told.append(batch)
            tell()

    return keras.callbacks.LambdaCallback(on_train_batch_end=on_train_batch_end)


def how_to_go_on(settings: TrainingSettings) -> str:
    """Returns what a person who has stopped a run should know."""
    folder = os.path.join(settings.model_dir, CHECKPOINTS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    if not any(name.startswith("step-") for name in names):
        return "there is no checkpoint yet; the same command starts anew"
    command = "with --resume=auto the" if settings.resume == "never" else "the"
    return f"{command} same command goes on from the last checkpoint in {folder}"
