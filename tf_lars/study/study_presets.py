"""Settings of a study, and presets."""

import dataclasses

from tf_lars import setting as table
from tf_lars.defaults import PRECISIONS, SHORT_RUN_EXAMPLES, SHORT_RUN_STEPS
from tf_lars.errors import require
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
    epochs: int = setting("Passes over the training data in each trial.", rule=table.epochs())
    weight_decay: float = setting(
        "L2 weight decay; biases and batch normalisation are excluded.", rule=within(0, 1000)
    )
    decay_power: float = setting(
        "Power of the polynomial decay to 0 after the warm-up.", 2.0, rule=above(0, 1000)
    )
    momentum: float = setting("Momentum of all optimizers.", 0.9, rule=below_one())
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

    def __post_init__(self):
        super().__post_init__()
        for warmup in (self.warmup_epochs, *self.longer_warmup_epochs):
            rule = f"at least the warm-up, {warmup:g}"
            require(warmup <= self.epochs, "--epochs", rule, self.epochs)

    def of_all_trials(self) -> dict[str, object]:
        """Returns the settings that must be unchanged when a study is continued."""
        varied = {field.name for field in dataclasses.fields(Study)}
        varied |= {"data_dir", "budget_minutes"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in varied}


PRESETS = {
    # 1,437 training images of 8x8 pixels. The rate of SGD was tuned at batch 32. The rate of LARS
    # at 256 is the one for which its rule gives 10 at 1,024, which was known to work there.
    "digits": StudySettings(
        model="small_resnet14_w16",
        data_dir="data/digits",
        image_size=8,
        stored_size=8,
        crop_fraction=1.0,
        held_out_examples=180,
        epochs=30,
        warmup_epochs=5.0,
        weight_decay=5e-4,
        batch_sizes=(512, 1024),
        sgd_learning_rates=(0.4, 0.8, 1.6),
        lars_learning_rates=(5.0, 10.0, 20.0, 40.0),
        seeds=(0, 1, 2, 3, 4),
        few_seeds=2,
        grid_seeds=1,
        main_batch_size=1024,
        baseline_batch_size=32,
        baseline_learning_rate=0.1,
        lars_batch_size=256,
        lars_learning_rate=5.0,
        longer_warmup_epochs=(10.0,),
        longer_warmup_batch_sizes=(512, 1024),
        augmentation="none",
        other_augmentation="reference",
        budget_minutes=9.0,
    ),
    # 9,469 training photos of ten classes, at 32 pixels.
    "imagenette": StudySettings(
        model="models.study_networks:resnet18_w16",
        data_dir="data/imagenette",
        image_size=32,
        stored_size=64,
        crop_fraction=0.875,
        held_out_examples=947,
        epochs=10,
        warmup_epochs=2.0,
        weight_decay=5e-4,
        batch_sizes=(1024, 4096),
        sgd_learning_rates=(0.4, 0.8, 1.6, 3.2),
        lars_learning_rates=(2.5, 5.0, 10.0, 20.0, 40.0),
        seeds=(0, 1),
        few_seeds=2,
        grid_seeds=2,
        main_batch_size=4096,
        baseline_batch_size=128,
        baseline_learning_rate=0.1,
        lars_batch_size=256,
        lars_learning_rate=5.0,
        longer_warmup_epochs=(5.0,),
        longer_warmup_batch_sizes=(4096,),
        augmentation="reference",
        other_augmentation="none",
    ),
}
"""Studies by the name that `--preset` takes."""
