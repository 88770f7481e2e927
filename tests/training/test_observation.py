"""What the training loop observes, and that observing changes nothing."""

import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from tests.helpers import programs, training_cases
from tests.helpers.training_cases import BATCH
from tf_lars import LARS, Trainer
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.tracking.noise_scale import DECAY
from tf_lars.tracking.observation import Observe
from tf_lars.training.checkpoints import CheckpointStore

ALONE = tf.distribute.get_strategy()


class Watcher(keras.callbacks.Callback):
    """Keeps all observations, and ends calls of the loop at some steps."""

    def __init__(self, *boundaries):
        super().__init__()
        self.seen = []
        self._boundaries = boundaries

    def on_observation(self, observation):
        self.seen.append(observation)

    def next_boundary(self, step):
        return min((b for b in self._boundaries if b > step), default=None)


class InOrder(ArrayTrainingInput):
    """The examples of a global batch in their order, whatever the number of replicas."""

    def dataset(self, context, first_step, last_step):
        batches = tf.data.Dataset.from_tensor_slices((self.x, self.y)).repeat()
        share = self.global_batch_size // context.num_replicas_in_sync
        return batches.batch(share, drop_remainder=True).skip(
            first_step * context.num_replicas_in_sync
        )


def _train(strategy=ALONE, build=training_cases.plain_model, epochs=2, watch=None, **arguments):
    watch = watch or Watcher()
    trainer = training_cases.trainer(strategy, build, **arguments)
    data = InOrder(*training_cases.images(320), BATCH)
    trainer.fit(data, epochs=epochs, callbacks=[watch], verbose=0)
    return trainer, watch.seen


def test_the_gradients_norms_are_those_of_the_whole_batch():
    _, seen = _train(epochs=1, observe=Observe(layers_every=1))
    fresh = training_cases.trainer(ALONE, training_cases.plain_model)
    x, y = (part[:BATCH] for part in training_cases.images(320))
    fresh.build((tf.TensorSpec([BATCH, 8, 8, 3], tf.uint8), tf.TensorSpec([BATCH], tf.int64)))
    with tf.GradientTape() as tape:
        loss = fresh.model.loss(y, fresh.model(x, training=True))
    gradients = tape.gradient(loss, [v.value for v in fresh.model.trainable_variables])
    norms = [float(tf.norm(g)) for g in gradients]
    np.testing.assert_allclose(seen[0].gradient_norms, norms, rtol=1e-4)
    assert seen[0].gradient_norm == pytest.approx(np.linalg.norm(norms), rel=1e-4)


def test_a_sample_of_the_layers_has_weights_update_and_trust_ratio_of_its_step():
    trainer, seen = _train(epochs=1, observe=Observe(layers_every=5))
    [sample] = [one.layers for one in seen if one.layers]
    assert seen[-1].layers is sample
    assert [one.steps for one in seen][-1] == 1
    repeated = training_cases.trainer(ALONE, training_cases.plain_model, steps_per_loop=1)
    weights = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(
            [v.numpy() for v in repeated.model.trainable_variables]
        )
    )
    data = InOrder(*training_cases.images(320), BATCH)
    repeated.fit(data, epochs=1, callbacks=[keep], verbose=0)
    before, after = weights[3], weights[4]
    np.testing.assert_allclose(sample.weight_norm, [np.linalg.norm(w) for w in before], rtol=1e-5)
    np.testing.assert_allclose(
        sample.update_norm,
        [np.linalg.norm(b - a) for a, b in zip(before, after, strict=True)],
        rtol=1e-4,
    )
    kernels = [i for i, path in enumerate(sample.paths) if path.endswith("kernel")]
    rule = trainer.model.optimizer.rule
    for i in kernels:
        expected = rule.trust_ratio(
            tf.constant(sample.weight_norm[i]), tf.constant(sample.gradient_norm[i]), 1.0, 1e-3
        )
        assert sample.trust_ratio[i] == pytest.approx(float(expected), rel=1e-4)
    assert (np.delete(sample.trust_ratio, kernels) == 1).all()


