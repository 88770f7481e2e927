"""The table of training settings: each is declared here, once."""

import dataclasses
import re
from typing import Any

from launch.run.batch_settings import SCHEDULE, BatchSettings
from launch.run.data_settings import DataSettings
from launch.run.tracking_settings import TrackingSettings
from tf_lars import files
from tf_lars import setting as table
from tf_lars.defaults import (
    BYTES_PER_PACK,
    MAX_SKIPPED_STEPS,
    OPTIMIZERS,
    PRECISIONS,
    REDUCTION_DTYPES,
    SHORT_RUN_EXAMPLES,
    SHORT_RUN_STEPS,
)
from tf_lars.errors import InputError, require
from tf_lars.schedule_formulas import SCHEDULES
from tf_lars.setting import Rule, above, below_one, one_of, setting, within

MODEL, OPTIMIZER, LOOP, RUN = (
    "Model",
    "Optimizer",
    "Loop and precision",
    "Evaluation and checkpoints",
)
"""Groups of settings in `--help`, besides those of the classes that it extends."""


def _is_expression(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return bool(text)


RECIPE_GROUP = "recipe"
"""Value of `--batch_norm_group_size` for the number of the published settings."""

_GROUP_SIZE = Rule(
    f"at least 1, or {RECIPE_GROUP}",
    lambda value: (
        value == RECIPE_GROUP or (isinstance(value, int) and table.batch_size().holds(value))
    ),
)
_MICRO_BATCH = Rule(
    "at least 1, or auto",
    lambda value: value == "auto" or (isinstance(value, int) and table.batch_size().holds(value)),
)


@dataclasses.dataclass(frozen=True)
class TrainingSettings(BatchSettings, TrackingSettings, DataSettings):
    """The settings of a training run; each field is the flag of its name.

    A field holds its default, documentation, range and use (`tf_lars.setting.Setting`). To add a
    setting, add a field: its flag, its check, its place in `--help` and in flags.txt, the
    comparison between hosts and the identity of the run follow from it.

    Raises:
      InputError: A setting is out of range.
    """

    model: str = setting(
        "resnet18, 34, 50, 101 or 152; small_resnetD[_wW] for small images, with depth D = 6n+2 "
        "and width W; alexnet, alexnet_bn; keras.applications/NAME; keras_cv/NAMEBackbone; or your "
        "own function, package.module:function or path/to/file.py:function, which is called with "
        "num_classes=... and image_size=... and returns a keras.Model that maps colours from 0 to "
        "255 to logits.",
        "resnet50",
        group=MODEL,
    )
    space_to_depth_stem: bool = setting(
        "Compute the first convolution of resnet18 to resnet152 on blocks of 2 x 2 pixels: same "
        "weights and results, faster on TPUs.",
        False,
        group=MODEL,
    )
    sync_batch_norm: bool = setting(
        "Normalise each training batch by its statistics over all devices. By default each device "
        "normalises its own share.",
        False,
        group=MODEL,
    )
    fused_batch_norm: bool = setting(
        "Normalise with TensorFlow's fused kernel, which Keras does not use: same results but for "
        "rounding, faster where XLA does not compile the network. Not with --sync_batch_norm or "
        "groups.",
        False,
        group=MODEL,
        identifies_run=False,
    )
    batch_norm_group_size: int | str | None = setting(
        "Number of neighbouring examples of a training batch that are normalised together: an "
        "equal part of what a device processes at a time, or the shares of several devices. "
        f"{RECIPE_GROUP}: that of the published settings for the model and batch, if the devices "
        "can form such groups. By default what a device processes at a time.",
        None,
        rule=_GROUP_SIZE,
        group=MODEL,
        set_by_recipe=True,
    )
    initial_weights: str | None = setting(
        "Weights to start from: the folder of a run (its newest checkpoint) or of one checkpoint; "
        "a .keras or .h5 file; or imagenet, the published weights of keras.applications/NAME and "
        "keras_cv/NAMEBackbone. Layers are loaded that have the same name and shapes; others, such "
        "as the head for another number of classes, start afresh.",
        None,
        group=MODEL,
    )
    freeze: str | None = setting(
        "Regular expression, searched for in the paths of layers and variables, such as "
        "^(stem|stage[12])_. What matches is not trained; batch normalisation there uses its "
        "moving statistics, which stay as they are.",
        None,
        rule=Rule("a regular expression", _is_expression),
        group=MODEL,
    )
    model_dir: str = setting(
        "Folder for checkpoints, TensorBoard, results.json, report.html and report.png.",
        "",
        group=RUN,
        identifies_run=False,
    )
    epochs: int = setting(
        "Passes over the training data.",
        90,
        rule=table.epochs(),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    optimizer: str = setting(
        f"One of {', '.join(OPTIMIZERS)}.", "lars", rule=one_of(*OPTIMIZERS), group=OPTIMIZER
    )
    learning_rate: float = setting(
        "Learning rate at the end of the warm-up.",
        10.0,
        rule=table.positive_rate(),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    initial_learning_rate: float = setting(
        "Learning rate at the first step of the warm-up.",
        0.0,
        rule=table.rate(),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    warmup_epochs: float = setting(
        "Epochs over which the learning rate rises linearly.",
        5.0,
        rule=within(0, table.MOST_EPOCHS),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    schedule: str = setting(
        f"Decay after the warm-up: one of {', '.join(SCHEDULES)}.",
        "polynomial",
        rule=one_of(*SCHEDULES),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    end_learning_rate: float = setting(
        "Learning rate at the end of training.",
        1e-4,
        rule=table.rate(),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    decay_power: float = setting(
        "Power of the polynomial decay after the warm-up.",
        2.0,
        rule=above(0, 1000),
        group=SCHEDULE,
        set_by_recipe=True,
        extension_may_change=True,
    )
    weight_decay: float = setting(
        "L2 weight decay; biases and batch normalisation are excluded.",
        5e-5,
        rule=within(0, 1000),
        group=OPTIMIZER,
        set_by_recipe=True,
    )
    momentum: float = setting(
        "Momentum.", 0.9, rule=below_one(), group=OPTIMIZER, set_by_recipe=True
    )
    ema_momentum: float = setting(
        "Keep an exponential moving average of the weights with this momentum per step (0.9999), "
        "and evaluate it; 0: off.",
        0.0,
        rule=below_one(),
        group=OPTIMIZER,
    )
    trust_coefficient: float = setting(
        "Trust coefficient of LARS.",
        0.001,
        rule=above(0, 1000),
        group=OPTIMIZER,
        set_by_recipe=True,
    )
    excluded_learning_rate_multiplier: float = setting(
        "Factor on the learning rate of variables that LARS does not adapt: biases and batch "
        "normalisation. A network without batch normalisation needs about 0.01; see "
        "docs/optimizer.md.",
        1.0,
        rule=table.rate(),
        group=OPTIMIZER,
    )
    label_smoothing: float = setting(
        "Share of each label that is spread over all classes.",
        0.1,
        rule=below_one(),
        group=OPTIMIZER,
        set_by_recipe=True,
    )
    batch_norm_examples: int | None = setting(
        "Training examples from which the statistics of batch normalisation are estimated before "
        f"each evaluation; 0: use the moving averages. By default {SHORT_RUN_EXAMPLES:,} in runs "
        f"of fewer than {SHORT_RUN_STEPS:,} steps, whose moving averages are useless, and 0 "
        "otherwise.",
        None,
        rule=within(0, 1_000_000_000),
        group=RUN,
        identifies_run=False,
    )
    epochs_between_evaluations: int = setting(
        "Evaluate after every this many epochs, and at the end.",
        1,
        rule=table.epochs(),
        group=RUN,
        identifies_run=False,
    )
    evaluation_batch_size: int | None = setting(
        "Images per evaluation step, over all devices. By default the global batch, at most 256 "
        "per device.",
        None,
        rule=table.batch_size(),
        group=RUN,
        identifies_run=False,
        evaluation_may_override=True,
    )
    deterministic: bool = setting(
        "Have TensorFlow use deterministic kernels only, so that a run produces the same bits "
        "every time, on GPUs too; slower there.",
        False,
        group=LOOP,
    )
    micro_batch_size: int | str | None = setting(
        "Images that a device passes through the network at a time, to save memory; gradients are "
        "summed over the parts. auto: the largest that fits, found by trial. By default a device's "
        "whole share of the global batch, or of the smallest in --batch_size_schedule.",
        None,
        rule=_MICRO_BATCH,
        group=LOOP,
        # How a step is computed may change with the machines, as the number of replicas may.
        identifies_run=False,
    )
    steps_per_loop: int | None = setting(
        "Steps per call of the training loop. By default as many as take about two seconds.",
        None,
        rule=within(1, 1_000_000),
        group=LOOP,
        identifies_run=False,
    )
    mixed_precision: str = setting(
        "Arithmetic of the network: float32, bfloat16, or float16 with dynamic loss scaling; "
        "weights stay float32.",
        "float32",
        rule=one_of(*PRECISIONS),
        group=LOOP,
    )
    jit_compile: bool = setting(
        "Compile the forward and backward pass with XLA; slower on CPUs.",
        False,
        group=LOOP,
        identifies_run=False,
    )
    gradient_reduction_dtype: str = setting(
        "float32, or bfloat16 for half the bytes between devices.",
        "float32",
        rule=one_of(*REDUCTION_DTYPES),
        group=LOOP,
    )
    bytes_per_pack: int = setting(
        "Gradients are all-reduced in packs of at most this many bytes; 0: in one.",
        BYTES_PER_PACK,
        rule=within(0, 10**12),
        group=LOOP,
        identifies_run=False,
    )
    max_skipped_steps: int = setting(
        "A step whose gradients are not finite is skipped on all devices; after this many in a row "
        "the run ends.",
        MAX_SKIPPED_STEPS,
        rule=within(1, 1_000_000_000),
        group=LOOP,
        identifies_run=False,
    )
    keep_checkpoints: int = setting(
        "How many of the newest checkpoints to keep.",
        3,
        rule=within(1, 1_000_000),
        group=RUN,
        identifies_run=False,
    )
    keep_best: bool = setting(
        "Also keep the checkpoint with the best validation top-1.",
        False,
        group=RUN,
        identifies_run=False,
    )
    extend: bool = setting(
        "Continue a finished run to a larger --epochs from its last checkpoint, with a new warm-up "
        "and decay for the added epochs. The same command resumes an extension.",
        False,
        group=RUN,
        identifies_run=False,  # the epochs that it was extended from do
    )
    resume: str = setting(
        "auto: resume from the newest checkpoint, if any; must: fail without one; never: start "
        "afresh, once for all starts of a job, and move older checkpoints aside.",
        "auto",
        rule=one_of("auto", "must", "never"),
        group=RUN,
        identifies_run=False,
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_batches()
        require(
            self.warmup_epochs <= self.epochs,
            "--warmup_epochs",
            f"at most {self.epochs} epochs",
            self.warmup_epochs,
        )
        if self.extend and self.resume == "never":
            raise InputError(
                "--extend continues a finished run. Received: --extend with --resume=never, which "
                "starts afresh. Leave out one of them."
            )

    def values_where(self, use: str) -> dict[str, object]:
        """Returns the values of the settings with a use, an attribute of `Setting` that is true."""
        return {name: getattr(self, name) for name in table.names_where(self, use)}

    def batch_norm_examples_for(self, steps: int) -> int:
        """Returns `batch_norm_examples`, or its default in a run of this many steps."""
        if self.batch_norm_examples is not None:
            return self.batch_norm_examples
        return SHORT_RUN_EXAMPLES if steps < SHORT_RUN_STEPS else 0


# Synthetic images pass through no pipeline.
INPUT_SETTINGS = tuple(name for name in table.settings_of(DataSettings) if name != "data")
"""Names of the settings of the input pipeline."""


def default_texts() -> dict[str, str]:
    """Returns the defaults by name, as flags.txt would hold them; omits those that are None."""
    values = table.defaults(TrainingSettings)
    return {name: table.as_text(value) for name, value in values.items() if value is not None}


def read_arguments(path: str) -> TrainingSettings:
    """Returns the settings in a file with one argument of `tf_lars.setting.as_arguments` per line.

    A setting that is newer than the file has its default.

    Raises:
      InputError: The file is missing or does not hold the settings of a run.
    """
    rule = "The folder of a run must hold the flags.txt that launch.local writes."
    if not files.exists(path) or files.is_folder(path):
        raise InputError(f"{rule} Received: no file {path!r}. Name the --model_dir of a run.")
    with files.reading(path), files.open_file(path, "rb") as file:
        content = file.read()
    kinds = table.kinds(TrainingSettings)
    try:
        lines = content.decode().splitlines()
        pairs = [line.strip().removeprefix("--").split("=", 1) for line in lines]
        given: dict[str, Any] = {name: table.parse(text, kinds[name]) for name, text in pairs}
        return TrainingSettings(**given)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{rule} Received: {path!r}, of another version of this program ({error}). Use that "
            "version."
        ) from error
