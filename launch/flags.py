"""The flags that all training programs share, and the frozen settings that they become."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from absl import flags

from launch import recipe
from tf_lars.data import AUGMENTATIONS, MAX_RANDAUGMENT_MAGNITUDE, RANDAUGMENT_MAGNITUDE
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


def define_input() -> None:
    """Defines the flags that say what the network sees."""
    flags.DEFINE_string("data_dir", "", "Local folder written by launch.prepare_imagenet.")
    flags.DEFINE_integer("image_size", 224, "Side of the square images, in pixels.")
    flags.DEFINE_string(
        "image_size_schedule",
        None,
        "Sides of the training images by epoch, as epoch:size,... such as 0:128,18:160,32:224; "
        "evaluation keeps --image_size. By default training has that size too.",
    )
    flags.DEFINE_string(
        "augmentation",
        "reference",
        "reference: random box and flip; randaugment or augmix: these, and then operations on the "
        "image; none: centre crop.",
    )
    flags.DEFINE_float(
        "randaugment_magnitude",
        RANDAUGMENT_MAGNITUDE,
        f"Strength of RandAugment's two operations, 0 to {MAX_RANDAUGMENT_MAGNITUDE:g}.",
    )
    flags.DEFINE_float(
        "mixup_alpha",
        0.0,
        "Blend images and labels in pairs, with weights from Beta(alpha, alpha); 0: off. With "
        "--cutmix_alpha too, each example takes one of the two at random. The accuracy in training "
        "is then that on the class of the larger weight.",
    )
    flags.DEFINE_float(
        "cutmix_alpha",
        0.0,
        "Paste a box of another image, its area from Beta(alpha, alpha), and blend the labels by "
        "area; 0: off.",
    )
    flags.DEFINE_float(
        "random_erasing_probability",
        0.0,
        "Probability that a box of 2 to 40 % of an image is painted over.",
    )
    flags.DEFINE_float(
        "crop_fraction", 0.875, "Side of the evaluation's centre crop over the image's short side."
    )
    flags.DEFINE_integer(
        "max_bad_records",
        0,
        "Damaged or undecodable records of a split that may be passed over; each is named in the "
        "log of the worker that meets it.",
    )
    flags.DEFINE_bool(
        "cache",
        False,
        "Keep decoded images in memory, in each worker process; it pays for full-size photos.",
    )
    flags.DEFINE_integer("seed", 0, "Seed of weights, order and augmentation.")


def define() -> None:
    """Defines the flags of `TrainingSettings` and of recipes; `--num_workers` has its program."""
    recipe.define()
    flags.adopt_module_key_flags(recipe)
    define_input()
    flags.DEFINE_string(
        "model",
        "resnet50",
        "resnet18, 34, 50, 101 or 152; small_resnetD[_wW] for small images, with depth D = 6n+2 "
        "and width W; alexnet, alexnet_bn; keras.applications/NAME; keras_cv/NAMEBackbone; or a "
        "function of your own, package.module:function or path/to/file.py:function, which is "
        "called with num_classes=... and image_size=... and returns a keras.Model that gives "
        "logits for colours from 0 to 255.",
    )
    flags.DEFINE_boolean(
        "space_to_depth_stem",
        False,
        "Compute the first convolution of resnet18 to resnet152 on blocks of 2 x 2 pixels: the "
        "same weights and result, faster on TPUs.",
    )
    flags.DEFINE_boolean(
        "sync_batch_norm",
        False,
        "Normalise each training batch by its statistics over all devices. By default each device "
        "normalises its own share.",
    )
    flags.DEFINE_string(
        "model_dir", "", "Folder for checkpoints, TensorBoard, results.json and report.png."
    )
    flags.DEFINE_integer("global_batch_size", 256, "Examples per optimizer step, on all devices.")
    flags.DEFINE_integer("epochs", 90, "Passes over the training data.")
    flags.DEFINE_string("optimizer", "lars", f"One of {', '.join(OPTIMIZERS)}.")
    flags.DEFINE_float("learning_rate", 10.0, "Rate at the end of the warm-up.")
    flags.DEFINE_float("initial_learning_rate", 0.0, "Rate at the first step of the warm-up.")
    flags.DEFINE_float("warmup_epochs", 5.0, "Epochs in which the rate rises linearly.")
    flags.DEFINE_string(
        "schedule", "polynomial", f"What follows the warm-up: one of {', '.join(SCHEDULES)}."
    )
    flags.DEFINE_float("end_learning_rate", 1e-4, "Rate at the end of training.")
    flags.DEFINE_float("decay_power", 2.0, "Power of the polynomial decay after the warm-up.")
    flags.DEFINE_float("weight_decay", 5e-5, "L2 decay, not of biases and batch normalisation.")
    flags.DEFINE_float("momentum", 0.9, "Momentum.")
    flags.DEFINE_float(
        "ema_momentum",
        0.0,
        "Keep an exponential moving average of the weights, with this momentum per step (0.9999), "
        "and evaluate it; 0: off.",
    )
    flags.DEFINE_float("trust_coefficient", 0.001, "Trust coefficient of LARS.")
    flags.DEFINE_float(
        "excluded_learning_rate_multiplier",
        1.0,
        "Factor on the rate of what LARS does not adapt: biases and batch normalisation. A network "
        "without batch normalisation needs about 0.01; see docs/optimizer.md.",
    )
    flags.DEFINE_float("label_smoothing", 0.1, "Share of the label spread over all classes.")
    flags.DEFINE_integer(
        "batch_norm_examples",
        None,
        "Training examples from which the statistics of batch normalisation are estimated before "
        f"each evaluation; 0: use the moving averages. By default {SHORT_RUN_EXAMPLES:,} in a run "
        f"of fewer than {SHORT_RUN_STEPS:,} steps, whose moving averages are useless, and else 0.",
    )
    flags.DEFINE_integer(
        "epochs_between_evaluations", 1, "Evaluate after every so many epochs, and at the end."
    )
    flags.DEFINE_integer(
        "evaluation_batch_size",
        None,
        "Images per evaluation step, on all devices. By default the global batch, at most 256 per "
        "device.",
    )
    flags.DEFINE_string(
        "micro_batch_size",
        None,
        "Images that a device takes through the network at once, to save memory; gradients are "
        "summed over the parts. auto: the largest that fits, found by trying. By default its whole "
        "share of the global batch.",
    )
    flags.DEFINE_integer(
        "steps_per_loop",
        None,
        "Steps per call of the training loop. By default as many as take about two seconds.",
    )
    flags.DEFINE_string(
        "mixed_precision",
        "float32",
        "Arithmetic of the network: float32, bfloat16, or float16 with dynamic loss scaling; "
        "weights stay float32.",
    )
    flags.DEFINE_boolean(
        "jit_compile", False, "Compile the forward and backward pass with XLA; slower on CPUs."
    )
    flags.DEFINE_string(
        "gradient_reduction_dtype",
        "float32",
        "float32, or bfloat16 for half the bytes between devices.",
    )
    flags.DEFINE_integer(
        "bytes_per_pack",
        32 * 2**20,
        "Gradients are all-reduced in packs of at most so many bytes; 0: in one.",
    )
    flags.DEFINE_integer(
        "max_skipped_steps",
        20,
        "A step whose gradients are not finite is skipped on all devices; after so many in a row "
        "the run ends.",
    )
    flags.DEFINE_boolean(
        "deterministic",
        False,
        "Have TensorFlow use deterministic kernels only, so that a run ends with the same bits "
        "each time, on GPUs too; slower there.",
    )
    flags.DEFINE_integer("keep_checkpoints", 3, "How many of the newest checkpoints to keep.")
    flags.DEFINE_boolean(
        "keep_best", False, "Keep the checkpoint with the best validation top-1 too."
    )
    flags.DEFINE_string(
        "resume",
        "auto",
        "auto: go on from the newest checkpoint, if any; must: fail without one; never: start "
        "anew, once for all starts of a job, and move older checkpoints aside.",
    )


def training_settings() -> TrainingSettings:
    """Returns the settings that the flags and `--recipe` give.

    Raises:
      InputError: a flag is out of its range, or there is no such recipe.
    """
    return settings_with(recipe.chosen())


def settings_with(others: Mapping[str, object]) -> TrainingSettings:
    """Returns the settings that the flags give, but for some others.

    Raises:
      InputError: a flag is out of its range.
    """
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    values = {name: flags.FLAGS[name].value for name in names}
    size = values["micro_batch_size"]
    if size is not None and size.isdecimal():
        values["micro_batch_size"] = int(size)
    return TrainingSettings(**{**values, **others})


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
