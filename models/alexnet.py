"""AlexNet, and AlexNet-BN, which "ImageNet Training in Minutes" trains with batches of 32K.

AlexNet is that of Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
Networks", NIPS 2012, as implemented in Caffe (BVLC/caffe,
models/bvlc_alexnet/train_val.prototxt): the two towers are groups in conv2, conv4 and conv5, the
initial weights are Caffe's, and biases are 0.1 where the paper has 1.

AlexNet-BN is the network of the 32K solver in Intel Caffe
(models/intel_optimized_models/multinode/alexnet_bn_32nodes/train_val2.prototxt), identical to
B. Ginsburg's in NVIDIA Caffe (borisgin/nvcaffe, models/alexnet_bn/train_val2.prototxt). Unlike the
usual order of convolution, normalisation and ReLU, it batch-normalises the inputs of conv2 to
conv5, after ReLU and pooling, without scale and offset. It has no local response normalisation.
"""

import keras
from keras import layers, ops

from models.input_and_head import image_input, logits, normalise_colours
from tf_lars.errors import InputError

# (channels, kernel, groups, followed by pooling); conv1 strides by 4, the others by 1.
_CONVOLUTIONS = (
    (96, 11, 1, True),
    (256, 5, 2, True),
    (384, 3, 1, False),
    (384, 3, 2, False),
    (256, 3, 2, True),
)
_STRIDE = 4
SMALLEST_IMAGE = 64
"""Side in pixels of the smallest image, for which the last pooling has one position left."""


def alexnet(
    *, num_classes: int = 1000, image_size: int = 227, batch_norm: bool = False
) -> keras.Model:
    """Builds AlexNet or AlexNet-BN, each with 60,965,224 trainable parameters for 1,000 classes.

    Caffe uses images of 227 pixels. Other sizes are padded with the mean colour to the next size
    that fits the stride of conv1: 224 becomes 227, with the same number of parameters.

    Args:
      num_classes: Number of logits.
      image_size: Side of the square input in pixels, at least 64; the kernel of fc6 depends on it.
      batch_norm: Whether to build AlexNet-BN.

    Raises:
      InputError: The images are too small.
    """
    if image_size < SMALLEST_IMAGE:
        raise InputError(
            f"AlexNet needs images of at least {SMALLEST_IMAGE} pixels. Received: {image_size}. "
            "Use a small_resnet model for smaller ones."
        )
    image = image_input(image_size)
    # Caffe's inputs: grey levels minus the mean, divided by 256 for AlexNet-BN.
    x = normalise_colours(image, std=(256.0,) * 3 if batch_norm else (1.0,) * 3)
    x = _pad_to_stride(x, image_size)
    for number, (channels, kernel, groups, pooled) in enumerate(_CONVOLUTIONS, start=1):
        first, last = number == 1, number == len(_CONVOLUTIONS)
        x = GroupedConv2D(
            channels,
            kernel,
            strides=_STRIDE if first else 1,
            padding="valid" if first else "same",
            groups=groups,
            activation="relu",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=_constant(0.01 if batch_norm else _alexnet_bias(number)),
            name=f"conv{number}",
        )(x)
        if number <= 2 and not batch_norm:
            x = LocalResponseNormalization(name=f"norm{number}")(x)
        if pooled:
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
        if batch_norm and not last:
            x = layers.BatchNormalization(
                momentum=0.9, epsilon=1e-4, center=False, scale=False, name=f"bn{number + 1}"
            )(x)
    x = layers.Flatten(name="flatten")(x)
    for number in (6, 7):
        x = layers.Dense(
            4096,
            activation="relu",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.005),
            bias_initializer=_constant(0.1),
            name=f"fc{number}",
        )(x)
        x = layers.Dropout(0.5, name=f"drop{number}")(x)
    x = logits(x, num_classes, bias=0.01 if batch_norm else 0.0)
    return keras.Model(image, x, name="alexnet_bn" if batch_norm else "alexnet")


def _alexnet_bias(number: int) -> float:
    # Krizhevsky et al. initialise the biases of conv2, conv4 and conv5 to 1, so that their ReLUs
    # start with positive inputs; in Caffe that did not train (BVLC/caffe, pull request 327).
    return 0.1 if number in (2, 4, 5) else 0.0


def _constant(value: float) -> keras.initializers.Initializer:
    return keras.initializers.Constant(value)


def _pad_to_stride(x, image_size: int):
    missing = -(image_size - _CONVOLUTIONS[0][1]) % _STRIDE
    if not missing:
        return x
    before, after = missing // 2, missing - missing // 2
    return layers.ZeroPadding2D(((before, after), (before, after)), name="pad_to_stride")(x)


@keras.saving.register_keras_serializable(package="models")
class GroupedConv2D(layers.Conv2D):
    """`Conv2D` that computes its groups as separate convolutions and concatenates the results.

    Keras compiles grouped convolutions with XLA, since TensorFlow once had no kernel for them. For
    AlexNet's conv2 on a CPU that takes ten times as long, both forwards and backwards.
    """

    def convolution_op(self, inputs, kernel):
        """Convolves each group of channels with its share of the kernels."""
        if self.groups == 1:
            return super().convolution_op(inputs, kernel)
        parts = zip(
            ops.split(inputs, self.groups, axis=-1),
            ops.split(ops.convert_to_tensor(kernel), self.groups, axis=-1),
            strict=True,
        )
        convolve = super().convolution_op
        return ops.concatenate([convolve(x, part) for x, part in parts], axis=-1)


@keras.saving.register_keras_serializable(package="models")
class LocalResponseNormalization(layers.Layer):
    """y = x / (1 + alpha / size * s)**beta, with s the sum of x**2 over `size` adjacent channels.

    Krizhevsky et al. 2012, section 3.3, with Caffe's conventions: alpha is divided by the size,
    and the constant is 1. Computed in float32, where a small alpha is not lost when added to 1.

    Args:
      size: Number of channels in the sum, centred on the normalised one; odd.
      alpha: Weight of the sum.
      beta: Exponent.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, **kwargs):
        super().__init__(**kwargs)
        self.size, self.alpha, self.beta = size, alpha, beta

    def call(self, inputs):
        """Normalises each position of `[batch, height, width, channels]`."""
        x = ops.cast(inputs, "float32")
        channels = x.shape[-1]
        around = self.size // 2
        squares = ops.pad(ops.square(x), [[0, 0], [0, 0], [0, 0], [around, around]])
        total = sum(squares[..., i : i + channels] for i in range(self.size))
        scaled = x * (1.0 + self.alpha / self.size * total) ** -self.beta
        return ops.cast(scaled, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"size": self.size, "alpha": self.alpha, "beta": self.beta}
