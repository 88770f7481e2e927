"""The trials of a study, their order, and the choice of hyperparameters."""

import collections
import dataclasses
import math

import pytest

from tests.helpers.study_cases import STUDY, changed, finished, result
from tf_lars.defaults import STUDY_OPTIMIZERS
from tf_lars.errors import InputError
from tf_lars.study import trials
from tf_lars.study.trials import Cell

LARS_64 = Cell("lars", 64, 10)


def test_every_optimizer_and_batch_gets_the_same_number_of_tuning_trials():
    study = changed(optimizers=STUDY_OPTIMIZERS, tuning_trials=5)
    tried = collections.defaultdict(set)
    for trial in trials.trials(study):
        if trial.point:
            tried[trials.tuned_cell(STUDY, trial)].add(trial.point)
    assert set(tried) == {study.baseline, *study.cells, *study.equal_steps_cells}
    assert {len(points) for points in tried.values()} == {5}


def test_a_small_batch_among_the_batches_is_tuned_once():
    study = changed(batch_sizes=(32, 256))
    listed = trials.trials(study)
    tuned = [t for t in listed if trials.tuned_cell(STUDY, t) == study.baseline and t.point]
    assert len(tuned) == study.tuning_trials
    assert study.seeds_of(study.baseline) == study.seeds


def test_no_trial_of_a_study_runs_twice():
    results = finished()
    assert not trials.remaining(STUDY, results)
    # Exactly the listed trials have run.
    named = {trials.resolve(STUDY, results, trial) for trial in trials.trials(STUDY)}
    assert named == set(results)


def test_what_tells_most_comes_first():
    listed = trials.trials(STUDY)
    assert listed[0] == trials.tuning(STUDY, STUDY.baseline)[0]
    main = Cell("sgd", 256, 10)
    last_of_main = max(map(listed.index, trials.chosen(STUDY, main)))
    assert last_of_main < listed.index(trials.tuning(STUDY, Cell("lars", 64, 10))[0])
    assert listed[-1].epochs == 20


def test_what_tuning_chooses_comes_after_it():
    listed = trials.trials(STUDY)
    for trial in listed:
        if trial.point is None:
            tuning = trials.tuning(STUDY, trials.tuned_cell(STUDY, trial))
            assert max(map(listed.index, tuning)) < listed.index(trial)


def test_the_main_batch_and_the_baseline_have_all_seeds_and_the_others_a_few():
    results = finished()
    for cell, seeds in ((Cell("lars", 256, 10), 3), (STUDY.baseline, 3), (LARS_64, 2)):
        chosen = trials.chosen(STUDY, cell, STUDY.seeds)
        done = [trials.resolve(STUDY, results, trial) in results for trial in chosen]
        assert sum(done) == seeds


def test_equal_steps_scale_epochs_and_warm_up_with_the_batch():
    cells = STUDY.equal_steps_cells
    assert cells == [Cell("lars", 64, 20), Cell("sgd", 64, 20)]
    assert STUDY.trial(cells[0], None, 0).warmup_epochs == 2.0


def test_the_other_augmentation_is_compared_at_the_baseline_and_the_main_batch():
    listed = [t for t in trials.trials(STUDY) if t.augmentation == "pad_crop"]
    assert {(t.optimizer, t.global_batch_size) for t in listed} == {
        ("sgd", 32),
        ("sgd", 256),
        ("lars", 256),
    }
    assert {t.seed for t in listed} == {0, 1}
    assert {t.augmentation for t in trials.trials(changed(other_augmentation=""))} == {"none"}


def test_augmentations_may_be_compared_after_more_epochs_at_the_rates_of_the_tuning():
    longer = changed(augmentation_epochs_factor=3.0)
    listed = [t for t in trials.trials(longer) if t.epochs == 30]
    assert [(t.augmentation, t.seed) for t in listed[:4]] == [
        ("none", 0),
        ("pad_crop", 0),
        ("none", 0),
        ("pad_crop", 0),
    ]
    assert len(listed) == 3 * 2 * 2
    assert {t.warmup_epochs for t in listed} == {3.0}
    results = finished(longer)
    points = {
        (t.optimizer, t.global_batch_size): t.point for t in results if t.epochs == 10 and t.seed
    }
    assert all(
        t.point == points[t.optimizer, t.global_batch_size] for t in results if t.epochs == 30
    )


