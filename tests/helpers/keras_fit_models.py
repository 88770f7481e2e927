"""Models and data for Keras's `fit`, in the scope of both workers or in the process of a test."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tf_lars import LARS

SIZE, BATCH = 6, 32


class Joined:
    """The strategy of both workers; None in the process of a test."""

    strategy = None


def fresh_scope(seed=0):
    """Clears all models, for the same names in every process, and returns the strategy's scope."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    return Joined.strategy.scope() if Joined.strategy else contextlib.nullcontext()


def data(examples=96, seed=0):
    """Returns inputs `[examples, 6]` and three classes that depend on them."""
    x = np.random.default_rng(seed).standard_normal((examples, SIZE)).astype("float32")
    return x, np.argmax(x[:, :3] + 0.3 * x[:, 3:], axis=1)


def model(optimizer=None, *layers, activation="relu", seed=0, loss=None, **compile_arguments):
    """Returns a compiled classifier with the given layers in its middle."""
    with fresh_scope(seed):
        network = keras.Sequential(
            [
                keras.Input((SIZE,)),
                keras.layers.Dense(8, activation=activation),
                *[layer() for layer in layers],
                keras.layers.Dense(3, dtype="float32"),
            ]
        )
        network.compile(
            optimizer() if optimizer else LARS(2.0, weight_decay=1e-3),
            loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **compile_arguments,
        )
    return network


def two_outputs():
    """Returns a model with a dictionary of inputs, two outputs and a penalty."""
    with fresh_scope():
        inputs = {name: keras.Input((SIZE,), name=name) for name in "ab"}
        hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")(
            keras.layers.Add()(list(inputs.values()))
        )
        outputs = [keras.layers.Dense(1, name=name)(hidden) for name in "pq"]
        network = keras.Model(inputs, outputs)
        network.compile(keras.optimizers.AdamW(0.01), ["mse", "mse"], metrics=[["mae"], ["mae"]])
    return network


def sgd(**arguments):
    """Returns a function that makes an optimizer whose steps are as long as its gradients."""
    return lambda: keras.optimizers.SGD(0.1, **arguments)


class Autoencoder(keras.Model):
    """As in keras.io's VAE: no `call`, and losses that are not `Loss` objects."""

    def __init__(self, built):
        super().__init__()
        self.encoder = _dense(SIZE, 3, built)
        self.decoder = _dense(3, SIZE, built)
        self.total = keras.metrics.Mean(name="loss")
        self.size = keras.metrics.Mean(name="size")

    @property
    def metrics(self):
        return [self.total, self.size]

    def _errors(self, data):
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        code = self.encoder(x)
        size = keras.ops.mean(keras.ops.sum(keras.ops.square(code), axis=1))
        return keras.ops.mean(keras.losses.mean_squared_error(x, self.decoder(code))) + size, size

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss, size = self._errors(data)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self._reported(loss, size)

    def test_step(self, data):
        return self._reported(*self._errors(data))

    def _reported(self, loss, size):
        self.total.update_state(loss)
        self.size.update_state(size)
        return {metric.name: metric.result() for metric in self.metrics}


class Adversaries(keras.Model):
    """As in keras.io's GAN: two optimizers, a `Loss` object, and logs that are not metrics."""

    def __init__(self):
        super().__init__()
        self.critic = _dense(SIZE, 1, True)
        self.generator = _dense(2, SIZE, True)

    def compile(self, of_critic, of_generator):
        super().compile()
        self.of_critic, self.of_generator = of_critic, of_generator
        self.real_or_not = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(self, data):
        real = data[0] if isinstance(data, tuple) else data
        seed, ones = real[:, :2], keras.ops.ones((keras.ops.shape(real)[0], 1))
        both = keras.ops.concatenate([self.generator(seed), real])
        truth = keras.ops.concatenate([ones, 0 * ones])
        with tf.GradientTape() as tape:
            loss_of_critic = self.real_or_not(truth, self.critic(both))
        weights = self.critic.trainable_weights
        gradients = tape.gradient(loss_of_critic, weights)
        self.of_critic.apply_gradients(zip(gradients, weights, strict=True))
        with tf.GradientTape() as tape:
            loss_of_generator = self.real_or_not(0 * ones, self.critic(self.generator(seed)))
        weights = self.generator.trainable_weights
        gradients = tape.gradient(loss_of_generator, weights)
        self.of_generator.apply_gradients(zip(gradients, weights, strict=True))
        return {"critic": loss_of_critic, "generator": loss_of_generator}


