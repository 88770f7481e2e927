"""A study continues from its own file, and refuses others."""

import pytest

from tests.helpers.study_cases import STUDY, finished, result
from tf_lars.errors import InputError
from tf_lars.study import trials
from tf_lars.study.result_log import ResultLog

SETTINGS = {"model": "small_resnet8", "epochs": 3, "data": "0123"}


def _written(folder, count=3):
    log = ResultLog(folder / "study.csv", SETTINGS)
    for one in list(finished().values())[:count]:
        log.add(one)
    return log


def test_results_read_are_those_written(tmp_path):
    log = _written(tmp_path, count=100)
    again = ResultLog(tmp_path / "study.csv", SETTINGS)
    assert again.results == log.results
    assert not trials.remaining(STUDY, again.results)


def test_every_result_is_in_the_file_at_once(tmp_path):
    log = ResultLog(tmp_path / "study.csv", SETTINGS)
    for number, one in enumerate(list(finished().values())[:3], start=1):
        log.add(one)
        assert len((tmp_path / "study.csv").read_text().splitlines()) == 1 + number


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_cut_short_is_run_again_and_written_whole(tmp_path, cut):
    log = _written(tmp_path)
    whole = (tmp_path / "study.csv").read_bytes()
    (tmp_path / "study.csv").write_bytes(whole[:-cut])
    again = ResultLog(tmp_path / "study.csv", SETTINGS)
    assert list(again.results) == list(log.results)[:2]
    again.add(list(log.results.values())[2])
    assert (tmp_path / "study.csv").read_bytes() == whole


def test_a_header_cut_short_is_written_again(tmp_path):
    log = _written(tmp_path, count=1)
    whole = (tmp_path / "study.csv").read_bytes()
    (tmp_path / "study.csv").write_bytes(whole[:10])
    again = ResultLog(tmp_path / "study.csv", SETTINGS)
    again.add(next(iter(log.results.values())))
    assert (tmp_path / "study.csv").read_bytes() == whole


def test_other_settings_do_not_go_on_from_a_file(tmp_path):
    _written(tmp_path)
    before = (tmp_path / "study.csv").read_bytes()
    with pytest.raises(InputError, match=r"epochs=3 \(now 4\)"):
        ResultLog(tmp_path / "study.csv", SETTINGS | {"epochs": 4})
    assert (tmp_path / "study.csv").read_bytes() == before


def test_results_without_their_settings_are_refused(tmp_path):
    _written(tmp_path)
    (tmp_path / "study.settings.json").unlink()
    with pytest.raises(InputError, match="without"):
        ResultLog(tmp_path / "study.csv", SETTINGS)


def test_a_file_of_something_else_is_refused_with_its_line(tmp_path):
    _written(tmp_path)
    (tmp_path / "study.csv").write_text("optimizer,seed\nlars,0\n")
    with pytest.raises(InputError, match="line 2"):
        ResultLog(tmp_path / "study.csv", SETTINGS)


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(InputError, match="file that can be written"):
        ResultLog("/proc/nowhere/study.csv", SETTINGS)


def test_a_diverged_trial_is_read_as_one(tmp_path):
    trial = trials.tuning(STUDY, STUDY.baseline)[0]
    log = ResultLog(tmp_path / "study.csv", SETTINGS)
    diverged = trials.Result(
        trial, 10, True, float("nan"), 0.1, float("nan"), 0.1, float("nan"), 1.0, ()
    )
    log.add(diverged)
    again = ResultLog(tmp_path / "study.csv", SETTINGS).results[trial]
    assert again.diverged
    assert again.curve == ()
    assert again.test_top1 == result(trial, test=0.1).test_top1
