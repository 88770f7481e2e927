"""End of a run: its results, and messages for the user."""

import dataclasses
import os
import statistics
import sys
from collections.abc import Callable, Mapping

import models
from launch.run import environment, forecast
from launch.run.layout import (
    CHECKPOINTS,
    FLAGS,
    PICTURE,
    REPORT,
    RESULTS,
    checkpoints_in,
    record_of,
)
from launch.run.settings import TrainingSettings, default_texts
from tf_lars import files
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import EXIT_DONE, InputError, PeerFailure
from tf_lars.machine import available_cores
from tf_lars.setting import as_arguments


def explained(error) -> Exception:
    """Returns the error to report to the user for an error from TensorFlow's runtime."""
    import tensorflow as tf

    if isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
        return PeerFailure(f"another worker was lost: {error.message.splitlines()[0]}")
    return error


def write_flags(settings: TrainingSettings) -> None:
    """Writes the settings into the model folder, for `launch.evaluate` and `launch.export`."""
    path = os.path.join(settings.model_dir, FLAGS)
    with files.writing(path), files.open_file(path, "w") as file:
        file.write("\n".join(as_arguments(settings)) + "\n")


def finish(
    settings: TrainingSettings,
    cluster: Cluster,
    trainer,
    history,
    bad_records: int,
    more: Mapping[str, object],
) -> int:
    """Checks that all workers have the same weights, and writes the results on the chief.

    Args:
      settings: Settings of the run.
      cluster: Cluster of the job.
      trainer: Trainer of the run.
      history: Its history.
      bad_records: Number of records that were skipped.
      more: Further entries of results.json.
    """
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
        # The median over epochs, because the first one includes tracing.
        "images_per_second": statistics.median(e["images_per_second"] for e in history),
        "weights_sha256": digest,
        "replica_weights_sha256": digests,
        "num_workers": cluster.num_workers,
        # Training and evaluation, before and after any interruption, excluding start-up.
        "seconds": sum(e["seconds"] for e in history),
        **more,
        **_facts_for_calibration(settings, cluster, trainer),
    }
    batch = settings.batch_size_schedule or f"{settings.global_batch_size:,}"
    title = f"{settings.model}, {settings.optimizer}, global batch {batch}"
    title += ", synthetic images" if settings.data else ""
    path = os.path.join(settings.model_dir, RESULTS)
    picture = os.path.join(settings.model_dir, PICTURE)
    print(f"\n{results.table(summary)}\n", flush=True)
    if _written(path, lambda: results.write(path, summary)) and _written(
        picture, lambda: report.draw(history, picture, title)
    ):
        print(f"results in {path}, picture in {picture}", flush=True)
    write_report(settings)
    return EXIT_DONE


def write_report(settings: TrainingSettings) -> bool:
    """Writes report.html from the files in the model folder, and prints its path.

    It needs no trainer, so it can be called however a run has ended; `flags.txt` must exist. A
    failure is a warning. To be called on the chief, after the metrics were written.

    Args:
      settings: Settings of the run.

    Returns:
      Whether the report was written.
    """
    from tf_lars.tracking import report_page

    path = os.path.join(settings.model_dir, REPORT)

    def write():
        record = record_of(settings.model_dir)
        planned = forecast.beside_outcome(settings, record)
        report_page.write(record, path, defaults=default_texts(), forecast=planned)

    try:
        written = _written(path, write)
    except Exception as error:  # the outcome of the run must not depend on a picture
        print(f"warning: {path!r} was not written: {error!r}", file=sys.stderr, flush=True)
        return False
    if written:
        print(f"report in {path}", flush=True)
    return written


def _written(path: str, write: Callable[[], None]) -> bool:
    """Writes a file at the end of a run; a failure is a warning, since the run is done."""
    try:
        with files.writing(path):
            write()
        return True
    except InputError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
        return False


def _facts_for_calibration(settings, cluster: Cluster, trainer) -> dict[str, object]:
    """Returns the facts that `tf_lars.planner.calibrate` needs besides the run's speed."""
    import tensorflow as tf

    hosts = set(cluster.hosts) or {""}
    gpus = tf.config.list_physical_devices("GPU")
    replicas = trainer.strategy.num_replicas_in_sync
    cores = None
    if not gpus:
        # Workers without dedicated cores share all of them.
        on_this_host = replicas / len(hosts)
        cores = min(available_cores(), (os.cpu_count() or 1) / on_this_host)
    return {
        "model": settings.model,
        "image_size": settings.image_size,
        **dataclasses.asdict(models.describe(trainer.model, settings.image_size)),
        "device": environment.device_name() if gpus else "CPU",
        "replicas": replicas,
        "cores_per_replica": cores,
        "num_hosts": len(hosts),
    }


def how_to_resume(settings: TrainingSettings) -> str:
    """Returns how to resume, for a user who has stopped a run."""
    if not checkpoints_in(settings.model_dir):
        return "there is no checkpoint yet; the same command starts afresh"
    command = "with --resume=auto the" if settings.resume == "never" else "the"
    folder = os.path.join(settings.model_dir, CHECKPOINTS)
    return f"{command} same command resumes from the last checkpoint in {folder}"
