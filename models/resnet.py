"""Residual networks: ResNet v1.5 for ImageNet and a small family for images of about 32 pixels.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Version 1.5 strides in the
3x3 convolution of a bottleneck instead of its first 1x1 (MLPerf's and torchvision's ResNet-50).
As in Goyal et al. 2017, the last gamma of each block is initialised to zero, so that each block
starts as the identity. Convolutions have no bias, since batch normalisation follows.
"""

import keras
from keras import layers, ops

from models.input_and_head import image_input, logits, normalise_colours

# The moving statistics must keep up with weights that change fast with a large batch; 0.9 is
# MLPerf's setting. With Keras's default of 0.99 they still contain the initial values after 100
# steps.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5

_STAGES = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def imagenet_resnet(
    depth: int,
    *,
    num_classes: int = 1000,
    image_size: int | None = 224,
    width: int = 64,
    stem_pool: bool = True,
    space_to_depth_stem: bool = False,
) -> keras.Model:
    """Builds a ResNet v1.5: a 7x7 stride-2 stem and four stages of `width` x (1, 2, 4, 8) channels.

    With 1,000 classes, ResNet-50 has 25,557,032 trainable parameters.

    Args:
      depth: Number of layers: 18, 34, 50, 101 or 152.
      num_classes: Number of logits.
      image_size: Side of the square input in pixels; that of the features is 1/32 of it.
      width: Channels of the stem and of the first stage.
      stem_pool: Whether the stem ends with max-pooling of stride 2; without it, features are twice
        as large, which small images need.
      space_to_depth_stem: Whether to compute the first convolution with `SpaceToDepthConv2D`: same
        weights and result, but faster on TPUs.
    """
    kind, blocks = _STAGES[depth]
    image = image_input(image_size)
    x = normalise_colours(image)
    stem = SpaceToDepthConv2D if space_to_depth_stem else layers.Conv2D
    x = _conv(x, width, 7, stride=2, kind=stem, name="stem_conv")
    x = _batch_norm(x, name="stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    if stem_pool:
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    x = _stages(x, kind, blocks, width)
    return keras.Model(image, _head(x, num_classes), name=f"resnet{depth}")


def small_resnet(
    depth: int, *, num_classes: int = 10, image_size: int | None = 32, width: int = 16
) -> keras.Model:
    """Builds the CIFAR ResNet of He et al., section 4.2: a 3x3 stem and 3 stages of n basic blocks.

    Args:
      depth: Number of layers, 6n + 2.
      num_classes: Number of logits.
      image_size: Side of the square input in pixels; that of the features is 1/4 of it.
      width: Channels of the first stage; the next two have twice and four times as many.
    """
    image = image_input(image_size)
    x = normalise_colours(image)
    x = _conv(x, width, 3, name="stem_conv")
    x = _batch_norm(x, name="stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    x = _stages(x, "basic", ((depth - 2) // 6,) * 3, width)
    return keras.Model(image, _head(x, num_classes), name=f"small_resnet{depth}_w{width}")


def _stages(x, kind: str, blocks: tuple[int, ...], width: int):
    block = {"basic": _basic_block, "bottleneck": _bottleneck_block}[kind]
    for stage, repeats in enumerate(blocks):
        for i in range(repeats):
            stride = 2 if stage > 0 and i == 0 else 1
            x = block(x, width * 2**stage, stride, name=f"stage{stage + 1}_block{i + 1}")
    return x


def _head(x, num_classes: int):
    return logits(layers.GlobalAveragePooling2D(name="average_pool")(x), num_classes)


def _basic_block(x, channels: int, stride: int, name: str):
    shortcut = _shortcut(x, channels, stride, name)
    x = _conv(x, channels, 3, stride, name=f"{name}_conv1")
    x = _batch_norm(x, name=f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _conv(x, channels, 3, name=f"{name}_conv2")
    x = _batch_norm(x, zero_gamma=True, name=f"{name}_bn2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _bottleneck_block(x, channels: int, stride: int, name: str):
    shortcut = _shortcut(x, 4 * channels, stride, name)
    x = _conv(x, channels, 1, name=f"{name}_conv1")
    x = _batch_norm(x, name=f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _conv(x, channels, 3, stride, name=f"{name}_conv2")
    x = _batch_norm(x, name=f"{name}_bn2")
    x = layers.ReLU(name=f"{name}_relu2")(x)
    x = _conv(x, 4 * channels, 1, name=f"{name}_conv3")
    x = _batch_norm(x, zero_gamma=True, name=f"{name}_bn3")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu3")(x)


def _shortcut(x, channels: int, stride: int, name: str):
    if x.shape[-1] == channels and stride == 1:
        return x
    x = _conv(x, channels, 1, stride, name=f"{name}_shortcut_conv")
    return _batch_norm(x, name=f"{name}_shortcut_bn")


def _conv(x, channels: int, kernel: int, stride: int = 1, *, kind=layers.Conv2D, name: str):
    if stride > 1 and kernel > 1:
        # With "same", the padding of a strided convolution would depend on the image size; the
        # reference implementations pad both sides equally.
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return kind(
        channels,
        kernel,
        stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal"),
        name=name,
    )(x)


def _batch_norm(x, *, zero_gamma: bool = False, name: str):
    return layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=BATCH_NORM_EPSILON,
        gamma_initializer="zeros" if zero_gamma else "ones",
        name=name,
    )(x)


@keras.saving.register_keras_serializable(package="models")
class SpaceToDepthConv2D(layers.Conv2D):
    """`Conv2D` with stride 2, computed as a convolution with stride 1 on blocks of 2 x 2 pixels.

    A TPU's matrix unit processes 128 channels at a time, and an image has three. Each block of
    2 x 2 pixels becomes one pixel with four times as many channels, and the kernel, padded with a
    row and a column of zeros, is rearranged in the same way: 7 x 7 x 3 to 4 x 4 x 12. The weights
    are those of `Conv2D`, so checkpoints fit both, LARS sees the same norms, and the zeros stay
    zeros (in Google's ResNet for MLPerf: "space to depth").

    Requires "valid" padding, an odd kernel size, one group and no dilation.
    """

    def convolution_op(self, inputs, kernel):
        """Convolves the rearranged image with the rearranged kernel."""
        # One more row and column, cropped to an even size; sizes may be unknown until run time.
        inputs = ops.pad(inputs, [[0, 0], [0, 1], [0, 1], [0, 0]])
        _, height, width, _ = ops.shape(inputs)
        inputs = inputs[:, : height // 2 * 2, : width // 2 * 2]
        kernel = ops.pad(ops.convert_to_tensor(kernel), [[0, 1], [0, 1], [0, 0], [0, 0]])
        blocks, kernel = _blocks_to_channels(inputs, 1), _blocks_to_channels(kernel, 0)
        return ops.conv(blocks, kernel, data_format="channels_last")


def _blocks_to_channels(x, axis: int):
    """Moves blocks of 2 x 2 along `axis` and the next axis into the axis after them."""
    shape = ops.shape(x)
    before, (height, width, channels), after = (
        shape[:axis],
        shape[axis : axis + 3],
        shape[axis + 3 :],
    )
    x = ops.reshape(x, (*before, height // 2, 2, width // 2, 2, channels, *after))
    order = list(range(len(x.shape)))
    order[axis + 1], order[axis + 2] = order[axis + 2], order[axis + 1]
    x = ops.transpose(x, order)
    return ops.reshape(x, (*before, height // 2, width // 2, 4 * channels, *after))
