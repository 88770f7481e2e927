"""RandAugment and AugMix on keras-cv's operations; the only module that imports keras-cv.

keras-cv's layers draw from a stateful generator, so an image would depend on how many came before
it. Here every draw is a function of the example's key, and a layer only applies it
(`augment_images(images, transformations)`). This takes two thirds of the time of keras-cv's own
RandAugment layer: benchmarks/augmentation.py.

Three operations are not keras-cv's. Brightness: keras-cv adds to the colours where the paper
multiplies, and at magnitude 9 would move them by 230 of 255 levels. Posterize: keras-cv fixes the
number of bits when the layer is made. Equalize: keras-cv mistakes the rarest level for the last,
which moves photos with blown highlights by up to 15 levels on average.

The others differ from PIL's operations by 0 to 0.6 levels on average (100 ImageNet photos); shears
by 1.1, as their origin is half a pixel off, and contrast by 6 to 9: keras-cv scales each channel
about its own mean, as tf.image.adjust_contrast does, and PIL scales all three about the mean grey.
"""

import functools
import math
from collections.abc import Callable, Sequence

import keras_cv
import tensorflow as tf

from tf_lars.data.augmentation_names import MAX_RANDAUGMENT_MAGNITUDE

Operation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""Function from (image, strength, sign) to image: uint8 `[height, width, 3]`, a share of the
operation's range from 0 to 1, and -1 or 1 for the direction of operations with two directions."""

FILL = 128.0
"""Grey level of pixels from outside the image, as in the paper's code."""

AUGMIX_SEVERITY, AUGMIX_CHAINS, AUGMIX_DEPTH = 3.0, 3, 3