class Contrastive(keras.Model):
    """As in keras.io's contrastive learning: layers that the step builds, and nested data."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
        self.probe = keras.Sequential([keras.layers.Dense(3)])

    def train_step(self, data):
        (labelled, labels), unlabelled = data
        both = keras.ops.concatenate([labelled, unlabelled])
        with tf.GradientTape() as tape:
            one, other = self.encoder(both, training=True), self.encoder(-both, training=True)
            similarities = one @ keras.ops.transpose(other)
            pairs = keras.ops.arange(keras.ops.shape(both)[0])
            contrast = keras.losses.sparse_categorical_crossentropy(pairs, similarities, True)
            logits = self.probe(self.encoder(labelled, training=False))
            known = keras.losses.sparse_categorical_crossentropy(labels, logits, True)
            loss = keras.ops.mean(contrast) + keras.ops.mean(known)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"contrast": loss}


class OwnStep(keras.Model):
    """As in Keras's guide to customizing `fit`: it reports what `compute_loss` returns."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


class OwnLoss(keras.Model):
    """Its loss is partly a `Loss` object's and partly not; it tracks the sum itself, too."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.own = keras.metrics.Mean(name="own")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        loss += keras.ops.mean(keras.ops.square(y_pred))
        self.own.update_state(loss)
        return loss


class _Penalty(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(x)))
        return x


def functional(kind, loss):
    """Returns a regression of a class, with penalties from a layer and from `add_loss`."""
    with fresh_scope():
        inputs = keras.Input((SIZE,))
        hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")(inputs)
        hidden = _Penalty()(hidden)
        network = kind(inputs, keras.layers.Dense(1)(hidden))
        network.compile(keras.optimizers.SGD(0.01, momentum=0.5), loss)
    return network


def in_scope(make, *arguments):
    """Returns a model that was made and compiled in a fresh scope."""
    with fresh_scope():
        network = make()
        network.compile(*[one() for one in arguments])
    return network


def _dense(size, units, built):
    return keras.Sequential([*([keras.Input((size,))] if built else []), keras.layers.Dense(units)])


def fit(network, **arguments):
    """Trains two epochs in the order of the arrays; the last validation batch has one example."""
    x, y = data()
    defaults = {"x": x, "y": y, "batch_size": BATCH, "epochs": 2, "validation_data": data(33, 1)}
    history = network.fit(**{**defaults, "shuffle": False, "verbose": 0, **arguments}).history
    return {**weights(network), **{name: np.array(values) for name, values in history.items()}}


def weights(network):
    """Returns the weights of a model by place and path."""
    return {f"w{i} {w.path}": w.numpy() for i, w in enumerate(network.weights)}


class Batches(keras.utils.PyDataset):
    """Batches of arrays. As many do, it shuffles its examples itself, without a seed, if asked."""

    def __init__(self, *arrays, size=BATCH, shuffle=False, workers=1):
        super().__init__(workers=workers)
        self._arrays, self._size, self._shuffle = arrays, size, shuffle
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self._arrays[0]) // self._size)

    def __getitem__(self, index):
        chosen = self._order[index * self._size : (index + 1) * self._size]
        return tuple(array[chosen] for array in self._arrays)

    def on_epoch_end(self):
        self._order = np.arange(len(self._arrays[0]))
        if self._shuffle:
            np.random.shuffle(self._order)  # noqa: NPY002
