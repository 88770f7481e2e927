"""Stock `model.fit` in two real processes under the strategy of `tf_lars.distribute`."""

import keras
import numpy as np
import pytest

from tests.helpers import keras_fit_cases, two_processes
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


def _of(case, results):
    return {name: value for (one, name), value in results.items() if one == case}


def test_both_workers_have_the_same_numbers(workers):
    first, second = ({k for k in one if k[0] not in ("outside", "refused")} for one in workers)
    assert first == second
    for key in first:
        np.testing.assert_array_equal(workers[0][key], workers[1][key], err_msg=str(key))


@pytest.mark.parametrize("case", keras_fit_cases.EQUAL)
def test_two_workers_train_like_one_process_on_the_whole_batch(case, workers):
    for name, expected in keras_fit_cases.EQUAL[case]().items():
        np.testing.assert_allclose(
            workers[0][case, name],
            expected,
            rtol=0,
            atol=1e-5 * np.max(np.abs(expected)),
            err_msg=name,
        )


def test_a_model_made_outside_the_scope_is_that_of_keras(workers):
    """One worker alone does what Keras can do without a strategy only."""
    results = _of("outside", workers[1])
    alone = keras_fit_cases.outside()
    assert not _of("outside", workers[0])
    assert results.keys() == alone.keys()
    for name, expected in alone.items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("case", ["examples seen", "examples seen of a PyDataset"])
def test_every_example_is_seen_once_per_epoch(case, workers):
    np.testing.assert_allclose(workers[0][case, "seen"], 1.0, rtol=1e-3)


@pytest.mark.parametrize("case", ["examples seen", "examples seen of a PyDataset"])
def test_every_epoch_has_an_order_of_its_own(case, workers):
    first, second = workers[0][case, "losses"]
    assert abs(first[0] / second[0] - 1) > 0.01


def test_statistics_of_batch_normalisation_are_averaged(workers):
    """With shares of equal size, the mean over the workers is that of the whole batch."""
    statistics = _of("batch norm", workers[0])
    name = next(n for n in statistics if "moving_mean" in n)
    alone = keras_fit_cases.batch_norm()
    np.testing.assert_allclose(statistics[name], alone[name], rtol=1e-5)
    assert np.ptp(statistics[name]) > 0.1


def test_an_inf_on_one_worker_skips_the_step_on_both(workers):
    results = _of("half precision", workers[1])
    assert results["scale"] == 2.0**13  # halved in each of two epochs
    assert all(np.isfinite(v).all() for n, v in results.items() if n.startswith("w"))


def test_a_nan_on_one_worker_ends_training_on_both(workers):
    assert [results["not a number", "batches"] for results in workers] == [2, 2]


def test_a_contrastive_model_learns(workers):
    losses = workers[0]["contrastive", "contrast"]
    assert losses[1] < losses[0]


def test_callbacks_of_keras_work(workers, folder):
    results = _of("callbacks", workers[0])
    assert len(results["val_loss"]) == 3  # EarlyStopping: the first is the best, and two more
    np.testing.assert_allclose(results["learning_rate"], [0.5, 0.5, 0.25])
    saved = keras.models.load_model(folder / "model.keras")
    for i, weight in enumerate(saved.weights):
        name = next(n for n in results if n.startswith(f"w{i} "))
        np.testing.assert_array_equal(weight, results[name])
    assert (folder / "log.csv").read_text().count("\n") == 4
    assert list((folder / "tensorboard" / "train").iterdir())


def test_all_workers_restore_the_backup_that_the_first_one_writes(workers, folder):
    resumed, whole = _of("resumed", workers[1]), _of("uninterrupted", workers[1])
    for name, expected in whole.items():
        expected = expected if name.startswith("w") else expected[2:]
        np.testing.assert_array_equal(resumed[name], expected, err_msg=name)
    assert not (folder / "backup of all").exists()  # it has served


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "steps_per_execution": "Trainer(model, steps_per_loop=2)",
        "jit_compile": "Compile the model with jit_compile=False, or train it with tf_lars.Trainer",
        "evaluate jit_compile": "Compile the model with jit_compile=False",
        "run_eagerly": "Compile the model with run_eagerly=False",
        "clip": "SGD with global_clipnorm. Use tf_lars.LARS, or tf_lars.Trainer",
        "clip of own optimizer": "SGD with clipnorm. Use tf_lars.LARS",
        "accumulation": "Use tf_lars.Trainer(model, micro_batch_size=...)",
        "ema": "cannot overwrite weights with their averages",
        "loss scale": "Compile with tf_lars.optimizers.loss_scale.LossScaleOptimizer",
        "no reduction": 'MeanSquaredError with reduction=None. Use the reduction "sum_over',
        "odd batch": "multiple of the number of replicas. Received: global_batch_size=33",
        "odd batch of one worker": [
            "multiple of the number of replicas. Received: global_batch_size=33",
            "a refusal by the workers [0]",
        ],
        "lonely example": "33 examples in batches of 32, which leave 1",
        "lonely example of a PyDataset": "a last batch of 1. Leave it out",
        "generator": "tf_lars.Trainer(model).fit, which takes generators, too",
        "other targets": "PyDataset must have the same batches on all workers",
        "other order": "PyDataset must have the same batches on all workers",
        "one path": "same.weights.h5",
        "one backup": "no BackupAndRestore on the workers [1]. Pass it on every worker",
        "backups of different epochs": "first epoch=[3, 1] by rank",
        "stop alone": "stop_training=[True, False]",
        "rate alone": "learning rate of lars=[0.00",
        "iterations": "iterations of lars=[7, 0]",
        "weights": "checksum of the weights=[",
        "epochs": "epochs=[2, 3] by rank",
        "first epoch": "first epoch=[2, 1] by rank",
        "batches": "batches=[3, 2] by rank",
        "method": [
            "['evalua', 'fit'] by rank, where this one calls evaluate",
            "where this one calls fit",
        ],
        "scope": "`with strategy.scope():`, or call fit outside of it",
    }.items(),
)
def test_what_cannot_work_ends_with_a_word_on_both_workers(name, message, workers):
    messages = message if isinstance(message, list) else [message] * 2
    for results, expected in zip(workers, messages, strict=True):
        assert expected in str(results["refused", name])


@pytest.mark.parametrize(
    ("case", "messages"),
    {
        "does not come": [
            "PeerFailure: fit needs every worker, at every step. Received: none from another "
            "worker for 5 seconds.",
            "",
        ],
        "stops": ["InputError: All workers must take the same steps. Received"] * 2,
        "leaves": ["PeerFailure: Another worker was lost during fit", ""],
    }.items(),
)
def test_no_worker_waits_forever_for_another(case, messages, tmp_path):
    results = two_processes.run("tests.helpers.keras_fit_waits", tmp_path, case)
    for told, message in zip(results, messages, strict=True):
        assert str(told["told"]).startswith(message)
        assert bool(str(told["told"])) == bool(message)


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
