"""Keras models by name, which map images with colours from 0 to 255 to logits.

Names are checked without importing Keras; building a model imports it.
"""

import difflib
import re
from typing import TYPE_CHECKING, Any

from models import user_model
from models.keras_cv_backbones import BACKBONES
from models.keras_defaults import keras_defaults
from tf_lars.errors import InputError

if TYPE_CHECKING:
    import keras

ALEXNETS = ("alexnet", "alexnet_bn")
IMAGENET_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_SMALL_RESNET = re.compile(r"small_resnet(\d+)(?:_w(\d+))?")

APPLICATIONS_PREFIX, KERAS_CV_PREFIX = "keras.applications/", "keras_cv/"
# Listed here so that names are checked without importing Keras; a test compares them with Keras.
APPLICATIONS = (
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *(f"DenseNet{depth}" for depth in (121, 169, 201)),
    *(f"EfficientNetB{size}" for size in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "NASNetLarge",
    "NASNetMobile",
    *(f"ResNet{depth}{version}" for depth in (50, 101, 152) for version in ("", "V2")),
    "VGG16",
    "VGG19",
    "Xception",
)


def check(name: str, *, space_to_depth_stem: bool = False, any_image_size: bool = False) -> None:
    """Checks the arguments of `create` as far as possible without importing Keras.

    Raises:
      InputError: The model is unknown, or does not support the stem or variable image sizes.
    """
    if ":" in name:
        user_model.check(name)
    elif not _known(name):
        raise InputError(_unknown(name))
    if space_to_depth_stem and name not in IMAGENET_RESNETS:
        raise InputError(
            f"--space_to_depth_stem is for {', '.join(IMAGENET_RESNETS)}. Received: {name!r}."
        )
    fully_convolutional = name in IMAGENET_RESNETS or _SMALL_RESNET.fullmatch(name) or ":" in name
    if any_image_size and not fully_convolutional:
        raise InputError(
            f"--image_size_schedule is for {', '.join(IMAGENET_RESNETS)}, small_resnetD and your "
            f"own models. Received: {name!r}."
        )


def create(
    name: str,
    *,
    num_classes: int,
    image_size: int | None,
    space_to_depth_stem: bool = False,
    sync_batch_norm: bool = False,
    batch_norm_group_size: int | None = None,
    fused_batch_norm: bool = False,
) -> "keras.Model":
    """Builds a model with random weights, whatever Keras's own configuration (`keras.json`) is.

    Args:
      name: One of
        `resnet18|34|50|101|152` (v1.5);
        `small_resnetD[_wW]` for small images, with depth D = 6n+2 and width W, 16 by default
        (He et al. 2016, section 4.2);
        `alexnet`, `alexnet_bn`;
        `keras.applications/NAME`, any model of `keras.applications`, such as EfficientNetV2B0;
        `keras_cv/NAMEBackbone`, any image backbone of `keras_cv.models`, such as ResNet50V2;
        `package.module:function` or `path/to/file.py:function`; see `models.user_model`.
      num_classes: Number of logits.
      image_size: Side of the square input in pixels; None for a network that takes any size.
      space_to_depth_stem: Whether to compute the stem of an ImageNet ResNet on blocks of 2 x 2
        pixels, with the same weights and results but faster on TPUs.
      sync_batch_norm: Whether to normalise training batches by their mean and variance over all
        replicas; by default each replica normalises its own share.
      batch_norm_group_size: Number of neighbouring examples of a training batch that are normalised
        together: see `tf_lars.distribute.grouped_batch_norm`.
      fused_batch_norm: Whether to normalise with TensorFlow's fused kernel: see
        `tf_lars.training.fused_batch_norm`. Not with the two before.

    Raises:
      InputError: The model is unknown, or cannot be built with these arguments.
    """
    check(name, space_to_depth_stem=space_to_depth_stem, any_image_size=image_size is None)
    with keras_defaults():
        model = _built(name, num_classes, image_size, space_to_depth_stem)
    if sync_batch_norm:
        _synchronise_batch_norm(name, model)
    elif batch_norm_group_size is not None:
        _group_batch_norm(name, model, batch_norm_group_size)
    elif fused_batch_norm:
        _fuse_batch_norm(name, model)
    return model


def _built(
    name: str, num_classes: int, image_size: int | None, space_to_depth_stem: bool
) -> "keras.Model":
    size: Any = {"num_classes": num_classes, "image_size": image_size}
    if ":" in name:
        return user_model.create(name, **size)
    if name.startswith(APPLICATIONS_PREFIX):
        from models import applications

        return applications.create(name.removeprefix(APPLICATIONS_PREFIX), **size)
    if name.startswith(KERAS_CV_PREFIX):
        from models import keras_cv_backbones

        return keras_cv_backbones.create(name.removeprefix(KERAS_CV_PREFIX), **size)
    if name in ALEXNETS:
        from models import alexnet

        return alexnet.alexnet(batch_norm=name == "alexnet_bn", **size)
    from models import resnet

    if name in IMAGENET_RESNETS:
        depth = int(name.removeprefix("resnet"))
        return resnet.imagenet_resnet(depth, space_to_depth_stem=space_to_depth_stem, **size)
    depth, width = _small_resnet(name)
    return resnet.small_resnet(depth, width=width, **size)


def _synchronise_batch_norm(name: str, model: "keras.Model") -> None:
    """Sets `synchronized` on all batch normalisation layers, which read it at each call."""
    import keras

    from tf_lars.private_api import layers_of

    kind = keras.layers.BatchNormalization
    found = [layer for layer in layers_of(model) if isinstance(layer, kind)]
    _require_batch_norm("--sync_batch_norm", name, found)
    for layer in found:
        layer.synchronized = True


def _group_batch_norm(name: str, model: "keras.Model", group_size: int) -> None:
    from tf_lars.distribute.grouped_batch_norm import group_batch_norm

    found = group_batch_norm(model, group_size)
    _require_batch_norm("--batch_norm_group_size", name, found)


def _fuse_batch_norm(name: str, model: "keras.Model") -> None:
    from tf_lars.training.fused_batch_norm import fuse_batch_norm

    _require_batch_norm("--fused_batch_norm", name, fuse_batch_norm(model))


def _require_batch_norm(flag: str, name: str, found: list) -> None:
    if not found:
        raise InputError(
            f"{flag} needs a model with batch normalisation. Received: {name!r}, which has none. "
            "Leave the flag out."
        )


def _known(name: str) -> bool:
    if name.startswith(APPLICATIONS_PREFIX):
        return name.removeprefix(APPLICATIONS_PREFIX) in APPLICATIONS
    if name.startswith(KERAS_CV_PREFIX):
        return name.removeprefix(KERAS_CV_PREFIX) in BACKBONES
    if _SMALL_RESNET.fullmatch(name):
        depth, width = _small_resnet(name)
        return depth >= 8 and (depth - 2) % 6 == 0 and width >= 1
    return name in (*ALEXNETS, *IMAGENET_RESNETS)


def _small_resnet(name: str) -> tuple[int, int]:
    """Returns depth and width for a name that matches `_SMALL_RESNET`."""
    match = _SMALL_RESNET.fullmatch(name)
    assert match
    return int(match[1]), int(match[2] or 16)


def _unknown(name: str) -> str:
    """Returns the message for an unknown name."""
    ours = [*IMAGENET_RESNETS, *ALEXNETS]
    names = [
        *ours,
        *(f"small_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56)),
        *(APPLICATIONS_PREFIX + one for one in APPLICATIONS),
        *(KERAS_CV_PREFIX + one for one in BACKBONES),
    ]
    # The last part of a name is compared too: EfficientNetB0 lacks only its prefix.
    by_case = {one.lower(): one for one in names}
    by_ending = {one.rpartition("/")[2].lower(): one for one in reversed(names)}
    candidates = by_ending | by_case
    close = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.7)
    hint = f" Did you mean {candidates[close[0]]}?" if close else ""
    return (
        f"The model must be one of {', '.join(ours)}; small_resnetD or small_resnetD_wW with "
        "depth D = 6n+2 and width W (small_resnet14_w16); keras.applications/NAME; "
        "keras_cv/NAMEBackbone; or your own function, package.module:function or "
        f"path/to/file.py:function. Received: {name!r}.{hint}"
    )
