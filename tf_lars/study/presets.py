"""What a study is made of, and the studies that have a name."""

import dataclasses

from tf_lars.study.plan import Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(Study):
    """All settings of a study; each field is the flag of its name.

    Those of `Study` say which trials there are, and may change from one start of a study to the
    next; the others are the same for all of its trials.

    Attributes:
      model: a name for `models.create`.
      data_dir: folder of the prepared data.
      image_size: side that the network sees, in pixels.
      stored_size: side of the images in memory that augmentation takes its boxes from.
      crop_fraction: side of the evaluation's centre crop over the image's short side.
      held_out_examples: of the training set, on which rates are chosen.
      epochs: of every trial.
      decay_power: of the polynomial decay to 0 that follows the warm-up.
      weight_decay: L2, not of biases and batch normalisation.
      momentum: of all optimizers.
      trust_coefficient: of LARS.
      excluded_learning_rate_multiplier: factor on the rate of what LARS does not adapt.
      label_smoothing: share of the label spread over all classes.
      mixed_precision: "float32" or "bfloat16".
      reestimate_batch_norm: before evaluation; None for short runs only.
      budget_minutes: after which no further trial begins; None for no end.
    """

    model: str
    data_dir: str
    image_size: int
    stored_size: int
    crop_fraction: float
    held_out_examples: int
    epochs: int
    weight_decay: float
    decay_power: float = 2.0
    momentum: float = 0.9
    trust_coefficient: float = 0.001
    excluded_learning_rate_multiplier: float = 1.0
    label_smoothing: float = 0.0
    mixed_precision: str = "float32"
    reestimate_batch_norm: bool | None = None
    budget_minutes: float | None = None

    def of_all_trials(self) -> dict[str, object]:
        """Returns what a study must have in common with its results to go on from them."""
        varied = {field.name for field in dataclasses.fields(Study)}
        varied |= {"data_dir", "budget_minutes"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in varied}


PRESETS = {
    # 1,437 training images of 8x8 pixels. SGD's rate is right at batch 32; LARS's at 256 makes its
    # rule give 10 at 1,024, which was known to serve there.
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
        model="benchmarks.networks:resnet18_w16",
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
"""By the name that `--preset` takes."""
