"""`tf_lars.integrations.ray` in a job of Ray Train: two workers, one of which is killed once."""

import importlib.util
import json

import keras
import pytest

from tests.helpers import programs
from tf_lars.errors import InputError

if not (importlib.util.find_spec("ray") and importlib.util.find_spec("sklearn")):
    pytest.skip("needs Ray and scikit-learn (extras `ray` and `demo`)", allow_module_level=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the workers and the driver of `tests.helpers.ray_train_job` found."""
    folder = tmp_path_factory.mktemp("ray")
    done = programs.run("tests.helpers.ray_train_job", folder)
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_a_killed_worker_changes_no_bit_of_training_over_shards(found):
    assert found["resumed at epoch"] == 2
    assert found["steps"] == 450 // 64
    assert found["killed"] == found["undisturbed"]


@pytest.mark.slow
def test_metrics_and_checkpoints_reach_the_result(found):
    assert [metrics["epoch"] for metrics in found["reported"]][-2:] == [3, 2]
    assert found["reported"][-2]["val_accuracy"] == pytest.approx(found["val_accuracy"])
    assert found["metrics"]["epoch"] == 2  # of Keras's fit, which was last
    assert found["validation"] == 100
    assert found["epochs by driver"] == 2
    assert found["weights by driver"] == found["fit"]
    assert found["iterations by driver"] == found["iterations of fit"]


@pytest.mark.slow
def test_fit_trains_on_shards_and_resumes(found):
    # 7 steps by the rows, of which Keras's fit takes a multiple of the workers.
    assert found["iterations of fit"] == 2 * 6
    assert found["losses of fit"][1] < found["losses of fit"][0]
    assert (found["epochs of fit"], found["restored fit"]) == (2, found["fit"])
    assert found["iterations restored"] == 3 * 6


@pytest.mark.slow
def test_shards_that_are_not_the_workers_part_are_refused(found):
    unsplit, part, small, column = found["refusals"]
    assert "Received: 1 part for 2 workers." in unsplit
    assert "Received: one of 2 parts." in part
    assert "Received: 64 rows for a batch of 128." in small
    assert "Received: 'picture' instead of image, label." in column


def test_outside_of_a_worker_or_with_an_unbuilt_model_there_is_one_sentence():
    from tf_lars.integrations.ray import RayReport, restore

    with pytest.raises(InputError, match="need a worker of Ray Train"):
        RayReport().on_train_begin()
    with pytest.raises(InputError, match="checkpoint_every"):
        RayReport(checkpoint_every=0)
    with pytest.raises(InputError, match="must be compiled and built"):
        restore(keras.Sequential([keras.layers.Dense(1)]))
