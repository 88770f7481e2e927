"""Steps that are one program of the replicas, as on TPUs, beside those in two."""

import numpy as np
import pytest
import tensorflow as tf

from tests import training_cases as cases
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.errors import InputError
from tf_lars.training_step import TrainingStep


def _trainer(strategy, in_one_program):
    trainer = cases.trainer(strategy, cases.plain_model, steps_per_loop=3)
    trainer._step = TrainingStep(
        trainer.model, trainer.strategy, trainer._prepare_batch, in_one_program=in_one_program
    )
    return trainer


def test_one_program_takes_the_same_steps(mirrored):
    x, y = cases.images(160)
    data = ArrayTrainingInput(x, y, cases.BATCH)
    trained = [_trainer(mirrored, in_one_program) for in_one_program in (False, True)]
    histories = [trainer.fit(data, epochs=2) for trainer in trained]
    assert histories[0][-1]["loss"] == pytest.approx(histories[1][-1]["loss"], rel=1e-6)
    for one, other in zip(*(trainer.model.weights for trainer in trained), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_bad_step_in_one_program_ends_the_run():
    x, y = cases.images(160)
    x = x.astype(np.float32)
    x[3, 0, 0, 0] = np.inf
    trainer = _trainer(tf.distribute.get_strategy(), in_one_program=True)
    with pytest.raises(InputError, match="Gradients must be finite"):
        trainer.fit(ArrayTrainingInput(x, y, cases.BATCH), epochs=1)
