"""Evaluates a checkpoint of a run on each validation image once, or classifies pictures.

python -m launch.evaluate --model_dir=RUN --num_workers=2
python -m launch.evaluate --model_dir=RUN --checkpoint=best --data_dir=OTHER_DATA
python -m launch.evaluate --model_dir=RUN --predict=cat.jpg,dog.png
"""

import dataclasses
import json
import os
import signal
import sys

from absl import flags as absl_flags

from launch.cli import app, flags, run_flags
from launch.run import build_input, load, outcome, workers
from launch.run.layout import LOGS
from launch.run.settings import TrainingSettings
from tf_lars import setting
from tf_lars.cluster import supervisor
from tf_lars.cluster.discovery import check_alone, resolve_cluster
from tf_lars.cluster.spec import Cluster
from tf_lars.data import order
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_PEER_FAILED,
    InputError,
    PeerFailure,
)

FLAGS = absl_flags.FLAGS
TOP = 5
"""Number of classes printed for a picture."""
_OVERRIDES = setting.names_where(TrainingSettings, "evaluation_may_override")
_GROUP = "Evaluation"
_FLAGS_OF_WORKERS = (
    *(field.name for field in dataclasses.fields(run_flags.CheckpointSettings)),
    "format",
    *_OVERRIDES,
)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(run_flags.CheckpointSettings):
    """Settings of an evaluation; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    num_workers: int = setting.setting(
        "Number of worker processes on this machine.",
        1,
        rule=setting.local_processes(),
        group=_GROUP,
    )
    predict: tuple[str, ...] | None = setting.setting(
        "Pictures to classify instead of evaluating.", None, group=_GROUP
    )
    format: str = setting.setting(
        "Format of the printed results: table or json.",
        "table",
        rule=setting.one_of("table", "json"),
        group=_GROUP,
    )


def define() -> None:
    """Defines the flags of this program."""
    flags.define(EvaluationSettings)
    flags.define(TrainingSettings, _OVERRIDES, unset="If not given, as in the run.")


def main() -> int:
    """Evaluates, or supervises the processes that do."""
    if not _is_worker():
        check_alone("launch.evaluate")
    asked = EvaluationSettings(**flags.values(EvaluationSettings))
    settings = asked.of_run()
    if settings.data:
        raise InputError(
            "A run must have been trained on images to be evaluated. Received: "
            f"{asked.model_dir!r}, trained on noise by --data={settings.data}. Train on a data "
            "set, with --data_dir."
        )
    given = flags.values(TrainingSettings)
    overrides = {name: given[name] for name in _OVERRIDES if name in given}
    settings = dataclasses.replace(settings, **overrides)
    build_input.describe_once(settings.data_dir)
    info = DatasetInfo.load(settings.data_dir)
    try:
        if asked.predict:
            return predict(settings, info, asked)
        if _is_worker():
            supervisor.start_heartbeat()
            return evaluate(settings, info, asked, resolve_cluster())
        if asked.num_workers == 1:
            return evaluate(settings, info, asked, Cluster())
        return workers.run_local(
            "launch.evaluate",
            [FLAGS[name].serialize() for name in _FLAGS_OF_WORKERS if FLAGS[name].present],
            asked.num_workers,
            os.path.join(settings.model_dir, LOGS, "evaluate"),
        )
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PeerFailure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_PEER_FAILED


def _is_worker() -> bool:
    """Returns whether another process of this program has started this one."""
    return supervisor.STATUS_VARIABLE in os.environ


def evaluate(
    settings: TrainingSettings, info: DatasetInfo, asked: EvaluationSettings, cluster: Cluster
) -> int:
    """Prints the loss and accuracy over the validation images, counting each once."""
    import tensorflow as tf

    from tf_lars import create_strategy
    from tf_lars.tracking import results

    trainer, source = load.load_run(settings, info, create_strategy(cluster), asked.checkpoint)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow has replaced the handler
    replicas = trainer.strategy.num_replicas_in_sync
    batch = build_input.evaluation_batch_size(settings, replicas)
    # The run may have had another number of replicas.
    if not flags.given(["evaluation_batch_size"]):
        batch = max(1, batch // replicas) * replicas
    order.per_replica_batch_size(batch, replicas)
    try:
        logs = trainer.evaluate(build_input.evaluation(settings, batch))
    except tf.errors.OpError as error:
        raise outcome.explained(error) from error
    if not cluster.is_chief:
        return EXIT_DONE
    summary = {
        "top1": logs["top1"],
        "top5": logs["top5"],
        "loss": logs["loss"],
        "eval_examples": logs["examples"],
        "data": info.name,
        "checkpoint": source.path,
        "step": source.step,
        "num_workers": cluster.num_workers,
    }
    print(json.dumps(summary, indent=2) if asked.format == "json" else results.table(summary))
    return EXIT_DONE


def predict(settings: TrainingSettings, info: DatasetInfo, asked: EvaluationSettings) -> int:
    """Prints the most probable classes of each picture."""
    import numpy as np
    import tensorflow as tf

    from tf_lars.data import decode
    from tf_lars.data.prepare.encode import EncodingSettings
    from tf_lars.data.prepare.image_header import BadImage
    from tf_lars.data.prepare.pictures import encode_pictures

    # Pictures are encoded like the images of the data.
    names = {field.name for field in dataclasses.fields(EncodingSettings)}
    encoding = EncodingSettings(**{k: v for k, v in info.settings.items() if k in names})
    paths = asked.predict or ()
    try:
        pictures = encode_pictures(paths, encoding)
    except BadImage as error:
        raise InputError(f"--predict takes pictures. Received: {error}.") from error
    images = [
        decode.centre_crop(
            decode.Jpeg(tf.constant(jpeg)), settings.image_size, settings.crop_fraction
        )
        for jpeg in pictures
    ]
    trainer, _ = load.load_run(settings, info, tf.distribute.get_strategy(), asked.checkpoint)
    with trainer.averaged_weights():
        logits = trainer.model(tf.cast(tf.stack(images), tf.float32), training=False)
    named = []
    for path, probabilities in zip(paths, tf.nn.softmax(logits).numpy(), strict=True):
        likely = np.argsort(-probabilities, kind="stable")[:TOP]
        classes = [(info.class_names[i], float(probabilities[i])) for i in likely]
        named.append({"image": path, "classes": classes})
    if asked.format == "json":
        print(json.dumps(named, indent=2))
        return EXIT_DONE
    for one in named:
        print(one["image"])
        for name, probability in one["classes"]:
            print(f"  {probability:7.2%}  {name}")
    return EXIT_DONE


if __name__ == "__main__":
    define()
    app.run(main)
