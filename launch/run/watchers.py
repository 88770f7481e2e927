"""The callbacks with which the chief records a run, and warns of what goes wrong in it."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from launch.run import build_input, environment, outcome
from launch.run.layout import METRICS, TENSORBOARD
from launch.run.settings import TrainingSettings
from tf_lars import planner, recipes
from tf_lars.cluster.spec import Cluster
from tf_lars.data import order
from tf_lars.errors import DivergedError
from tf_lars.planner.gpu_names import accelerator_of

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from models.flops import Description
    from tf_lars import Trainer
    from tf_lars.tracking.metric_log import MetricLog

MEASURED_SECONDS = 2.0
"""Seconds for which the input is measured when a run waits for it."""

SAMPLES_OF_LAYERS = 100
"""Number of samples of the layers in a run, by default."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is about to begin.

    Attributes:
      settings: Its settings.
      cluster: Its cluster.
      trainer: Its trainer.
      description: Size and cost of the model.
      taken: Which training examples each step takes.
      steps: Number of steps of the whole run.
    """

    settings: TrainingSettings
    cluster: Cluster
    trainer: "Trainer"
    description: "Description"
    taken: order.Steps
    steps: int

    @property
    def replicas(self) -> int:
        """Number of devices."""
        return self.trainer.strategy.num_replicas_in_sync


def layers_every(settings: TrainingSettings, steps: int) -> int:
    """Returns the interval of the samples of the layers, in steps."""
    return settings.layers_every or max(1, steps // SAMPLES_OF_LAYERS)


@contextlib.contextmanager
def recording(run: Run) -> Iterator[list["keras.callbacks.Callback"]]:
    """Yields the callbacks that record a run on the chief; at the end, all is written.

    A run that has diverged gets its report here, since it has no results.
    """
    from tf_lars.tracking.metric_log import MetricLog

    folder = run.settings.model_dir
    try:
        with contextlib.closing(
            MetricLog(os.path.join(folder, TENSORBOARD), os.path.join(folder, METRICS))
        ) as log:
            try:
                yield _callbacks(run, log)
            except DivergedError as error:
                log.line(run.trainer.step, warning="diverged", message=str(error))
                raise
    except DivergedError:
        outcome.write_report(run.settings)
        raise


def _callbacks(run: Run, log: "MetricLog") -> list["keras.callbacks.Callback"]:
    """Returns the callbacks in the order in which they must be called."""
    import tensorflow as tf

    from tf_lars.tracking.device_monitor import DeviceMonitor
    from tf_lars.tracking.graph import NetworkGraph
    from tf_lars.tracking.health import Health
    from tf_lars.tracking.hparams import HParams
    from tf_lars.tracking.input_images import InputImages
    from tf_lars.tracking.layers import LayerLogger
    from tf_lars.tracking.noise import NoiseMeter
    from tf_lars.tracking.norms import Norms
    from tf_lars.tracking.profile import Profile
    from tf_lars.tracking.scalars import ScalarLogger
    from tf_lars.tracking.throughput_log import ThroughputLogger

    settings, every = run.settings, run.settings.tracking_every
    size = settings.image_size
    recorders: list[keras.callbacks.Callback] = [
        ScalarLogger(
            log,
            lambda: run.trainer.step,
            epoch_of=run.taken.epoch,
            environment=environment.describe(run.cluster, run.replicas),
            every=every,
        ),
        ThroughputLogger(
            log,
            devices=run.replicas,
            training_flops=planner.TRAINING_PASSES * run.description.forward_flops,
            peak_flops=_peak_flops(settings),
            every=every,
        ),
        Norms(log, every=every),
        NoiseMeter(log, every=every),
        LayerLogger(log, epoch_of=run.taken.epoch),
        DeviceMonitor(log),
        HParams(log, settings.values_where("identifies_run")),
        NetworkGraph(log, tf.TensorSpec((1, size, size, 3), tf.float32)),
        InputImages(log, functools.partial(_first_images, run)),
        Health(
            log,
            total_steps=run.steps,
            layers_every=layers_every(settings, run.steps),
            worker_names=run.cluster.workers,
            warmup=_warmups(settings, run.taken.num_examples),
            moving_average_momentum=_moving_average_momentum(run),
            measure_input=None if settings.data else functools.partial(_measured_input, run),
        ),
    ]
    if settings.profile_steps:
        folder = os.path.join(settings.model_dir, TENSORBOARD, "train")
        recorders.append(Profile(folder, settings.profile_steps))
    return recorders


def _peak_flops(settings: TrainingSettings) -> float | None:
    """Returns the peak of this process's devices in the run's precision, if it is known."""
    family = accelerator_of(environment.device_name())
    if family is None or settings.mixed_precision == "float32":
        return None
    return planner.peak_flops(family)


def _warmups(settings: TrainingSettings, num_examples: int) -> tuple[float, float] | None:
    """Returns the warm-up of the run and of the recipe for its model, data and batch."""
    recipe = recipes.for_run(
        settings.model, settings.global_batch_size, settings.optimizer, num_examples
    )
    return (settings.warmup_epochs, recipe.warmup_epochs) if recipe else None


def _moving_average_momentum(run: Run) -> float | None:
    """Returns the largest momentum of the statistics with which the model is evaluated."""
    from tf_lars.distribute.batch_norm import batch_norm_layers

    if run.settings.batch_norm_examples_for(run.steps):
        return None
    return max((layer.momentum for layer in batch_norm_layers(run.trainer.model)), default=None)


def _first_images(run: Run) -> "np.ndarray":
    """Returns images of this host's first batch, uint8 `[n, height, width, 3]`."""
    dataset = build_input.training(run.settings, run.settings.global_batch_size).dataset(
        _one_of_many(run), 0, 1
    )
    return next(iter(dataset.take(1)))["image"].numpy()


def _measured_input(run: Run) -> str:
    """Returns what the input of this host gives, measured for a moment."""
    from tf_lars.data import throughput

    data = build_input.training(run.settings, run.settings.global_batch_size)
    rate = throughput.measure(data.dataset(_one_of_many(run), 0, run.steps), MEASURED_SECONDS)
    return (
        f"The input of the first host gives {rate.images_per_second:,.0f} images/s, at "
        f"{rate.cpu_ms_per_image:.3g} ms of CPU per image on {rate.cores} cores "
        "(launch.measure_input measures it at length)."
    )


def _one_of_many(run: Run) -> "tf.distribute.InputContext":
    """Returns this worker's place among all that share the data."""
    import tensorflow as tf

    return tf.distribute.InputContext(run.cluster.num_workers, run.cluster.rank, run.replicas)
