"""MixUp, CutMix and random erasing: drawn for each example on the CPU, applied on the device.

A draw is small (a box, a share), a function of the example's key, and sent to the device as part of
the batch. Applying it is arithmetic without randomness, the same on every device. An image is mixed
with the one before it in its replica's part of the batch, which depends on the number of replicas.
"""

import dataclasses
import math

import tensorflow as tf

from tf_lars.errors import InputError

ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASED_COLOUR = (124, 116, 104)
"""ImageNet's mean colour: 0 after normalisation, the value that timm and torchvision fill in."""


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Frequency and strength of mixing and erasing training images.

    With both MixUp and CutMix on, each example takes one of the two with probability 1/2 (timm's
    mode "elem"; timm's default and torchvision choose once per batch, which would make the draw of
    an example depend on its batch).

    Attributes:
      mixup_alpha: Alpha of MixUp, which gives an image the weight lambda and its partner
        1 - lambda, with lambda from Beta(alpha, alpha) (Zhang et al. 2018, "mixup"; 0.2 on
        ImageNet). 0: off.
      cutmix_alpha: Alpha of CutMix, which pastes a box of the partner that covers 1 - lambda of the
        image before it is clipped at the border, with lambda from Beta(alpha, alpha) (Yun et al.
        2019, "CutMix", equations 1 and 2; 1.0 there). 0: off.
      random_erasing_probability: Probability of painting a box of 2 to 40 % of an image, with an
        aspect ratio from 0.3 to 3.3, in ImageNet's mean colour (Zhong et al. 2020, "Random
        Erasing"; 0.5 there).

    Raises:
      InputError: A value is out of range.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    random_erasing_probability: float = 0.0

    def __post_init__(self):
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(
                    f"{name} must be 0 or above. Received: {value}. 0 turns it off, 0.2 is usual "
                    "for MixUp and 1 for CutMix."
                )
        if not 0 <= self.random_erasing_probability <= 1:
            raise InputError(
                "random_erasing_probability must be from 0 to 1. Received: "
                f"{self.random_erasing_probability}. 0 turns it off."
            )

    def check(self, replica_batch_size: int) -> None:
        """Checks that the examples of a replica can be mixed with one another.

        Raises:
          InputError: There is only one.
        """
        if replica_batch_size < 2 and (self.mixup_alpha or self.cutmix_alpha):
            raise InputError(
                "MixUp and CutMix need at least 2 examples on each device. Received: "
                f"{replica_batch_size}. Use a larger global batch."
            )

    def draw(self, key: tf.Tensor, height: int, width: int) -> dict[str, tf.Tensor]:
        """Draws the mixing and erasing of one example.

        Args:
          key: Seed of all draws, int64 `[2]`.
          height: Height of the image in pixels.
          width: Width of the image in pixels.

        Returns:
          For the methods that are on: `erase`, int32 `[4]`, the box (top, left, bottom, right) to
          erase; `paste`, int32 `[4]`, the box taken from the partner; `own`, float32, the weight of
          the image's own pixels outside that box. An empty box and the weight 1 do nothing.
        """
        keys = tf.unstack(tf.random.split(key, 3))
        erases, area, aspect, *place, takes_mixup, y, x = tf.unstack(
            tf.random.stateless_uniform([8], keys[0])
        )
        draws = {}
        if self.random_erasing_probability:
            box = _erased_box(area, aspect, place, height, width)
            draws["erase"] = tf.where(erases < self.random_erasing_probability, box, 0)
        if self.mixup_alpha or self.cutmix_alpha:
            mixup, cutmix = _beta(keys[1], self.mixup_alpha), _beta(keys[2], self.cutmix_alpha)
            if self.mixup_alpha and self.cutmix_alpha:
                mixup = tf.where(takes_mixup < 0.5, mixup, 1.0)
                cutmix = tf.where(takes_mixup < 0.5, 1.0, cutmix)
            draws["own"] = mixup
            draws["paste"] = _pasted_box(cutmix, y, x, height, width)
        return draws


