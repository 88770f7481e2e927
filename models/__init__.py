"""Keras models by name: images with colours from 0 to 255 in, float32 logits out."""

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

IMAGENET_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_SMALL_RESNET = re.compile(r"small_resnet(\d+)(?:_w(\d+))?")


def known(name: str) -> bool:
    """Returns whether `create` can build a model of this name."""
    match = _SMALL_RESNET.fullmatch(name)
    if match:
        depth, width = int(match[1]), int(match[2] or 16)
        return depth >= 8 and (depth - 2) % 6 == 0 and width >= 1
    return name in IMAGENET_RESNETS


def unknown_name(name: str) -> str:
    """Returns the sentence for a name that `known` denies."""
    names = [*IMAGENET_RESNETS, "small_resnet8", "small_resnet14", "small_resnet20"]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return (
        f"The model must be one of {', '.join(IMAGENET_RESNETS)}, or small_resnetD or "
        f"small_resnetD_wW with depth D = 6n+2 and width W (small_resnet14_w16). "
        f"Received: {name!r}.{hint}"
    )


def create(name: str, *, num_classes: int, image_size: int | None) -> "keras.Model":
    """Builds a model.

    Args:
      name: `resnet18|34|50|101|152` (v1.5), or `small_resnetD[_wW]` for small images, with depth
        D = 6n+2 and width W, 16 by default (He et al. 2016, section 4.2).
      num_classes: number of logits.
      image_size: side of the square input in pixels; None for any size.

    Raises:
      ValueError: no such model.
    """
    from models import resnet

    if not known(name):
        raise ValueError(unknown_name(name))
    match = _SMALL_RESNET.fullmatch(name)
    if match:
        return resnet.small_resnet(
            int(match[1]), width=int(match[2] or 16), num_classes=num_classes, image_size=image_size
        )
    return resnet.imagenet_resnet(
        int(name.removeprefix("resnet")), num_classes=num_classes, image_size=image_size
    )
