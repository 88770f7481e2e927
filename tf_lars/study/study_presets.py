"""Settings of a study, and presets."""

import dataclasses

from tf_lars import setting as table
from tf_lars.data.augmentation_names import CROP_PADDING, MAX_CROP_PADDING, PADDING_MODES
from tf_lars.defaults import PRECISIONS, SHORT_RUN_EXAMPLES, SHORT_RUN_STEPS
from tf_lars.setting import above, below_one, fraction, one_of, setting, within
from tf_lars.study.trials import Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(Study):
    """All settings of a study; each field is the flag of its name.

    Those of `Study` determine the trials and may change when a study is continued. The others are
    the same for all trials.

    Raises:
      InputError: A setting is out of range.
    """

    model: str = setting("Model, as for --model of launch.local.")
    data_dir: str = setting(
        "Folder written by launch.prepare_imagenet; the digits are prepared if it is missing."
    )
    image_size: int = setting(
        "Side of the square images that the network sees, in pixels.", rule=table.image_size()
    )
    stored_size: int = setting(
        "Side of the images in memory from which augmentation takes its boxes, in pixels.",
        rule=table.image_size(),
    )
    crop_fraction: float = setting(
        "Side of the evaluation's centre crop over the image's short side.",
        rule=fraction(),
    )
    held_out_examples: int = setting(
        "Training examples that no trial trains on; learning rates are chosen on them, never on "
        "the test set.",
        rule=within(1, 1_000_000_000),
    )
    flip: bool = setting(
        "Whether augmentation mirrors half of the images; not for digits and characters.", True
    )
    crop_padding: float = setting(
        "Padding of pad_crop on each side, as a share of the side of the images.",
        CROP_PADDING,
        rule=within(0, MAX_CROP_PADDING),
    )
    crop_padding_mode: str = setting(
        "What pad_crop pads with: reflect or zeros.", PADDING_MODES[0], rule=one_of(*PADDING_MODES)
    )
    evaluations: int = setting(
        "Evaluations on the test set during a trial, evenly spaced and at most one per epoch, from "
        "which the epochs to the target follow.",
        10,
        rule=within(1, 10_000),
    )
    decay_power: float = setting(
        "Power of the polynomial decay to 0 after the warm-up.", 2.0, rule=above(0, 1000)
    )
    trust_coefficient: float = setting("Trust coefficient of LARS.", 0.001, rule=above(0, 1000))
    excluded_learning_rate_multiplier: float = setting(
        "Factor on the learning rate of variables that LARS does not adapt: biases and batch "
        "normalisation. A network without batch normalisation needs about 0.01.",
        1.0,
        rule=table.rate(),
    )
    label_smoothing: float = setting(
        "Share of each label that is spread over all classes.", 0.0, rule=below_one()
    )
    mixed_precision: str = setting(
        f"Arithmetic of the network: {' or '.join(PRECISIONS[:2])}.",
        "float32",
        rule=one_of(*PRECISIONS[:2]),
    )
    reestimate_batch_norm: bool | None = setting(
        "Whether to re-estimate the statistics of batch normalisation, from up to "
        f"{SHORT_RUN_EXAMPLES:,} training examples, before a trial is evaluated. If not given, "
        f"trials of fewer than {SHORT_RUN_STEPS:,} steps do, whose moving averages are useless.",
        None,
    )
    budget_minutes: float | None = setting(
        "Minutes after the start by which the last trial should end; the same command continues "
        "with the remaining trials. At least one trial is run. 0: no limit.",
        None,
        rule=within(0, 1_000_000),
    )

    target_points: float = setting(
        "Percentage points below the baseline's mean accuracy that count as reaching it.",
        1.0,
        rule=within(0, 100),
    )

    def of_all_trials(self) -> dict[str, object]:
        """Returns the settings that must be unchanged when a study is continued."""
        varied = {field.name for field in dataclasses.fields(Study)}
        varied |= {"data_dir", "budget_minutes", "target_points"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in varied}

    def augmentation_arguments(self) -> dict[str, object]:
        """Returns the arguments of `TrainingInput` that all augmentations of the study share."""
        names = ("flip", "crop_padding", "crop_padding_mode")
        return {name: getattr(self, name) for name in names}


PRESETS = {
    # 1,437 training images of 8x8 pixels.
    "digits": StudySettings(
        model="small_resnet14_w16",
        data_dir="data/digits",
        image_size=8,
        stored_size=8,
        crop_fraction=1.0,
        held_out_examples=180,
        epochs=30,
        warmup_epochs=5.0,
        batch_sizes=(512, 1024),
        tuning_trials=6,
        seeds=(0, 1, 2, 3, 4, 5),
        few_seeds=2,
        main_batch_size=1024,
        baseline_batch_size=64,
        augmentation="none",
        other_augmentation="pad_crop",
        augmentation_epochs_factor=2.0,  # 37 steps are too few to learn shifted digits
        flip=False,
        crop_padding_mode="zeros",  # digits stand on black
        budget_minutes=9.0,
    ),
    # 9,469 training photos of ten classes; the evaluation crops 64 of 72 pixels.
    "imagenette64": StudySettings(
        model="models.study_networks:resnet18_w16_unpooled",
        data_dir="data/imagenette64",
        image_size=64,
        stored_size=72,
        crop_fraction=64 / 72,
        held_out_examples=947,
        epochs=36,
        warmup_epochs=5.0,
        batch_sizes=(1024, 2048, 4096),
        tuning_trials=5,
        # A factor of 32 for each, so that five trials are close enough.
        learning_rate_ranges=("lars:2:64", "sgd:0.1:3.2", "nesterov:0.1:3.2"),
        seeds=(0, 1, 2, 3, 4),
        few_seeds=2,
        main_batch_size=2048,
        baseline_batch_size=256,
        equal_steps_batch_sizes=(512,),
        augmentation="pad_crop",
        other_augmentation="none",
        evaluations=8,
        mixed_precision="bfloat16",
        # Against overfitting: 8,522 images are few.
        weight_decay=1e-3,
        label_smoothing=0.1,
    ),
}
"""Studies by the name that `--preset` takes."""
