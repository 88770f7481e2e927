"""The trials of a study, their order, and the choice of learning rates."""

import dataclasses
import math

import pytest

from tests.helpers.study_cases import STUDY, changed, finished, result
from tf_lars.errors import InputError
from tf_lars.study import trials


def test_rates_follow_the_published_rules():
    assert STUDY.rule_learning_rate("sgd", 256) == pytest.approx(0.8)
    assert STUDY.rule_learning_rate("nesterov", 256) == pytest.approx(0.8)
    assert STUDY.rule_learning_rate("lars", 256) == pytest.approx(4.0)
    at_128 = STUDY.rule_learning_rate("lars", 128)
    assert at_128 == 2.828  # the square root of the batch, to four digits


def test_a_study_holds_every_cell_of_its_grid():
    listed = trials.trials(STUDY)
    for batch in STUDY.batch_sizes:
        for optimizer in STUDY.optimizers:
            for rate in STUDY.learning_rates(optimizer):
                assert STUDY.trial(optimizer, batch, rate, 0) in listed


def test_no_trial_of_a_study_runs_twice():
    results = finished()
    assert not trials.remaining(STUDY, results)
    # Exactly the listed trials have run.
    named = {trials.resolve(STUDY, results, trial) for trial in trials.trials(STUDY)}
    assert named == set(results)


def test_what_tells_most_comes_first():
    listed = trials.trials(STUDY)
    assert listed[0] == trials.baseline(STUDY, [0])[0]
    assert listed[1] == trials.rule(STUDY, "lars", 256, [0])[0]
    last_of_main = max(map(listed.index, trials.chosen(STUDY, "sgd", 256, STUDY.seeds)))
    assert last_of_main < listed.index(STUDY.trial("sgd", 64, 0.4, 0))


def test_what_a_grid_chooses_comes_after_it():
    listed = trials.trials(STUDY)
    for trial in listed:
        if trial.learning_rate is None:
            grid = trials.grid(STUDY, trial.optimizer, trial.global_batch_size, [0])
            assert max(map(listed.index, grid)) < listed.index(trial)


def test_the_main_batch_has_all_seeds_and_the_others_a_few():
    results = finished()
    for batch, seeds in ((256, 3), (64, 2)):
        rates = trials.chosen(STUDY, "lars", batch, STUDY.seeds)
        done = [trials.resolve(STUDY, results, trial) in results for trial in rates]
        assert sum(done) == seeds


def test_the_held_out_examples_choose_and_the_test_set_has_no_say():
    low, high = trials.grid(STUDY, "lars", 64, [0])
    results = {
        low: result(low, held_out=0.9, test=0.1),
        high: result(high, held_out=0.8, test=1.0),
    }
    assert trials.chosen_rate(STUDY, results, "lars", 64) == low.learning_rate


def test_equal_accuracies_are_told_apart_by_the_held_out_loss():
    low, high = trials.grid(STUDY, "lars", 64, [0])
    results = {low: result(low, loss=0.2), high: result(high, loss=0.1)}
    assert trials.chosen_rate(STUDY, results, "lars", 64) == high.learning_rate
    results[high] = result(high, loss=math.nan)
    assert trials.chosen_rate(STUDY, results, "lars", 64) == low.learning_rate


def test_seeds_beyond_the_grids_do_not_change_the_choice():
    results = {t: result(t, held_out=0.9) for t in trials.grid(STUDY, "lars", 64, [0])[:1]}
    results |= {t: result(t, held_out=0.8) for t in trials.grid(STUDY, "lars", 64, [0])[1:]}
    before = trials.chosen_rate(STUDY, results, "lars", 64)
    more = dataclasses.replace(trials.grid(STUDY, "lars", 64, [0])[1], seed=1)
    results[more] = result(more, held_out=1.0)
    assert trials.chosen_rate(STUDY, results, "lars", 64) == before


def test_nothing_is_chosen_before_the_grid_is_whole():
    first = trials.grid(STUDY, "lars", 64, [0])[0]
    assert trials.chosen_rate(STUDY, {first: result(first)}, "lars", 64) is None
    unknown = trials.chosen(STUDY, "lars", 64, [0])[0]
    assert trials.resolve(STUDY, {first: result(first)}, unknown) is None


def test_a_study_without_a_second_augmentation_has_one_only():
    listed = trials.trials(changed(other_augmentation=""))
    assert {trial.augmentation for trial in listed} == {"none"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_sizes": ()}, "--batch_sizes must be at least one"),
        ({"batch_sizes": (0,)}, "--batch_sizes must be from 1 to"),
        ({"optimizers": ("adam",)}, "--optimizers must be of lars, sgd, nesterov"),
        ({"lars_learning_rates": ()}, "--lars_learning_rates must be above 0"),
        ({"sgd_learning_rates": (-0.1,)}, "--sgd_learning_rates must be above 0"),
        ({"seeds": ()}, "--seeds must be at least one"),
        ({"seeds": (-1, 0)}, "--seeds must be at least 0"),
        ({"few_seeds": 4}, "--few_seeds must be from 1 to 3"),
        ({"grid_seeds": 3}, "--grid_seeds must be from 1 to 2"),
        ({"lars_learning_rate": 0.0}, "--lars_learning_rate must be above 0"),
    ],
)
def test_a_study_that_cannot_be_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        changed(**values)
