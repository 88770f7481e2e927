"""The result log of MLPerf Training, from the settings of a run: `--mlperf_log`."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from launch.run import build_model
from launch.run.settings import TrainingSettings
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError, require
from tf_lars.tracking.mlperf_rules import MLPerfRun

if TYPE_CHECKING:
    from tf_lars import Trainer
    from tf_lars.tracking.mlperf_log import MLPerfLog
    from tf_lars.training.checkpoints import CheckpointStore


def check(settings: TrainingSettings) -> None:
    """Checks, without TensorFlow, that a log can be written if one is wanted.

    Raises:
      InputError: mlperf-logging is not installed, a name in the log is empty, or the batch changes.
    """
    if settings.mlperf_log is None:
        return
    if settings.batch_size_schedule:
        raise InputError(
            "MLPerf's log has one global_batch_size. Received: --mlperf_log with "
            f"--batch_size_schedule={settings.batch_size_schedule}. Leave out one of them."
        )
    if importlib.util.find_spec("mlperf_logging") is None:
        raise InputError(
            "--mlperf_log needs mlperf-logging. Received: an environment without it. Install it "
            'with pip install "tf-lars[mlperf]".'
        )
    for name in ("mlperf_organization", "mlperf_platform"):
        require(getattr(settings, name) != "", f"--{name}", "a name", "")


def create(
    settings: TrainingSettings,
    info: DatasetInfo,
    trainer: "Trainer",
    checkpoints: "CheckpointStore",
    *,
    steps: int,
    init_start: float,
) -> "MLPerfLog":
    """Returns the callback that writes the log; for the chief, once the trainer exists.

    Prints a warning about settings that the division does not allow.

    Args:
      settings: Settings of the run.
      info: Description of its data.
      trainer: Trainer of the run.
      checkpoints: Checkpoints of the run.
      steps: Optimizer steps of the whole run.
      init_start: When the process began its work, in seconds since 1970.

    Raises:
      InputError: mlperf-logging is not installed.
    """
    from tf_lars.tracking.mlperf_log import MLPerfLog

    check(settings)  # a process may have been started without a launcher
    assert settings.mlperf_log is not None
    replicas = trainer.strategy.num_replicas_in_sync
    share = settings.global_batch_size // replicas
    run = describe(settings, info, trainer, steps)
    if told := warning(run):
        print(told, flush=True)
    return MLPerfLog(
        settings.mlperf_log,
        run,
        init_start=init_start,
        micro_batches=lambda: share // (trainer.micro_batch_size or share),
        is_resumed=lambda: checkpoints.resumed_from is not None,
    )


def describe(
    settings: TrainingSettings, info: DatasetInfo, trainer: "Trainer", steps: int
) -> MLPerfRun:
    """Returns what the log says about a run. The arguments are those of `create`."""
    num_examples = info.splits["train"].num_examples
    schedule = build_model.schedule_arguments(settings, steps, num_examples)
    replicas = trainer.strategy.num_replicas_in_sync
    optimizer = trainer.model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # in float16
    return MLPerfRun(
        division=settings.mlperf_division,
        organization=settings.mlperf_organization,
        platform=settings.mlperf_platform or _devices(replicas),
        status=settings.mlperf_status,
        model=settings.model,
        data=info.name,
        seed=settings.seed,
        train_samples=num_examples,
        eval_samples=info.splits["validation"].num_examples,
        global_batch_size=settings.global_batch_size,
        normalized_examples=_normalized_examples(settings, replicas),
        in_groups=isinstance(settings.batch_norm_group_size, int),
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        warmup_epochs=settings.warmup_epochs,
        schedule=settings.schedule,
        end_learning_rate=schedule["end_learning_rate"],
        decay_power=settings.decay_power,
        decay_steps=steps - schedule["warmup_steps"],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        epsilon=optimizer.get_config()["epsilon"],
        label_smoothing=settings.label_smoothing,
        epochs=settings.epochs,
        epochs_between_evaluations=settings.epochs_between_evaluations,
    )


def _normalized_examples(settings: TrainingSettings, replicas: int) -> int:
    size = settings.batch_norm_group_size
    if isinstance(size, int):
        return size
    return settings.global_batch_size // (1 if settings.sync_batch_norm else replicas)


def warning(run: MLPerfRun) -> str:
    """Returns a warning about what the closed division does not allow; "" if there is nothing."""
    found = run.violations() if run.division == "closed" else []
    if not found:
        return ""
    return (
        "warning: by these settings the run is not a result of MLPerf's closed division: "
        f"{'; '.join(found)}. Change them, or use --mlperf_division=open."
    )


@contextlib.contextmanager
def aborted_by_errors(log: "MLPerfLog | None") -> Iterator[None]:
    """Within this context, an error ends the log, if there is one, with the status aborted."""
    try:
        yield
    except BaseException as error:
        if log is not None:
            log.abort(type(error).__name__)
        raise


def _devices(replicas: int) -> str:
    """Returns the number and the name of the devices."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    name = "CPU"
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return f"{replicas} x {name}"