def policy(name: str, magnitude: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the augmentation of that name, a function from (image, key) to image.

    Args:
      name: "randaugment" or "augmix".
      magnitude: Magnitude of RandAugment's operations, 0 to 10.
    """
    operations = _operations()  # layers create variables, so not while a map is traced
    if name == "augmix":
        return functools.partial(augmix, operations=operations)
    return functools.partial(randaugment, operations=operations, magnitude=magnitude)


def randaugment(
    image: tf.Tensor,
    key: tf.Tensor,
    *,
    operations: dict[str, Operation],
    magnitude: float,
    count: int = 2,
) -> tf.Tensor:
    """Applies operations drawn with equal probability, each with the same magnitude.

    Cubuk et al. 2020, "RandAugment", section 3: `count` of K = 14 operations are drawn with
    replacement. Their ranges are those of AutoAugment (Cubuk et al. 2019, table 6), and all grow
    stronger with the magnitude, as in timm's "inc" and torchvision; in the paper's own code,
    posterize and solarize grow weaker.

    | operation | at magnitude M |
    |---|---|
    | identity, auto_contrast, equalize | |
    | rotate | by 30 M/10 degrees about the centre |
    | shear_x, shear_y | by 0.3 M/10 |
    | translate_x, translate_y | by 0.45 M/10 of the side |
    | color, contrast, brightness, sharpness | factor 1 plus or minus 0.9 M/10 |
    | posterize | keeps the upper 8 - 4 M/10 bits |
    | solarize | inverts colours from 256 - 256 M/10 up |

    Args:
      image: Image, uint8 `[height, width, 3]`.
      key: Seed of all draws, int64 `[2]`.
      operations: Operations by name.
      magnitude: Magnitude M, 0 to 10.
      count: Number of operations, N.

    Returns:
      Image, uint8 `[height, width, 3]`.
    """
    draws = tf.random.stateless_uniform([count, 2], key)
    strength = tf.constant(magnitude / MAX_RANDAUGMENT_MAGNITUDE)
    for draw in tf.unstack(draws):
        choice, direction = tf.unstack(draw)
        image = _apply(list(operations.values()), image, choice, strength, _sign(direction))
    return image


AUGMIX_OPERATIONS = (
    "auto_contrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


def augmix(image: tf.Tensor, key: tf.Tensor, *, operations: dict[str, Operation]) -> tf.Tensor:
    """Mixes an image with three chains of one to three operations each.

    Computes `(1 - m) image + m sum_i w_i chain_i(image)`, with w from Dirichlet(1, 1, 1) and m from
    Beta(1, 1), and a magnitude from 0.1 to 3 for each operation (Hendrycks et al. 2020, "AugMix",
    algorithm 1 and section 4; google-research/augmix: augmentations.py). The ranges of the
    operations are those of `randaugment`. The consistency loss over several views of one image is
    not included.

    keras-cv's own AugMix cannot be keyed and never draws the last of its nine operations.

    Args:
      image: Image, uint8 `[height, width, 3]`.
      key: Seed of all draws, int64 `[2]`.
      operations: Operations by name, at least those of `AUGMIX_OPERATIONS`.

    Returns:
      Image, uint8 `[height, width, 3]`.
    """
    chosen = [operations[name] for name in AUGMIX_OPERATIONS]
    count = AUGMIX_CHAINS * AUGMIX_DEPTH * 3
    draws = tf.random.stateless_uniform([count + 2 * AUGMIX_CHAINS + 1], key)
    steps = tf.reshape(draws[:count], [AUGMIX_CHAINS, AUGMIX_DEPTH, 3])
    depths = 1 + tf.cast(draws[count : count + AUGMIX_CHAINS] * AUGMIX_DEPTH, tf.int32)
    # Dirichlet(1, 1, 1) is three exponential variables over their sum; Beta(1, 1) is uniform.
    exponentials = -tf.math.log1p(-draws[count + AUGMIX_CHAINS : -1])
    weights = draws[-1] * exponentials / tf.reduce_sum(exponentials)

    def chain(i):
        def step(j, image):
            choice, level, direction = tf.unstack(steps[i, j])
            strength = (0.1 + (AUGMIX_SEVERITY - 0.1) * level) / MAX_RANDAUGMENT_MAGNITUDE
            return j + 1, _apply(chosen, image, choice, strength, _sign(direction))

        return tf.while_loop(lambda j, _: j < depths[i], step, (tf.constant(0), image))[1]

    mixed = (1 - draws[-1]) * tf.cast(image, tf.float32)
    for i in range(AUGMIX_CHAINS):
        mixed += weights[i] * tf.cast(chain(i), tf.float32)
    return _to_uint8(mixed)


def _apply(operations: Sequence[Operation], image, choice, strength, sign) -> tf.Tensor:
    """Applies the operation selected by a number from [0, 1)."""
    branches = [functools.partial(one, image, strength, sign) for one in operations]
    shape = image.shape
    index = tf.cast(choice * len(operations), tf.int32)
    return tf.ensure_shape(tf.switch_case(index, branches), shape)


def _sign(uniform) -> tf.Tensor:
    return tf.where(uniform < 0.5, -1.0, 1.0)


def _to_uint8(image) -> tf.Tensor:
    return tf.saturate_cast(tf.round(image), tf.uint8)


def _equalize(image, strength, sign) -> tf.Tensor:
    """Spreads the levels of each channel evenly, as PIL's ImageOps.equalize does."""
    # One histogram and one look-up for the levels of all three channels, side by side.
    level = tf.cast(image, tf.int32) + 256 * tf.range(3)
    histogram = tf.reshape(tf.math.bincount(tf.reshape(level, [-1]), None, 768, 768), [3, 256])
    brightest = tf.cast(tf.reduce_max(image, [0, 1]), tf.int32)
    pixels = tf.reduce_sum(histogram[0])
    step = ((pixels - tf.gather(histogram, brightest, batch_dims=1)) // 255)[:, None]
    table = (tf.cumsum(histogram, 1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), level)


@functools.cache
def _operations() -> dict[str, Operation]:
    """Returns the operations by name, in the paper's order."""
    # Independent of the precision in which the model computes.
    exact = {"dtype": "float32"}
    colours = (0, 255)
    edge = exact | {"fill_mode": "constant", "fill_value": FILL}
    layers = keras_cv.layers
    auto_contrast = layers.AutoContrast(colours, **exact)
    rotate = layers.RandomRotation(1.0, **edge)
    solarize = layers.Solarization(colours, **exact)
    color = layers.RandomColorDegeneration(1.0, **exact)
    contrast = layers.RandomContrast(colours, 1.0, **exact)
    sharpness = layers.RandomSharpness(1.0, colours, **exact)
    shear = layers.RandomShear(1.0, 1.0, **edge)
    translate = layers.RandomTranslation(1.0, 1.0, **edge)

    def factor(strength, sign):
        return tf.reshape(1 + sign * 0.9 * strength, [1, 1, 1, 1])

    def radians(strength, sign):
        return tf.reshape(sign * strength * math.radians(30), [1])

    def share(strength, sign, most):
        return tf.reshape(sign * strength * most, [1, 1])

    def brighten(image, strength, sign):
        return _to_uint8(factor(strength, sign)[0] * tf.cast(image, tf.float32))

    def posterize(image, strength, sign):
        dropped = tf.cast(tf.round(4 * strength), tf.uint8)
        return tf.bitwise.left_shift(tf.bitwise.right_shift(image, dropped), dropped)

    def through(layer, transformation):
        def apply(image, strength, sign):
            images = tf.cast(image, tf.float32)[None]
            return _to_uint8(layer.augment_images(images, transformation(strength, sign))[0])

        return apply

    nothing = tf.zeros([1, 1])
    return {
        "identity": lambda image, strength, sign: tf.identity(image),
        "auto_contrast": through(auto_contrast, lambda m, s: None),
        "equalize": _equalize,
        "rotate": through(rotate, lambda m, s: {"angles": radians(m, s)}),
        "solarize": through(
            solarize,
            lambda m, s: {
                "thresholds": tf.reshape(256 * (1 - m), [1, 1, 1, 1]),
                "additions": tf.zeros([1, 1, 1, 1]),
            },
        ),
        # These two layers blend towards the worse image, by 1 - factor.
        "color": through(color, lambda m, s: 1 - factor(m, s)),
        "posterize": posterize,
        "contrast": through(contrast, factor),
        "brightness": brighten,
        "sharpness": through(sharpness, lambda m, s: 1 - factor(m, s)),
        "shear_x": through(shear, lambda m, s: {"shear_x": share(m, s, 0.3), "shear_y": None}),
        "shear_y": through(shear, lambda m, s: {"shear_x": None, "shear_y": share(m, s, 0.3)}),
        "translate_x": through(
            translate,
            lambda m, s: {
                "width_translations": share(m, s, 0.45),
                "height_translations": nothing,
            },
        ),
        "translate_y": through(
            translate,
            lambda m, s: {
                "width_translations": nothing,
                "height_translations": share(m, s, 0.45),
            },
        ),
    }
