"""The flags that all training programs share."""

import dataclasses
from collections.abc import Mapping

from absl import flags

from launch import recipe
from launch.settings import (
    OPTIMIZERS,
    SCHEDULES,
    SHORT_RUN_EXAMPLES,
    SHORT_RUN_STEPS,
    TrainingSettings,
)
from tf_lars.data import MAX_RANDAUGMENT_MAGNITUDE, RANDAUGMENT_MAGNITUDE


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
