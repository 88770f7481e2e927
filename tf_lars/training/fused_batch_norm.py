"""Batch normalisation by TensorFlow's fused kernel, which Keras 3 does not use."""

import keras
import tensorflow as tf

from tf_lars.distribute.batch_norm import move_statistics
from tf_lars.private_api import layers_of

_KERNEL_DTYPES = ("float16", "bfloat16", "float32")


@keras.saving.register_keras_serializable(package="tf_lars")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`BatchNormalization` whose training step is one kernel forward and one backward.

    Keras 3 computes mean, variance and the normalised batch by a dozen operations, each of which
    reads and writes all activations; where XLA does not join them, they took 40 % of a step of a
    narrow ResNet-18 on a CPU. The result is the same:

        gamma (x - mean) / sqrt(variance + epsilon) + beta,

    channel by channel, with the mean and the biased variance over examples and pixels, computed in
    float32 for activations in half precision too. Half-precision activations are not copied to
    float32, as Keras does.

    Weights, their names, moving statistics and inference are those of `BatchNormalization`. The
    kernel takes `[batch, height, width, channels]`. Otherwise, with a mask, and with `renorm` or
    `synchronized`, the layer computes as Keras does.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises a batch: by its own statistics in training, else by the moving ones."""
        x = tf.convert_to_tensor(inputs)
        if not (training and self.trainable and mask is None and self._suits_kernel(x)):
            return super().call(inputs, training=training, mask=mask)
        channels = [x.shape[-1]]
        normalised, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.cast(self.gamma, tf.float32) if self.scale else tf.ones(channels),
            offset=tf.cast(self.beta, tf.float32) if self.center else tf.zeros(channels),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the unbiased variance; Keras averages the biased one.
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
        move_statistics(self, mean, variance * ((count - 1.0) / count))
        return tf.cast(normalised, self.compute_dtype)

    def _suits_kernel(self, x: tf.Tensor) -> bool:
        return (
            x.dtype.name in _KERNEL_DTYPES
            and x.shape.rank == 4
            and self.axis in (-1, 3)
            and not (self.renorm or self.synchronized)
        )


def fuse_batch_norm(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Turns Keras's batch normalisation layers in a model into `FusedBatchNormalization`, in place.

    Connections, names and weights stay. To be called before the model is trained, since traced
    functions are not changed. Other subclasses of `BatchNormalization` stay as they are.

    Args:
      model: Model of any kind; layers in nested models are found too.

    Returns:
      All layers of the model that are fused now.
    """
    kinds = (keras.layers.BatchNormalization, FusedBatchNormalization)
    found = [layer for layer in layers_of(model) if type(layer) in kinds]
    for layer in found:
        # A copy of the model would need new layers, and a subclassed model cannot be copied.
        layer.__class__ = FusedBatchNormalization
    return found


def unfuse_batch_norm(model: keras.Model) -> None:
    """Turns the layers of `fuse_batch_norm` back into Keras's own, in place.

    A file of the model then loads without this package.
    """
    for layer in layers_of(model):
        if type(layer) is FusedBatchNormalization:
            layer.__class__ = keras.layers.BatchNormalization
