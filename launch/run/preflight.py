"""Quick checks, without TensorFlow, for errors that would end a run later."""

import errno
import os
import uuid

import models
from launch.run import batch_norm_groups, build_input, extension, initial_weights, mlperf
from launch.run.layout import (
    CHECKPOINTS,
    FLAGS,
    LOGS,
    METRICS,
    PICTURE,
    REPORT,
    RESULTS,
    TENSORBOARD,
)
from launch.run.settings import TrainingSettings
from tf_lars import files
from tf_lars.data import order
from tf_lars.data.augmentation_names import check_augmentation
from tf_lars.errors import InputError, require


def check(settings: TrainingSettings, num_workers: int, *, make_folders: bool = True) -> None:
    """Checks, quickly and without TensorFlow, for errors that would end the run later.

    Args:
      settings: Settings of the run.
      num_workers: Number of worker processes.
      make_folders: Whether to create the folders that the run writes to; otherwise they are only
        checked, and nothing is written.

    Raises:
      InputError: If the model is unknown, an augmentation lacks its package, the data is unusable,
        there are no weights to start from or no run to extend, a folder is not writable, a batch
        does not divide, groups of batch normalisation do not fit, or `--mlperf_log` lacks its
        package.
    """
    if not settings.data:
        require(settings.data_dir, "--data_dir", "the path of a folder", settings.data_dir)
    require(settings.model_dir, "--model_dir", "the path of a folder", settings.model_dir)
    models.check(
        settings.model,
        space_to_depth_stem=settings.space_to_depth_stem,
        any_image_size=bool(settings.image_size_schedule),
    )
    check_augmentation(settings.augmentation)
    initial_weights.check(settings)
    extension.planned(settings)
    if not settings.data:
        build_input.describe_once(settings.data_dir, may_write=make_folders)
    build_input.readers(settings)
    order.shares(settings.batches, num_workers)
    if settings.evaluation_batch_size:
        order.per_replica_batch_size(settings.evaluation_batch_size, num_workers)
    batch_norm_groups.check(settings, num_workers)
    _check_model_dir(settings.model_dir, make_folders, has_logs=num_workers > 1)
    mlperf.check(settings)
    if settings.mlperf_log is not None:
        _check_mlperf_log(settings.mlperf_log, make_folders)


def _check_model_dir(model_dir: str, make_folders: bool, has_logs: bool) -> None:
    """Checks that everything a run writes can be written."""
    for name in ("", CHECKPOINTS, TENSORBOARD, LOGS if has_logs else ""):
        folder = os.path.join(model_dir, name)
        _check_folder(
            folder,
            make_folders,
            "--model_dir must be a folder that can be written to, and so must its subfolders.",
            "Use another --model_dir.",
        )
    for name in (FLAGS, RESULTS, PICTURE, REPORT, METRICS):
        path = os.path.join(model_dir, name)
        if files.exists(path) and not _is_writable_file(path):
            raise InputError(
                "A run must be able to write its files. Received: "
                f"{path!r}, which cannot be written. Remove it, or use another --model_dir."
            )


def _check_mlperf_log(path: str, make_folders: bool) -> None:
    """Checks that the file of `--mlperf_log` can be written."""
    rule = "--mlperf_log must be a file in a folder that can be written to."
    remedy = "Use another --mlperf_log."
    _check_folder(os.path.dirname(path) or os.curdir, make_folders, rule, remedy)
    if files.is_folder(path):
        raise InputError(f"{rule} Received: {path!r}, which is a folder. {remedy}")


def _check_folder(folder: str, make_folders: bool, rule: str, remedy: str) -> None:
    """Checks that a folder can be written to, and makes it if that is wanted."""
    try:
        if make_folders:
            files.make_folder(folder)
            probe = os.path.join(folder, f".writable-{uuid.uuid4().hex}")
            with files.writing(probe):
                with files.open_file(probe, "w") as file:
                    file.write("")
                files.remove(probe)
        else:
            _look_at(folder)
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.__cause__ or error
        raise InputError(f"{rule} Received: {folder!r} ({reason}). {remedy}") from error


def _is_writable_file(path: str) -> bool:
    return not files.is_folder(path) and (files.is_remote(path) or os.access(path, os.W_OK))


def _look_at(folder: str) -> None:
    """Raises an OSError if the folder, or its nearest existing parent, is not accessible."""
    if files.is_remote(folder):
        files.exists(folder)  # an InputError without a file system for it
        return
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    os.listdir(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
