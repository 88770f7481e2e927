"""Steps that run as one program of the replicas, as on TPUs, compared with two programs."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.errors import InputError
from tf_lars.training.step import TrainingStep


def _trainer(strategy, in_one_program):
    trainer = training_cases.trainer(strategy, training_cases.plain_model, steps_per_loop=3)
    trainer._now.step = trainer._now.loop._step = TrainingStep(
        trainer.model, trainer.strategy, trainer._unpack, in_one_program=in_one_program
    )
    return trainer


def test_one_program_takes_the_same_steps(mirrored):
    x, y = training_cases.images(160)
    data = ArrayTrainingInput(x, y, training_cases.BATCH)
    trained = [_trainer(mirrored, in_one_program) for in_one_program in (False, True)]
    histories = [trainer.fit(data, epochs=2) for trainer in trained]
    assert histories[0][-1]["loss"] == pytest.approx(histories[1][-1]["loss"], rel=1e-6)
    for one, other in zip(*(trainer.model.weights for trainer in trained), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_bad_step_in_one_program_ends_the_run():
    x, y = training_cases.images(160)
    x = x.astype(np.float32)
    x[3, 0, 0, 0] = np.inf
    trainer = _trainer(tf.distribute.get_strategy(), in_one_program=True)
    with pytest.raises(InputError, match=r"in 1 step, from step .* first in the input"):
        trainer.fit(ArrayTrainingInput(x, y, training_cases.BATCH), epochs=1)


class _InOrder(ArrayTrainingInput):
    """Examples in their original order."""

    def dataset(self, context, first_step, last_step):
        share = self.global_batch_size // context.num_replicas_in_sync
        return tf.data.Dataset.from_tensor_slices((self.x, self.y)).batch(share, True)


@pytest.mark.parametrize("micro_batch_size", [None, 8])
@pytest.mark.slow
def test_a_skipped_step_leaves_no_trace(mirrored, micro_batch_size):
    x, y = training_cases.images(320)
    x = x.astype(np.float32)
    x[-5] = np.inf
    trained = []
    for examples in (
        320,
        320 - training_cases.BATCH,
    ):  # with the bad batch, which is last, and without it
        trainer = training_cases.trainer(
            mirrored,
            lambda: training_cases.small_resnet(),
            micro_batch_size=micro_batch_size,
            steps_per_loop=3,
        )
        data = _InOrder(x[:examples], y[:examples], training_cases.BATCH)
        (history,) = trainer.fit(data, epochs=1)
        trained.append(training_cases.weights(trainer.model))
        assert history["skipped_steps"] == (examples == 320)
    for name, value in trained[1].items():
        np.testing.assert_array_equal(trained[0][name], value, err_msg=name)
