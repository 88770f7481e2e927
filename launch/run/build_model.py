"""Builds and compiles the model that training settings describe."""

from typing import TYPE_CHECKING, Any

import models
from launch.run.extension import Extension
from launch.run.settings import TrainingSettings
from models import freezing
from models.keras_defaults import use_keras_defaults
from tf_lars.data import order
from tf_lars.defaults import OPTIMIZERS

if TYPE_CHECKING:
    import keras


def create(
    settings: TrainingSettings,
    *,
    num_classes: int,
    steps: int,
    num_examples: int,
    extension: Extension | None = None,
    schedule: "keras.optimizers.schedules.LearningRateSchedule | None" = None,
):
    """Returns the compiled model; must be called in the strategy's scope.

    Args:
      settings: Settings of the run.
      num_classes: Number of classes of the data.
      steps: Optimizer steps of the whole run.
      num_examples: Number of training examples.
      extension: Beginning of the epochs that were added to a finished run, if any.
      schedule: Schedule in the place of that of the settings.

    Raises:
      InputError: The model cannot be built, or `--freeze` matches nothing or everything in it.
    """
    import keras

    use_keras_defaults()
    keras.utils.set_random_seed(settings.seed)  # the same weights on all workers
    if settings.mixed_precision != "float32":
        keras.mixed_precision.set_dtype_policy(f"mixed_{settings.mixed_precision}")
    model = models.create(
        settings.model,
        num_classes=num_classes,
        image_size=None if settings.image_size_schedule else settings.image_size,
        space_to_depth_stem=settings.space_to_depth_stem,
        sync_batch_norm=settings.sync_batch_norm,
        fused_batch_norm=settings.fused_batch_norm,
        batch_norm_group_size=_group_size(settings),
    )
    if settings.freeze:
        freezing.freeze(model, settings.freeze)
    schedule = schedule or _schedule(settings, steps, num_examples, extension)
    compile_for_classes(
        model, _optimizer(settings, schedule), num_classes, settings.label_smoothing
    )
    return model


def _group_size(settings: TrainingSettings) -> int | None:
    """Returns the number of examples in a group, which `batch_norm_groups` has resolved."""
    size = settings.batch_norm_group_size
    assert not isinstance(size, str), size
    return size


def compile_for_classes(
    model: "keras.Model",
    optimizer: "keras.optimizers.Optimizer",
    num_classes: int,
    label_smoothing: float,
) -> None:
    """Compiles a model of logits, with cross-entropy on one-hot labels, top-1 and top-5."""
    import keras

    model.compile(
        optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(min(5, num_classes), name="top5"),
        ],
    )


def optimizer(name: str, learning_rate, **settings) -> "keras.optimizers.Optimizer":
    """Returns the optimizer that `--optimizer` names: lars, sgd or nesterov.

    LARS without adaptation is SGD with momentum and L2 decay, with the same variables excluded.

    Args:
      name: One of `tf_lars.defaults.OPTIMIZERS`.
      learning_rate: Number or schedule.
      **settings: Further arguments of `tf_lars.LARS`.
    """
    from tf_lars import LARS

    if name != "lars":
        settings |= {
            "exclude_from_layer_adaptation": [".*"],
            "excluded_learning_rate_multiplier": 1.0,
        }
    return LARS(learning_rate, nesterov=name == "nesterov", **settings)


def study_optimizer(
    name: str, learning_rate, *, momentum: float, weight_decay: float, **of_lars
) -> "keras.optimizers.Optimizer":
    """Returns one of `tf_lars.defaults.STUDY_OPTIMIZERS`, for comparisons.

    Those of Keras do not decay biases and batch normalisation either. Keras 3.15's Muon updates
    matrices alone: convolution kernels are trained by its AdamW.

    Args:
      name: Name of the optimizer.
      learning_rate: Number or schedule.
      momentum: Momentum, or beta_1 of Adam's relatives.
      weight_decay: L2 decay of `OPTIMIZERS`; decoupled decay of the others.
      **of_lars: Further arguments of `tf_lars.LARS`, which the others lack.
    """
    import keras

    if name in OPTIMIZERS:
        common = {"momentum": momentum, "weight_decay": weight_decay}
        return optimizer(name, learning_rate, **common, **of_lars)
    if name == "muon":
        created = keras.optimizers.Muon(
            learning_rate,
            adam_beta_1=momentum,
            adam_weight_decay=weight_decay,
            weight_decay=weight_decay,
            momentum=momentum,
        )
    else:
        kind = {"lamb": keras.optimizers.Lamb, "adamw": keras.optimizers.AdamW}[name]
        created = kind(learning_rate, beta_1=momentum, weight_decay=weight_decay)
    created.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return created


def schedule_arguments(settings: TrainingSettings, steps: int, num_examples: int) -> dict[str, Any]:
    """Returns the arguments of `tf_lars.schedules.create`, and of `schedule_formulas.rates`.

    Args:
      settings: Settings of the run.
      steps: Optimizer steps of the whole run, or of the epochs that extend it; with a schedule of
        batches, as many as its examples are at the first batch.
      num_examples: Number of training examples.
    """
    warmup_steps = round(settings.warmup_epochs * num_examples / settings.global_batch_size)
    return {
        "peak_learning_rate": settings.learning_rate,
        "total_steps": steps,
        "warmup_steps": min(warmup_steps, steps),
        "initial_learning_rate": settings.initial_learning_rate,
        "power": settings.decay_power,
        "end_learning_rate": min(settings.end_learning_rate, settings.learning_rate),
    }


def _schedule(
    settings: TrainingSettings, steps: int, num_examples: int, extension: Extension | None
) -> "keras.optimizers.schedules.LearningRateSchedule":
    from tf_lars import schedules

    taken, steps = steps_of_schedule(settings, steps, num_examples, extension)
    equivalent = order.equivalent_steps(taken, steps, settings.global_batch_size)
    created = schedules.create(
        settings.schedule, **schedule_arguments(settings, equivalent, num_examples)
    )
    if settings.batch_size_schedule:
        created = schedules.Ramped(
            created, taken.phases, settings.global_batch_size, settings.rate_rule
        )
    return schedules.Shifted(created, extension.first_iteration) if extension else created


def steps_of_schedule(
    settings: TrainingSettings, steps: int, num_examples: int, extension: Extension | None
) -> tuple[order.Steps, int]:
    """Returns the steps that the schedule counts, and their number.

    Args:
      settings: Settings of the run.
      steps: Optimizer steps of the whole run.
      num_examples: Number of training examples.
      extension: Beginning of the epochs that were added to a finished run, if any.
    """
    taken = settings.steps_over(num_examples)
    if extension is None:
        return taken, steps
    return taken.after(extension.first_step), extension.added_steps(steps)


def _optimizer(settings: TrainingSettings, schedule) -> "keras.optimizers.Optimizer":
    from tf_lars.optimizers.loss_scale import LossScaleOptimizer

    averaging = {"use_ema": True, "ema_momentum": settings.ema_momentum}
    chosen = optimizer(
        settings.optimizer,
        schedule,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        trust_coefficient=settings.trust_coefficient,
        excluded_learning_rate_multiplier=settings.excluded_learning_rate_multiplier,
        **(averaging if settings.ema_momentum else {}),
    )
    return LossScaleOptimizer(chosen) if settings.mixed_precision == "float16" else chosen
