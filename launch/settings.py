"""What a training run is asked to do, and the file in its folder that says so."""

import dataclasses
import math
import typing
from typing import Any

from tf_lars.data import AUGMENTATIONS, MAX_RANDAUGMENT_MAGNITUDE
from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.errors import InputError

OPTIMIZERS = ("lars", "sgd", "nesterov")
SCHEDULES = ("polynomial", "cosine", "step", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")
RESUME = ("auto", "must", "never")
SHORT_RUN_STEPS = 1000
SHORT_RUN_EXAMPLES = 8192


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What a training run is asked to do; each field is the flag of its name."""

    model: str
    space_to_depth_stem: bool
    sync_batch_norm: bool
    data_dir: str
    model_dir: str
    global_batch_size: int
    epochs: int
    optimizer: str
    learning_rate: float
    initial_learning_rate: float
    warmup_epochs: float
    schedule: str
    end_learning_rate: float
    decay_power: float
    weight_decay: float
    momentum: float
    ema_momentum: float
    trust_coefficient: float
    excluded_learning_rate_multiplier: float
    label_smoothing: float
    image_size: int
    image_size_schedule: str | None
    augmentation: str
    randaugment_magnitude: float
    mixup_alpha: float
    cutmix_alpha: float
    random_erasing_probability: float
    crop_fraction: float
    batch_norm_examples: int | None
    epochs_between_evaluations: int
    evaluation_batch_size: int | None
    max_bad_records: int
    cache: bool
    seed: int
    deterministic: bool
    micro_batch_size: int | str | None
    steps_per_loop: int | None
    mixed_precision: str
    jit_compile: bool
    gradient_reduction_dtype: str
    bytes_per_pack: int
    max_skipped_steps: int
    keep_checkpoints: int
    keep_best: bool
    resume: str

    def __post_init__(self):
        _check(self.optimizer in OPTIMIZERS, self, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        _check(
            self.mixed_precision in PRECISIONS,
            self,
            "mixed_precision",
            f"one of {', '.join(PRECISIONS)}",
        )
        _check(
            self.gradient_reduction_dtype in PRECISIONS[:2],
            self,
            "gradient_reduction_dtype",
            " or ".join(PRECISIONS[:2]),
        )
        _check(
            self.augmentation in AUGMENTATIONS,
            self,
            "augmentation",
            f"one of {', '.join(AUGMENTATIONS)}",
        )
        _check(self.schedule in SCHEDULES, self, "schedule", f"one of {', '.join(SCHEDULES)}")
        _check(self.resume in RESUME, self, "resume", f"one of {', '.join(RESUME)}")
        for name in ("data_dir", "model_dir"):
            _check(bool(getattr(self, name)), self, name, "the path of a folder")
        for name in (
            "global_batch_size",
            "epochs",
            "image_size",
            "epochs_between_evaluations",
            "max_skipped_steps",
            "keep_checkpoints",
        ):
            _check(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("steps_per_loop", "evaluation_batch_size"):
            value = getattr(self, name)
            _check(value is None or value >= 1, self, name, "at least 1")
        size = self.micro_batch_size
        _check(
            size in (None, "auto") or (isinstance(size, int) and size >= 1),
            self,
            "micro_batch_size",
            "at least 1, or auto",
        )
        for name in ("learning_rate", "decay_power", "trust_coefficient"):
            value = getattr(self, name)
            _check(0 < value < math.inf, self, name, "above 0")
        for name in (
            "weight_decay",
            "excluded_learning_rate_multiplier",
            "initial_learning_rate",
            "end_learning_rate",
            "warmup_epochs",
            "mixup_alpha",
            "cutmix_alpha",
            "max_bad_records",
            "bytes_per_pack",
        ):
            _check(0 <= getattr(self, name) < math.inf, self, name, "0 or above")
        _check(0 <= self.seed < 2**32, self, "seed", "at least 0 and below 2**32")
        for name in ("momentum", "ema_momentum", "label_smoothing"):
            _check(0 <= getattr(self, name) < 1, self, name, "at least 0 and below 1")
        if self.image_size_schedule:
            ImageSizeSchedule.parse(self.image_size_schedule)
        _check(0 < self.crop_fraction <= 1, self, "crop_fraction", "above 0 and at most 1")
        _check(
            0 <= self.randaugment_magnitude <= MAX_RANDAUGMENT_MAGNITUDE,
            self,
            "randaugment_magnitude",
            f"from 0 to {MAX_RANDAUGMENT_MAGNITUDE:g}",
        )
        _check(
            0 <= self.random_erasing_probability <= 1,
            self,
            "random_erasing_probability",
            "from 0 to 1",
        )
        _check(
            self.warmup_epochs <= self.epochs,
            self,
            "warmup_epochs",
            f"at most {self.epochs} epochs",
        )
        if self.batch_norm_examples is not None:
            _check(self.batch_norm_examples >= 0, self, "batch_norm_examples", "0 or above")


def _check(right: bool, settings: TrainingSettings, name: str, rule: str) -> None:
    if not right:
        raise InputError(f"--{name} must be {rule}. Received: {getattr(settings, name)!r}.")


def as_arguments(settings: TrainingSettings) -> list[str]:
    """Returns the command-line arguments that give these settings."""
    return [
        f"--{name}={value}"
        for name, value in dataclasses.asdict(settings).items()
        if value is not None
    ]


def read_arguments(path: str) -> TrainingSettings:
    """Returns the settings that a file holds, one argument of `as_arguments` on each line.

    Raises:
      InputError: there is no such file, or it was written for other flags than these.
    """
    rule = "The folder of a run must hold the flags.txt that launch.local writes."
    try:
        with open(path) as file:
            pairs = [line.strip().removeprefix("--").split("=", 1) for line in file]
    except OSError as error:
        raise InputError(
            f"{rule} Received: {path!r} ({error.strerror}). Name the --model_dir of a run."
        ) from error
    types = typing.get_type_hints(TrainingSettings)
    try:
        given = {name: _parsed(text, types[name]) for name, text in pairs}
        absent = {name: None for name, hint in types.items() if type(None) in typing.get_args(hint)}
        return TrainingSettings(**{**absent, **given})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{rule} Received: {path!r}, of another version of this program ({error}). Use that "
            "version."
        ) from error


def _parsed(text: str, hint: Any) -> object:
    """Returns the value of the first type in a hint that the text stands for."""
    for kind in typing.get_args(hint) or (hint,):
        try:
            return {"True": True, "False": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError, TypeError):
            continue
    raise ValueError(f"{text!r} is no {hint}")
