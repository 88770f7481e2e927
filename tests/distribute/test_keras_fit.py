"""Stock `model.fit` in two real processes under the strategy of `tf_lars.distribute`."""

import keras
import numpy as np
import pytest

from tests.helpers import keras_fit_worker, two_processes
from tf_lars.distribute import keras_fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keras_fit")


@pytest.fixture(scope="module")
def workers(folder):
    """Returns the results of both workers by (case, name)."""
    return [
        {tuple(key.split("|")): value for key, value in results.items()}
        for results in two_processes.run("tests.helpers.keras_fit_worker", folder)
    ]


def test_both_workers_have_the_same_numbers(workers):
    first, second = workers
    assert first.keys() == second.keys()
    for key, value in first.items():
        if key != ("refused", "one path"):
            np.testing.assert_array_equal(value, second[key], err_msg=str(key))


@pytest.mark.parametrize("case", keras_fit_worker.EQUAL)
def test_two_workers_train_like_one_process_on_the_whole_batch(case, workers):
    for name, expected in keras_fit_worker.EQUAL[case]().items():
        np.testing.assert_allclose(
            workers[0][case, name],
            expected,
            rtol=0,
            atol=1e-5 * np.max(np.abs(expected)),
            err_msg=name,
        )


def test_every_example_is_seen_once_per_epoch(workers):
    np.testing.assert_allclose(workers[0]["examples seen", "seen"], 1.0, rtol=1e-3)


def test_every_epoch_has_an_order_of_its_own(workers):
    first, second = workers[0]["examples seen", "losses"]
    assert abs(first[0] / second[0] - 1) > 0.01


def test_statistics_of_batch_normalisation_are_averaged(workers):
    """With shares of equal size, the mean over the workers is that of the whole batch."""
    statistics = {n: v for (case, n), v in workers[0].items() if case == "batch norm"}
    name = next(n for n in statistics if "moving_mean" in n)
    alone = keras_fit_worker.batch_norm()
    np.testing.assert_allclose(statistics[name], alone[name], rtol=1e-5)
    assert np.ptp(statistics[name]) > 0.1


def test_an_inf_on_one_worker_skips_the_step_on_both(workers):
    results = {n: v for (case, n), v in workers[1].items() if case == "half precision"}
    assert results["scale"] == 2.0**13  # halved in each of two epochs
    assert all(np.isfinite(v).all() for n, v in results.items() if n.startswith("w"))


def test_a_nan_on_one_worker_ends_training_on_both(workers):
    assert [results["not a number", "batches"] for results in workers] == [2, 2]


def test_callbacks_of_keras_work(workers, folder):
    results = {n: v for (case, n), v in workers[0].items() if case == "callbacks"}
    assert len(results["val_loss"]) == 3  # EarlyStopping: the first is the best, and two more
    np.testing.assert_allclose(results["learning_rate"], [0.5, 0.5, 0.25])
    saved = keras.models.load_model(folder / "model.keras")
    for i, weight in enumerate(saved.weights):
        name = next(n for n in results if n.startswith(f"w{i} "))
        np.testing.assert_array_equal(weight, results[name])
    assert (folder / "log.csv").read_text().count("\n") == 4
    assert list((folder / "tensorboard" / "train").iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "steps_per_execution": "Trainer(model, steps_per_loop=2)",
        "jit_compile": "Compile the model with jit_compile=False, or train it with tf_lars.Trainer",
        "evaluate jit_compile": "Compile the model with jit_compile=False",
        "run_eagerly": "Compile the model with run_eagerly=False",
        "clip": "SGD with global_clipnorm. Use tf_lars.LARS, or tf_lars.Trainer",
        "accumulation": "Use tf_lars.Trainer(model, micro_batch_size=...)",
        "ema": "cannot overwrite weights with their averages",
        "loss scale": "Compile with tf_lars.optimizers.loss_scale.LossScaleOptimizer",
        "odd batch": "multiple of the number of replicas. Received: global_batch_size=33",
        "lonely example": "33 examples in batches of 32, which leave 1",
        "generator": "arrays or a tf.data.Dataset",
        "one path": "same.weights.h5",
        "stop alone": "stop_training=[True, False]",
        "outside": "`with strategy.scope():`",
    }.items(),
)
def test_what_cannot_work_ends_with_a_word_on_both_workers(name, message, workers):
    for results in workers:
        assert message in str(results["refused", name])


@pytest.mark.parametrize(
    "function", ["_maybe_symbolic_build", "reduce_per_replica", "order of arrays"]
)
def test_keras_still_needs_the_patch(function, workers):
    assert workers[0]["stock", function], (
        f"{function}: Keras {keras.__version__} no longer needs tf_lars/distribute/keras_fit.py: "
        "narrow its versions"
    )


def test_a_release_of_keras_that_was_not_tested_stays_as_it_is(monkeypatch, caplog):
    from keras.src.backend.tensorflow import trainer

    before = trainer.TensorFlowTrainer.fit
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    assert not keras_fit.install()
    assert trainer.TensorFlowTrainer.fit is before
    assert not keras_fit.stock