def test_another_optimizer_has_no_trust_ratio():
    _, seen = _train(
        epochs=1, optimizer=lambda: keras.optimizers.SGD(0.1), observe=Observe(layers_every=2)
    )
    samples = [one.layers for one in seen if one.layers]
    assert len(samples) == 2
    assert samples[0].trust_ratio is None
    assert "trust_ratio" not in samples[0].tables()
    assert (samples[0].update_ratio > 0).all()


@pytest.mark.parametrize("build", [training_cases.plain_model, training_cases.small_resnet])
def test_observing_changes_no_bit_of_the_weights(build):
    plain, _ = _train(build=build)
    observed, _ = _train(build=build, observe=Observe(layers_every=3, noise_scale=True))
    for one, other in zip(plain.model.weights, observed.model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def _total_of_parts(seen):
    """Returns the decaying sums over the steps of all calls."""
    sums, steps = np.zeros(2), 0
    for norms in (one.parts for one in seen):
        kept = DECAY**norms.steps
        sums = kept * sums + [norms.whole, norms.mean_of_parts]
        steps += norms.steps
    return steps, sums


def test_two_replicas_give_the_noise_of_two_micro_batches(mirrored):
    replicas, micro = Observe(noise_scale=True), Observe(noise_scale=True)
    _, on_two = _train(mirrored, observe=replicas)
    _, in_two = _train(ALONE, observe=micro, micro_batch_size=BATCH // 2)
    assert {one.parts.parts for one in on_two + in_two} == {2}
    steps, sums = _total_of_parts(on_two)
    other_steps, other_sums = _total_of_parts(in_two)
    assert steps == other_steps == 10
    np.testing.assert_allclose(sums, other_sums, rtol=1e-5)
    assert sums[1] > sums[0] > 0


def test_the_parts_norms_are_those_of_separate_gradients():
    _, seen = _train(
        epochs=1, observe=Observe(noise_scale=True), micro_batch_size=16, watch=Watcher(1)
    )
    fresh = training_cases.trainer(ALONE, training_cases.plain_model)
    x, y = (part[:BATCH] for part in training_cases.images(320))
    fresh.build((tf.TensorSpec([BATCH, 8, 8, 3], tf.uint8), tf.TensorSpec([BATCH], tf.int64)))
    variables = [v.value for v in fresh.model.trainable_variables]
    squares = []
    for start in range(0, BATCH, 16):
        with tf.GradientTape() as tape:
            own = slice(start, start + 16)
            loss = fresh.model.loss(y[own], fresh.model(x[own], training=True))
        squares.append(sum(float(tf.norm(g)) ** 2 for g in tape.gradient(loss, variables)))
    first = seen[0].parts
    assert (first.steps, first.parts) == (1, 4)
    assert first.mean_of_parts / (1 - DECAY) == pytest.approx(np.mean(squares), rel=1e-4)
    assert first.whole / (1 - DECAY) == pytest.approx(seen[0].gradient_norm ** 2, rel=1e-4)


def test_a_last_batch_with_padding_does_not_count_in_the_noise():
    trainer = training_cases.trainer(
        ALONE,
        training_cases.plain_model,
        micro_batch_size=BATCH // 2,
        observe=Observe(noise_scale=True),
    )
    watch = Watcher()
    x, y = training_cases.images(200)
    trainer.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=[watch], shuffle=False)
    assert sum(one.steps for one in watch.seen) == 4
    assert sum(one.parts.steps for one in watch.seen if one.parts) == 3


def test_loss_scaling_does_not_change_the_norms():
    from tf_lars.optimizers.loss_scale import LossScaleOptimizer

    def scaled():
        return LossScaleOptimizer(LARS(1.0), initial_scale=2.0**10)

    arguments = {"micro_batch_size": BATCH // 2, "epochs": 1, "watch": None}
    observe = Observe(noise_scale=True, layers_every=5)
    _, plain = _train(optimizer=lambda: LARS(1.0), observe=observe, **arguments)
    _, seen = _train(optimizer=scaled, observe=observe, **arguments)
    np.testing.assert_allclose(
        seen[-1].gradient_norms, plain[-1].gradient_norms, rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(_total_of_parts(seen)[1], _total_of_parts(plain)[1], rtol=1e-3)
    np.testing.assert_allclose(seen[-1].layers.trust_ratio, plain[-1].layers.trust_ratio, rtol=1e-3)


def test_a_step_is_divided_into_waiting_computing_reducing_and_updating(mirrored):
    for strategy in (ALONE, mirrored):
        _, seen = _train(strategy)
        assert all(len(one.workers) == 1 for one in seen)
        for one in seen[1:]:
            [times] = one.workers
            assert min(times) >= 0
            assert times.compute > 0
            assert times.total <= one.seconds / one.steps * 1.05


def test_a_slow_input_is_seen_as_waiting():
    class Slow(InOrder):
        def dataset(self, context, first_step, last_step):
            data = super().dataset(context, first_step, last_step)

            def wait(x, y):
                late = tf.numpy_function(lambda v: time.sleep(0.05) or v, [y], y.dtype)
                return x, tf.ensure_shape(late, y.shape)

            return data.map(wait)

    watch = Watcher()
    trainer = training_cases.trainer(ALONE, training_cases.plain_model)
    history = trainer.fit(
        Slow(*training_cases.images(320), BATCH), epochs=3, callbacks=[watch], verbose=0
    )
    assert watch.seen[-1].input_wait > 0.5
    assert history[-1]["input_wait"] > 0.5


def test_calls_of_the_loop_end_at_the_boundaries_that_callbacks_ask_for():
    watch = Watcher(2, 7)
    _train(watch=watch, steps_per_loop=100)
    assert [one.step for one in watch.seen] == [2, 5, 7, 10]
    watch = Watcher()
    _train(watch=watch, steps_per_loop=100, observe=Observe(layers_every=4))
    assert [one.step for one in watch.seen] == [3, 4, 5, 7, 8, 10]


@pytest.mark.slow
def test_a_deterministic_run_has_no_times_and_trains_as_any_other():
    # TensorFlow cannot take this setting back: hence a separate process.
    program = """
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
from tests.helpers import programs, training_cases
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.tracking.observation import Observe
t = training_cases.trainer(
    tf.distribute.get_strategy(),
    training_cases.plain_model,
    observe=Observe(layers_every=2, noise_scale=True),
    micro_batch_size=32,
)
history = t.fit(ArrayTrainingInput(*training_cases.images(320), 64), epochs=2, verbose=0)
assert history[-1]["step"] == 10
assert "input_wait" not in history[-1]
"""
    done = programs.run_command([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr[-2000:]


def test_parts_with_large_activations_are_observed():
    # Above 256 MB on a CPU, TensorFlow's optimizer of memory changes sums in the graph.
    model = models.create("small_resnet8", num_classes=10, image_size=32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(LARS(0.1), loss=loss)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (512, 32, 32, 3)).astype(np.float32)
    watcher = Watcher()
    Trainer(model, micro_batch_size=128, steps_per_loop=4, observe=Observe(noise_scale=True)).fit(
        x, random.integers(0, 10, 512), batch_size=256, epochs=4, callbacks=[watcher], verbose=0
    )
    assert all(one.parts for one in watcher.seen)


class Ordered(keras.callbacks.Callback):
    """Notes when it is called at the end of an epoch, and after all others were."""

    def __init__(self, name, calls):
        super().__init__()
        self._name, self._calls = name, calls

    def on_epoch_end(self, epoch, logs=None):
        self._calls.append(f"{self._name} ends epoch {epoch}")

    def after_epoch(self, step):
        self._calls.append(f"{self._name} after step {step}")


def test_every_callback_has_ended_the_epoch_before_any_may_flush_and_the_run_is_saved(
    tmp_path, monkeypatch
):
    calls = []
    store = CheckpointStore(str(tmp_path), {})
    save = store.save

    def noted_save(model, step, *arguments):
        calls.append(f"saved step {step}")
        return save(model, step, *arguments)

    monkeypatch.setattr(store, "save", noted_save)
    trainer = training_cases.trainer(ALONE, training_cases.plain_model)
    data = InOrder(*training_cases.images(2 * BATCH), BATCH)
    watchers = [Ordered("first", calls), Ordered("last", calls)]
    trainer.fit(data, epochs=1, callbacks=watchers, checkpoints=store, verbose=0)
    assert calls == [
        "first ends epoch 0",
        "last ends epoch 0",
        "first after step 2",
        "last after step 2",
        "saved step 2",
    ]
