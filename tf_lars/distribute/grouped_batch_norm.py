"""Batch normalisation in groups of a given number of examples, whatever the number of replicas."""

from typing import Any

import keras
import tensorflow as tf

from tf_lars.distribute.batch_norm import move_statistics
from tf_lars.errors import InputError, require
from tf_lars.private_api import layers_of

_Moments = tuple[tf.Tensor, tf.Tensor]


@keras.saving.register_keras_serializable(package="tf_lars")
class GroupedBatchNormalization(keras.layers.BatchNormalization):
    """`BatchNormalization` that normalises groups of `group_size` examples of a training batch.

    The global batch is cut into groups of neighbours, in the order of the replicas. With n examples
    on each of R replicas, groups of g examples are

    - g < n: parts of a replica's examples (ghost batch normalisation, Hoffer et al. 2017,
      "Train longer, generalize better", section 4), where g must divide n;
    - g = n: the examples of a replica, as with `BatchNormalization`;
    - g = k n: the examples of k neighbouring replicas, where k must divide R; with k = R those of
      the whole batch, as with `BatchNormalization(synchronized=True)`.

    Each example x of a group j becomes, channel by channel,

        gamma (x - mean_j) / sqrt(variance_j + epsilon) + beta,

    with the mean and the variance over the group's examples and pixels. As in Keras, the variance
    is the biased one, divided by the number of values, in the moving statistics too. These move
    towards the mean over the groups of mean_j and variance_j: on each replica over its own groups,
    so that the mean over the replicas is that over all groups.

    The weights, their names and the results of inference are those of `BatchNormalization`.

    A group of several replicas costs two all-reduces of R/k numbers per channel, and two for the
    gradients: tf.distribute has no collectives of some of the replicas, so each replica adds its
    numbers to the row of its group in a table of all groups. Such groups cannot be used within XLA
    or micro-batches.

    Training batches must have a static size and no mask, and `renorm` is not supported.

    Args:
      group_size: Number of examples in a group.
      **kwargs: Arguments of `BatchNormalization`.

    Raises:
      InputError: If `group_size` is not a positive integer, or an argument is not supported; when
        called in training, also if the batch cannot be cut into such groups.
    """

    def __init__(self, group_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self._set_group_size(group_size)

    def _set_group_size(self, group_size: int) -> None:
        require(
            isinstance(group_size, int) and group_size >= 1,
            "`group_size`",
            "a positive integer",
            group_size,
        )
        if getattr(self, "renorm", False):
            raise InputError(
                "Batch normalisation in groups needs layers without renorm. Received: "
                f"renorm=True in {self.name!r}. Remove it, or normalise without groups."
            )
        self.group_size = group_size
        self.synchronized = False  # the group alone decides what is normalised together

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        return {**super().get_config(), "group_size": self.group_size}

    def call(self, inputs, training=None, mask=None):
        """Normalises a batch: by its groups in training, else by the moving statistics."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        if mask is not None:
            raise InputError(
                "Batch normalisation in groups takes all examples and positions. Received: a mask "
                f"in {self.name!r}. Remove the mask, or normalise without groups."
            )
        examples = inputs.shape[0]
        if examples is None:
            raise InputError(
                "Batch normalisation in groups needs training batches of a static size. Received: "
                f"{inputs.shape} in {self.name!r}. Batch with drop_remainder=True."
            )
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        if self.group_size <= examples and examples % self.group_size == 0:
            mean, variance = self._moments_within(x, examples // self.group_size)
        else:
            mean, variance = self._moments_across(x)
        move_statistics(self, tf.reduce_mean(mean, 0), tf.reduce_mean(variance, 0))
        return tf.cast(self._normalised(x, mean, variance), self.compute_dtype)

    def _moments_within(self, x: tf.Tensor, groups: int) -> _Moments:
        """Returns the mean and the variance of each part of a batch, both `[groups, channels]`."""
        cut = _cut(x, groups)
        channels = self._channel_axis(x) + 1
        axes = [axis for axis in range(1, cut.shape.rank) if axis != channels]
        return tf.nn.moments(cut, axes)

    def _moments_across(self, x: tf.Tensor) -> _Moments:
        """Returns mean and variance of the group of replicas of this one, both `[1, channels]`."""
        context = tf.distribute.get_replica_context()
        examples = x.shape[0]
        replicas = context.num_replicas_in_sync if context else 1
        size, rest = divmod(self.group_size, examples)
        if rest or size == 0 or replicas % size:
            raise InputError(
                "A group of batch normalisation must be an equal part of a replica's examples, or "
                f"an equal part of the replicas. Received: groups of {self.group_size} on "
                f"{replicas} replicas with {examples} examples each, in {self.name!r}. Change the "
                "batch or the group."
            )
        mean, variance = self._moments_within(x, 1)
        groups = replicas // size
        own = tf.one_hot([context.replica_id_in_sync_group // size], groups, dtype=x.dtype)

        def mean_over_group(values):
            table = context.all_reduce("SUM", tf.linalg.matmul(own, values / size, True))
            return tf.linalg.matmul(own, table)

        # One all-reduce of means and squares would do, but where the mean is large, squares differ
        # in digits that float32 does not have. The variance has no slope in the mean.
        whole = mean_over_group(mean)
        between = tf.math.squared_difference(mean, tf.stop_gradient(whole))
        return whole, mean_over_group(variance + between)

    def _normalised(self, x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns a batch of which each part is normalised by its row of mean and variance."""
        cut = _cut(x, mean.shape[0])
        shape = [1] * cut.shape.rank
        shape[self._channel_axis(x) + 1] = x.shape[self._channel_axis(x)]

        def of_channels(values):
            return tf.reshape(tf.cast(values, x.dtype), [-1, *shape[1:]])

        normalised = tf.nn.batch_normalization(
            cut,
            of_channels(mean),
            of_channels(variance),
            of_channels(self.beta) if self.center else None,
            of_channels(self.gamma) if self.scale else None,
            self.epsilon,
        )
        return tf.reshape(normalised, _sides(x))

    def _channel_axis(self, x: tf.Tensor) -> int:
        return self.axis % x.shape.rank


def group_batch_norm(model: keras.Model, group_size: int) -> list[keras.layers.BatchNormalization]:
    """Turns the batch normalisation layers of a model into `GroupedBatchNormalization`, in place.

    Connections, names and weights stay. To be called before the model is trained, since traced
    functions are not changed.

    Args:
      model: Model of any kind; layers in nested models are found too.
      group_size: See `GroupedBatchNormalization`.

    Returns:
      The layers that were turned.

    Raises:
      InputError: If a layer is of another subclass of `BatchNormalization`, whose computation
        would be lost, or uses renorm.
    """
    plain, grouped = keras.layers.BatchNormalization, GroupedBatchNormalization
    found = [layer for layer in layers_of(model) if isinstance(layer, plain)]
    for layer in found:
        if type(layer) not in (plain, grouped):
            raise InputError(
                "Batch normalisation in groups needs layers of the type "
                f"keras.layers.BatchNormalization. Received: {layer.name!r} of the type "
                f"{type(layer).__name__}. Use Keras's layer, or normalise without groups."
            )
    for layer in found:
        # A copy of the model would need new layers, and a subclassed model cannot be copied.
        layer.__class__ = grouped
        layer._set_group_size(group_size)
    return found


def ungroup_batch_norm(model: keras.Model) -> None:
    """Turns the layers of `group_batch_norm` back into Keras's own, in place.

    A file of the model then loads without this package.
    """
    for layer in layers_of(model):
        if isinstance(layer, GroupedBatchNormalization):
            layer.__class__ = keras.layers.BatchNormalization


def group_sizes(model: keras.Model) -> set[int]:
    """Returns the group sizes of a model's layers that are trained."""
    kind = GroupedBatchNormalization
    layers = [layer for layer in layers_of(model) if isinstance(layer, kind)]
    return {layer.group_size for layer in layers if layer.trainable}


def _cut(x: tf.Tensor, groups: int) -> tf.Tensor:
    """Returns a batch as `[groups, examples, ...]`."""
    return tf.reshape(x, [groups, x.shape[0] // groups, *_sides(x)[1:]])


def _sides(x: tf.Tensor) -> list[Any]:
    """Returns the sides of a tensor, as numbers where they are known.

    XLA on TPUs must know a shape when it compiles.
    """
    dynamic = tf.shape(x)
    return [dynamic[axis] if side is None else side for axis, side in enumerate(x.shape)]