NO_MIXING = Mixing()


def erase(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Paints one box of each image in `ERASED_COLOUR`.

    Args:
      image: Images, uint8 `[batch, height, width, 3]`.
      box: Top, left, bottom and right, int32 `[batch, 4]`.

    Returns:
      Images of the same type and shape.
    """
    colour = tf.constant(ERASED_COLOUR, image.dtype)
    return tf.where(_inside(box, image)[..., None], colour, image)


def mix(
    image: tf.Tensor, target: tf.Tensor, own: tf.Tensor, paste: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example with the one before it, and the first with the last.

    A pixel is `own * image + (1 - own) * partner` outside the box `paste` and the partner's inside.
    The target is mixed with the mean weight of the pixels, `own * (1 - share of the box)`.

    Args:
      image: Images, uint8 `[batch, height, width, 3]`.
      target: One-hot targets, float32 `[batch, classes]`.
      own: Weights from 0 to 1, float32 `[batch]`.
      paste: Top, left, bottom and right, int32 `[batch, 4]`.

    Returns:
      Images and targets of the same shapes, float32.
    """
    _, height, width, _ = image.shape
    weight = tf.where(_inside(paste, image), 0.0, own[:, None, None])[..., None]
    area = tf.cast((paste[:, 2] - paste[:, 0]) * (paste[:, 3] - paste[:, 1]), tf.float32)
    share = (own * (1 - area / (height * width)))[:, None]
    image = tf.cast(image, tf.float32)
    return (
        weight * image + (1 - weight) * tf.roll(image, 1, axis=0),
        share * target + (1 - share) * tf.roll(target, 1, axis=0),
    )


def _inside(box, image) -> tf.Tensor:
    """Returns which pixels lie in the box of their image: bool `[batch, height, width]`."""
    top, left, bottom, right = (side[:, None, None] for side in tf.unstack(box, axis=1))
    row = tf.range(image.shape[1])[None, :, None]
    column = tf.range(image.shape[2])[None, None, :]
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def _beta(key, alpha: float) -> tf.Tensor:
    """Draws from Beta(alpha, alpha); returns 1, which leaves an image unchanged, if alpha is 0."""
    if not alpha:
        return tf.constant(1.0)
    # In float64: with a small alpha, both variables would often round to 0 in float32.
    one, other = tf.unstack(tf.random.stateless_gamma([2], key, alpha, dtype=tf.float64))
    return tf.cast(tf.math.divide_no_nan(one, one + other), tf.float32)


def _pasted_box(own, y, x, height: int, width: int) -> tf.Tensor:
    """Returns a box of 1 - own of the area, with a uniformly drawn centre, clipped to the image."""
    side = tf.sqrt(1 - own)
    size = tf.cast(tf.stack([side * height, side * width]), tf.int32)
    centre = tf.cast(tf.stack([y * height, x * width]), tf.int32)
    return _clip(centre - size // 2, centre - size // 2 + size, height, width)


def _erased_box(area, aspect, place, height: int, width: int) -> tf.Tensor:
    """Returns a box in the image of random area and aspect ratio (uniform in its logarithm)."""
    least, most = ERASED_AREA
    area = (least + (most - least) * area) * height * width
    low, high = (math.log(ratio) for ratio in ERASED_ASPECT)
    aspect = tf.exp(low + (high - low) * aspect)
    size = tf.round(tf.stack([tf.sqrt(area * aspect), tf.sqrt(area / aspect)]))
    space = tf.maximum(tf.constant([height, width], tf.float32) - size, 0)
    corner = tf.cast(tf.stack(place) * (space + 1), tf.int32)
    return _clip(corner, corner + tf.cast(size, tf.int32), height, width)


def _clip(corner, opposite, height: int, width: int) -> tf.Tensor:
    return tf.concat([tf.maximum(corner, 0), tf.minimum(opposite, [height, width])], 0)
