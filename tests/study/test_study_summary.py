"""The results of a study as tables and as pictures."""

import dataclasses

import pytest

from tests.helpers.study_cases import STUDY, changed, finished, result
from tf_lars.study import result_table, study_picture, trials
from tf_lars.study.result_table import Accuracy
from tf_lars.study.trials import Cell


def test_an_accuracy_is_the_mean_and_the_range_over_seeds():
    one = Accuracy({0: 0.5, 1: 0.7, 2: 0.9})
    assert one.mean == pytest.approx(0.7)
    assert str(one) == "70.0 (50.0 to 90.0)"
    assert str(Accuracy({0: 0.5})) == "50.0"


def test_a_plateau_ends_where_accuracy_falls_below_the_best_by_the_points():
    accuracies = {0.1: 0.2, 1.0: 0.98, 10.0: 0.99, 100.0: 0.97, 1000.0: 0.9}
    one = result_table.plateau(accuracies, 1)
    assert (one.low, one.high) == pytest.approx((1.0, 10 * 10**0.5))
    assert one.decades == pytest.approx(1.5)
    assert not one.is_open
    wide = result_table.plateau(accuracies, 10)
    assert wide.high == 1000
    assert wide.is_open
    assert str(wide).startswith("at least 3.1")


def test_a_plateau_does_not_resume_behind_a_gap():
    one = result_table.plateau({1: 0.99, 2: 0.5, 4: 0.99, 8: 0.985}, 1)
    assert one.high < 2
    assert one.is_open  # at its lower end


def _cells(table):
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def test_tables_compare_every_optimizer_with_lars_at_the_same_batch_and_epochs():
    accuracies, rates, augmentations = result_table.tables(STUDY, finished(lars=0.98, sgd=0.4), 1.0)
    rows = _cells(accuracies)
    assert [(r["batch"], r["epochs"], r["optimizer"]) for r in rows] == [
        ("32", "10", "SGD"),
        ("64", "10", "LARS"),
        ("64", "10", "SGD"),
        ("256", "10", "LARS"),
        ("256", "10", "SGD"),
        ("64", "20", "LARS"),
        ("64", "20", "SGD"),
    ]
    assert "the target is 39.0 %" in accuracies.title
    main = rows[4]
    assert main["accuracy"] == "40.0 (40.0 to 40.0)"
    assert main["LARS minus it, paired by seed"].startswith("+58.0 points (+58.0 to +58.0), p = ")
    assert main["seeds"] == "3"
    assert rows[3]["LARS minus it, paired by seed"] == ""
    assert (main["steps to target"], main["epochs to target"]) == ("10", "10")
    assert {r["batch"] for r in _cells(rates)} == {"64", "256"}
    assert [r["difference"][:11] for r in _cells(augmentations)] == ["+0.0 points"] * 3
    assert "SGD" in str(accuracies)


def test_a_target_that_some_seeds_miss_has_no_median():
    results = finished(sgd=0.4)
    main = Cell("sgd", 256, 10)
    resolved = [trials.resolve(STUDY, results, t) for t in trials.chosen(STUDY, main)]
    results[resolved[1]] = result(resolved[1], test=0.3)
    rows = _cells(result_table.tables(STUDY, results, 1.0)[0])
    (row,) = (r for r in rows if (r["batch"], r["optimizer"]) == ("256", "SGD"))
    assert row["steps to target"] == "1 of 3 seeds never"


def test_what_several_hyperparameters_chose_is_named_and_has_no_plateau():
    study = changed(tune=("learning_rate", "weight_decay"))
    found = result_table.tables(study, finished(study), 1.0)
    assert len(found) == 2
    words = _cells(found[0])[0]["hyperparameters"]
    assert words.startswith("rate ")
    assert ", decay " in words


def test_tables_of_nothing_are_left_out():
    assert result_table.tables(STUDY, {}, 1.0) == []


@pytest.mark.parametrize("share", [0.02, 0.4, 1.0])
def test_pictures_are_drawn_of_as_much_as_has_run(tmp_path, share):
    results = finished(lars=0.98)
    some = dict(list(results.items())[: max(1, int(share * len(results)))])
    paths = study_picture.draw(STUDY, some, str(tmp_path / "study"), "a study", 1.0)
    names = ["study_batch.png", "study_rates.png", "study_augmentation.png"]
    assert paths == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def test_pictures_of_one_optimizer_need_no_other(tmp_path):
    study = dataclasses.replace(
        STUDY, optimizers=("lars",), other_augmentation="", equal_steps_batch_sizes=()
    )
    paths = study_picture.draw(study, finished(study), str(tmp_path / "study"), "a study", 1.0)
    assert len(paths) == 2