def test_the_held_out_examples_choose_and_the_test_set_has_no_say():
    tuning = trials.tuning(STUDY, LARS_64)
    results = {t: result(t, held_out=0.8, test=1.0) for t in tuning}
    results[tuning[2]] = result(tuning[2], held_out=0.9, test=0.1)
    assert trials.chosen_point(STUDY, results, LARS_64) == tuning[2].point


def test_equal_accuracies_are_told_apart_by_the_held_out_loss():
    tuning = trials.tuning(STUDY, LARS_64)
    results = {t: result(t, loss=0.2) for t in tuning}
    results[tuning[1]] = result(tuning[1], loss=0.1)
    assert trials.chosen_point(STUDY, results, LARS_64) == tuning[1].point
    results[tuning[1]] = result(tuning[1], loss=math.nan)
    assert trials.chosen_point(STUDY, results, LARS_64) == tuning[0].point


def test_seeds_beyond_those_of_the_tuning_do_not_change_the_choice():
    tuning = trials.tuning(STUDY, LARS_64)
    results = {t: result(t, held_out=0.8) for t in tuning}
    results[tuning[0]] = result(tuning[0], held_out=0.9)
    more = dataclasses.replace(tuning[1], seed=1)
    results[more] = result(more, held_out=1.0)
    assert trials.chosen_point(STUDY, results, LARS_64) == tuning[0].point


def test_nothing_is_chosen_before_all_points_have_run():
    first = trials.tuning(STUDY, LARS_64)[0]
    assert trials.chosen_point(STUDY, {first: result(first)}, LARS_64) is None
    unknown = trials.chosen(STUDY, LARS_64)[0]
    assert trials.resolve(STUDY, {first: result(first)}, unknown) is None


def test_the_linear_rule_scales_what_tuning_chose_for_the_baseline():
    assert trials.linear_rule(STUDY, {}, 256) is None
    results = finished()
    chosen = trials.chosen_point(STUDY, results, STUDY.baseline)
    rule = trials.linear_rule(STUDY, results, 256)
    assert rule == pytest.approx(8 * chosen.learning_rate)


def test_a_target_is_reached_at_the_first_evaluation_that_is_as_good():
    trial = trials.tuning(STUDY, LARS_64)[0]
    one = result(trial, test=0.9, curve=((2, 0.5), (4, 0.8), (6, 0.7)))
    assert one.epochs_to(0.8) == 4
    assert one.epochs_to(0.85) == 10
    assert one.epochs_to(0.95) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_sizes": ()}, "--batch_sizes must be at least one"),
        ({"batch_sizes": (0,)}, "--batch_sizes must be from 1 to"),
        ({"optimizers": ("adam",)}, "--optimizers must be of lars, sgd, nesterov, lamb"),
        ({"tune": ("rate",)}, "--tune must be of learning_rate, momentum, weight_decay"),
        ({"tune": ("momentum",)}, "--tune must be learning_rate at least"),
        ({"learning_rate_ranges": ("lars:5",)}, "OPTIMIZER:LOWEST:HIGHEST"),
        ({"learning_rate_ranges": ("adam:1:5",)}, "Received: 'adam:1:5'"),
        ({"learning_rate_ranges": ("sgd:5:1",)}, "Received: 'sgd:5:1'"),
        ({"seeds": ()}, "--seeds must be at least one"),
        ({"seeds": (-1, 0)}, "--seeds must be at least 0"),
        ({"few_seeds": 4}, "--few_seeds must be from 1 to 3"),
        ({"tuning_seeds": 3}, "--tuning_seeds must be from 1 to 2"),
        ({"warmup_epochs": 11.0}, "--epochs must be at least the warm-up, 11"),
    ],
)
def test_a_study_that_cannot_be_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        changed(**values)
