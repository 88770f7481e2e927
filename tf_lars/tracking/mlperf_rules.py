"""What a result log of MLPerf Training, rules 4.0.0, ResNet, says about a run, and its rules."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

BENCHMARK = "resnet"

TARGET_ACCURACY = 0.759
"""Accuracy that ends a run of the benchmark."""

_END_RATE, _POWER = 1e-4, 2.0
_DECAY_UNIT, _SGD_RATE_UNIT = 1e-4, 1e-3
_FREE_MOMENTUM_BATCH, _FIXED_MOMENTUM = 32768, 0.9
_LABEL_SMOOTHINGS = (0.0, 0.1)
_EVALUATION_EPOCHS = 4
_IMAGENET = (1_281_167, 50_000)
_RESNET50 = "resnet50"


@dataclasses.dataclass(frozen=True)
class MLPerfRun:
    """What a result log says about a run.

    Attributes:
      division: "closed" or "open".
      organization: Submitting organization.
      platform: Name of the system.
      status: "onprem", "cloud", "preview" or "research".
      model: Name of the network, written as metadata of the benchmark.
      data: Name of the data set, likewise.
      seed: Seed of the run.
      train_samples: Number of training examples.
      eval_samples: Number of validation examples.
      global_batch_size: Examples per optimizer step, over all devices.
      normalized_examples: Examples that batch normalisation normalises together where a device
        processes its share of the batch in one pass.
      optimizer: "lars", "sgd" or "nesterov"; the log calls the last one sgd.
      learning_rate: Rate at the end of the warm-up.
      warmup_epochs: Length of the warm-up.
      schedule: Name of the decay after the warm-up.
      end_learning_rate: Rate at the end of a polynomial decay.
      decay_power: Power of a polynomial decay.
      decay_steps: Steps from the end of the warm-up to the end of the run.
      momentum: Momentum.
      weight_decay: Weight decay.
      epsilon: Epsilon of LARS.
      label_smoothing: Label smoothing.
      epochs: Number of epochs.
      epochs_between_evaluations: Interval of evaluations in epochs.
      in_groups: Whether micro-batches leave `normalized_examples` as it is.
    """

    division: str
    organization: str
    platform: str
    status: str
    model: str
    data: str
    seed: int
    train_samples: int
    eval_samples: int
    global_batch_size: int
    normalized_examples: int
    optimizer: str
    learning_rate: float
    warmup_epochs: float
    schedule: str
    end_learning_rate: float
    decay_power: float
    decay_steps: int
    momentum: float
    weight_decay: float
    epsilon: float
    label_smoothing: float
    epochs: int
    epochs_between_evaluations: int
    in_groups: bool = False

    @property
    def opt_name(self) -> str:
        """Name of the optimizer in the log."""
        return "lars" if self.optimizer == "lars" else "sgd"

    def events(self, micro_batches: int) -> list[tuple[str, Any, Mapping[str, Any]]]:
        """Returns the events that describe the run: key, value and metadata.

        Args:
          micro_batches: Number of parts in which a device processes its share of the batch.
        """
        values: dict[str, Any] = {
            "submission_division": self.division,
            "submission_org": self.organization,
            "submission_platform": self.platform,
            "submission_status": self.status,
            "seed": self.seed,
            "train_samples": self.train_samples,
            "eval_samples": self.eval_samples,
            "global_batch_size": self.global_batch_size,
            "gradient_accumulation_steps": micro_batches,
            "model_bn_span": self.normalized_examples // (1 if self.in_groups else micro_batches),
            "opt_name": self.opt_name,
        }
        prefix = f"{self.opt_name}_opt_"
        values[f"{prefix}base_learning_rate"] = self.learning_rate
        values[f"{prefix}momentum"] = self.momentum
        values[f"{prefix}weight_decay"] = self.weight_decay
        if self.opt_name == "lars":
            values["lars_epsilon"] = self.epsilon
            values["lars_opt_learning_rate_warmup_epochs"] = self.warmup_epochs
        else:
            values["opt_learning_rate_warmup_epochs"] = self.warmup_epochs
        if self.schedule == "polynomial":
            values[f"{prefix}end_learning_rate"] = self.end_learning_rate
            values[f"{prefix}learning_rate_decay_poly_power"] = self.decay_power
            values[f"{prefix}learning_rate_decay_steps"] = self.decay_steps
        else:  # keys of a polynomial would be untrue
            values["opt_learning_rate_decay_schedule"] = self.schedule
        described = {"model": self.model, "data": self.data}
        return [
            ("submission_benchmark", BENCHMARK, described),
            *((key, value, {}) for key, value in values.items()),
        ]

    def violations(self) -> list[str]:
        """Returns what the closed division does not allow: each a rule and the value received.

        The compliance checker tests the weight decay, the polynomial, the epsilon of LARS and the
        unit of SGD's rate; the others are in the text of the rules.
        """
        lars, polynomial = self.opt_name == "lars", self.schedule == "polynomial"
        momentum_is_free = lars and self.global_batch_size >= _FREE_MOMENTUM_BATCH
        units = self.learning_rate / _SGD_RATE_UNIT
        checks = [
            (
                self.weight_decay > 0 and _is_whole(math.log2(self.weight_decay / _DECAY_UNIT)),
                "--weight_decay must be 0.0001 times a power of two, such as 0.0002 or 0.0004",
                self.weight_decay,
            ),
            (polynomial, "--schedule must be polynomial", self.schedule),
            (
                not polynomial or self.decay_power == _POWER,
                f"--decay_power must be {_POWER:g}",
                self.decay_power,
            ),
            (
                not polynomial or self.end_learning_rate == _END_RATE,
                f"--end_learning_rate must be {_END_RATE:g}",
                self.end_learning_rate,
            ),
            (
                momentum_is_free or self.momentum == _FIXED_MOMENTUM,
                "--momentum must be 0.9, except for LARS at batches of 32,768 or more",
                self.momentum,
            ),
            (not lars or self.epsilon == 0, "the epsilon of LARS must be 0", self.epsilon),
            (
                lars or _is_whole(units),
                "--learning_rate of SGD must be a multiple of 0.001",
                self.learning_rate,
            ),
            (self.optimizer != "nesterov", "--optimizer must be lars or sgd", self.optimizer),
            (
                self.label_smoothing in _LABEL_SMOOTHINGS,
                "--label_smoothing must be 0 or 0.1",
                self.label_smoothing,
            ),
            (
                self.epochs_between_evaluations <= _EVALUATION_EPOCHS,
                f"--epochs_between_evaluations must be at most {_EVALUATION_EPOCHS}",
                self.epochs_between_evaluations,
            ),
            (self.model == _RESNET50, "--model must be resnet50", self.model),
            (
                (self.train_samples, self.eval_samples) == _IMAGENET,
                "the data must be ImageNet",
                self.data,
            ),
        ]
        return [f"{rule} (now {received})" for holds, rule, received in checks if not holds]


def _is_whole(value: float) -> bool:
    return abs(round(value) - value) < 1e-5  # the checker's own tolerance
