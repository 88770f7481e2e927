"""Runs trials one after another in one process, with one Trainer per optimizer.

Building a model and tracing its step takes about as long as a short run on small images, so both
are done once for trials that differ in the learning rate alone. Between trials, the weights, the
optimizer's state and the schedule are reset. A trial ends with the same weights as a run in a
separate process.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tf_lars.data import order
from tf_lars.data.held_out import held_out_mask
from tf_lars.data.image_input import to_device_batch
from tf_lars.data.in_memory import Images, ResidentEvaluationInput, ResidentTrainingInput, load
from tf_lars.errors import DivergedError, InputError
from tf_lars.study.adjustable_schedule import AdjustableWarmupPolynomial
from tf_lars.study.search_space import Point
from tf_lars.study.trials import Result, Trial
from tf_lars.training.trainer import Trainer

_EVALUATION_BATCH = 256


@dataclasses.dataclass(frozen=True)
class StudyData:
    """A data set in memory, with a part of its training set held out.

    Attributes:
      plain: Training images, preprocessed as for evaluation.
      augmentable: The same images, from which augmentation takes its boxes.
      held_out: Examples of the training set that no trial trains on.
      test: Validation split of the data set; it does not influence any choice.
      num_classes: Number of classes.
    """

    plain: Images
    augmentable: Images
    held_out: Images
    test: Images
    num_classes: int

    @classmethod
    def load(
        cls,
        data_dir: str,
        *,
        num_classes: int,
        image_size: int,
        stored_size: int,
        crop_fraction: float,
        held_out_examples: int,
    ) -> "StudyData":
        """Decodes a prepared data set.

        Args:
          data_dir: Folder written by `launch.prepare_imagenet`.
          num_classes: Number of classes.
          image_size: Side of the images that the network sees, in pixels.
          stored_size: Side of the images from which augmentation takes its boxes, in pixels. They
            are the centre squares of the original images.
          crop_fraction: Side of the evaluation's centre crop over the image's short side.
          held_out_examples: Number of examples to hold out, as in
            `tf_lars.data.held_out.held_out_mask`.

        Raises:
          InputError: The data set is missing, or has too few examples.
        """
        plain = load(data_dir, "train", image_size, crop_fraction)
        same = stored_size == image_size and crop_fraction == 1
        squares = plain if same else load(data_dir, "train", stored_size, 1.0)
        mask = held_out_mask(plain.label, held_out_examples)
        if not 0 < held_out_examples < len(plain):
            raise InputError(
                "The held-out examples must be a part of the training set, which leaves others to "
                f"train on. Received: {held_out_examples:,} of {len(plain):,} examples."
            )
        return cls(
            plain=plain.where(~mask),
            augmentable=squares.where(~mask),
            held_out=plain.where(mask),
            test=load(data_dir, "validation", image_size, crop_fraction),
            num_classes=num_classes,
        )


class StudyRunner:
    """Runs trials.

    Args:
      data: Data to train and evaluate on.
      create_model: Creates a model with the initial weights of a seed.
      seeds: Seeds of the trials. Their initial weights are drawn before the first trial, since
        setting Keras's seed makes TensorFlow instantiate every traced function again.
      compile_model: Compiles a model in place, given the name of an optimizer, a schedule, and
        hyperparameters whose learning rate is that of the schedule.
      evaluations: Number of evaluations on the test set during a trial, at most one per epoch.
      augmentation: Arguments of `TrainingInput` that all trials share: flips and padding.
      decay_power: Power of the polynomial decay.
      reestimate_batch_norm: Whether a trial, given its number of steps, re-estimates the statistics
        of batch normalisation from the training data before evaluation.
      batch_norm_examples: Number of training examples for this estimate.
    """

    def __init__(
        self,
        data: StudyData,
        *,
        create_model: Callable[[int], keras.Model],
        seeds: Sequence[int],
        compile_model: Callable[[keras.Model, str, AdjustableWarmupPolynomial, Point], None],
        evaluations: int,
        augmentation: Mapping[str, Any],
        decay_power: float,
        reestimate_batch_norm: Callable[[int], bool],
        batch_norm_examples: int,
    ):
        self._data = data
        self._create_model = create_model
        self._compile_model = compile_model
        self._evaluations = evaluations
        self._augmentation = augmentation
        self._decay_power = decay_power
        self._reestimate_batch_norm = reestimate_batch_norm
        self._batch_norm_examples = batch_norm_examples
        # The latest of each optimizer, with its hyperparameters besides the learning rate.
        self._trainers: dict[str, tuple[Point, Trainer, AdjustableWarmupPolynomial]] = {}
        self._weights = {
            seed: [variable.numpy() for variable in create_model(seed).variables] for seed in seeds
        }
        self._held_out, self._test = (
            ResidentEvaluationInput(images.image, images.label, _EVALUATION_BATCH)
            for images in (data.held_out, data.test)
        )

    def run(self, trial: Trial) -> Result:
        """Trains from the initial weights of the trial's seed, and evaluates at the end."""
        start = time.perf_counter()
        trainer = self.prepare(trial)
        training = self._training_data(trial)
        steps = self._steps(trial)
        diverged = False
        history: Sequence[dict[str, float]] = []
        try:
            history = trainer.fit(
                training,
                epochs=trial.epochs,
                validation_data=self._test,
                validation_freq=self._evaluated(trial.epochs),
                verbose=0,
                batch_norm_examples=(
                    self._batch_norm_examples if self._reestimate_batch_norm(steps) else 0
                ),
            )
        except DivergedError:
            diverged = True
        if diverged:
            test = trainer.evaluate(self._test)
        else:
            test = {name: history[-1][f"val_{name}"] for name in ("top1", "loss")}
        held_out = trainer.evaluate(self._held_out)
        return Result(
            trial,
            steps=steps,
            diverged=diverged,
            training_loss=math.nan if diverged else history[-1]["loss"],
            held_out_top1=held_out["top1"],
            held_out_loss=held_out["loss"],
            test_top1=test["top1"],
            test_loss=test["loss"],
            seconds=time.perf_counter() - start,
            curve=tuple(
                (epoch, entry["val_top1"])
                for epoch, entry in enumerate(history, start=1)
                if "val_top1" in entry
            ),
        )

    def _evaluated(self, epochs: int) -> list[int]:
        """Returns the epochs after which a trial is evaluated; the last is one of them."""
        count = min(self._evaluations, epochs)
        return sorted({math.ceil(epochs * i / count) for i in range(1, count + 1)})

    def prepare(self, trial: Trial) -> Trainer:
        """Returns the Trainer of the trial's optimizer, reset to the start of the trial."""
        assert trial.point is not None  # Filled in by `trials.resolve`.
        constant = dataclasses.replace(trial.point, learning_rate=0.0)
        if trial.optimizer not in self._trainers or (
            self._trainers[trial.optimizer][0] != constant
        ):
            schedule = AdjustableWarmupPolynomial(self._decay_power)
            model = self._create_model(trial.seed)
            self._compile_model(model, trial.optimizer, schedule, constant)
            prepare_batch = functools.partial(to_device_batch, num_classes=self._data.num_classes)
            self._trainers[trial.optimizer] = (
                constant,
                Trainer(model, prepare_batch=prepare_batch),
                schedule,
            )
        _, trainer, schedule = self._trainers[trial.optimizer]
        variables = trainer.model.variables
        for variable, value in zip(variables, self._weights[trial.seed], strict=True):
            variable.assign(value)
        trainer.reset_optimizer()
        warmup = round(trial.warmup_epochs * len(self._data.plain) / trial.global_batch_size)
        steps = self._steps(trial)
        schedule.set(trial.point.learning_rate, steps, min(warmup, steps))
        return trainer

    def _steps(self, trial: Trial) -> int:
        return order.epoch_end_steps(len(self._data.plain), trial.global_batch_size, trial.epochs)[
            -1
        ]

    def _training_data(self, trial: Trial) -> ResidentTrainingInput:
        # Those that begin with what evaluation shows.
        plain = trial.augmentation in ("none", "pad_crop")
        return ResidentTrainingInput(
            "",
            trial.global_batch_size,
            image_size=self._data.plain.size,
            augmentation=trial.augmentation,
            crop_fraction=1.0,
            seed=trial.seed,
            images=self._data.plain if plain else self._data.augmentable,
            **self._augmentation,
        )
