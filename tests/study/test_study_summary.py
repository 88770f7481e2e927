"""The results of a study as text and as a picture."""

import pytest

from tests.helpers.study_cases import STUDY, changed, finished
from tf_lars.study import result_table, study_picture
from tf_lars.study.result_table import Accuracy


def test_an_accuracy_is_the_mean_and_the_range_over_seeds():
    one = Accuracy((0.5, 0.7, 0.9))
    assert (one.low, one.high) == (0.5, 0.9)
    assert one.mean == pytest.approx(0.7)
    assert str(one) == "70.0% (50.0% to 90.0%), 3 seeds"
    assert str(Accuracy((0.5,))) == "50.0%, 1 seed"


def test_a_plateau_reaches_as_far_as_rates_are_within_a_point_of_the_best():
    accuracies = {
        rate: Accuracy((value,))
        for rate, value in {1: 0.97, 2: 0.985, 4: 0.99, 8: 0.981, 16: 0.9, 32: 0.985}.items()
    }
    assert result_table.plateau(accuracies) == (2, 8)


def test_a_table_has_a_line_for_each_batch_and_optimizer():
    table = result_table.table(STUDY, finished(lars=0.98, sgd=0.1))
    lines = [line.split() for line in table.splitlines()]
    assert "baseline: sgd, batch 32, rate 0.1: 10.0% (10.0% to 10.0%), 3 seeds" in table
    for batch in ("64", "256"):
        assert any(line[:2] == [batch, "lars"] and "98.0%" in line for line in lines)
        assert any(line[:2] == [batch, "sgd"] and "10.0%" in line for line in lines)
    assert "256, rate 0.8, 2 epochs of warm-up: 10.0%" in table


def test_a_table_of_nothing_says_so():
    assert "not run" in result_table.table(STUDY, {})


@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_a_picture_is_drawn_of_as_much_as_has_run(tmp_path, share):
    results = finished(lars=0.98)
    some = dict(list(results.items())[: max(1, int(share * len(results)))])
    study_picture.draw(STUDY, some, str(tmp_path / "study.png"), "a study")
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_a_picture_of_one_optimizer_needs_no_other(tmp_path):
    study = changed(optimizers=("lars",), other_augmentation="")
    study_picture.draw(study, finished(study), str(tmp_path / "study.png"), "a study")
    assert (tmp_path / "study.png").stat().st_size > 10_000
