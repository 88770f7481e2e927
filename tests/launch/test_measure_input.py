"""launch.measure_input on real digits, and its conclusions."""

import re

import pytest

from tests.data.prepare.test_describe import write_gcs
from tests.helpers import programs
from tf_lars.data.prepare import digits
from tf_lars.data.throughput import InputRate, verdict


@pytest.mark.slow
def test_it_prints_rates_and_what_the_cores_could_feed(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `demo`)")
    digits.prepare(str(tmp_path))
    done = programs.run(
        "launch.measure_input",
        f"--data_dir={tmp_path}",
        "--image_size=8",
        "--seconds=0.5",
        "--devices_per_host=4",
    )
    assert done.returncode == 0, done.stderr
    for name in ("training", "evaluation"):
        (row,) = re.findall(rf"^{name} +([\d,]+) +([\d.]+) +([\d,]+) images/s$", done.stdout, re.M)
        rate, cpu_ms, feedable = (float(value.replace(",", "")) for value in row)
        assert rate > 0
        cores = int(re.search(r"(\d+) cores could feed", done.stdout)[1])
        assert feedable == pytest.approx(cores * 1000 / cpu_ms, rel=0.02)
    assert "each of 4 devices" in done.stdout


@pytest.mark.slow
def test_shards_of_another_program_are_described_when_they_are_first_read(tmp_path):
    folder = write_gcs(tmp_path)
    done = programs.run(
        "launch.measure_input",
        f"--data_dir={folder}",
        "--image_size=8",
        "--seconds=0.1",
        "--global_batch_size=4",
    )
    assert done.returncode == 0, done.stderr
    assert "reading the shards once" in done.stdout
    assert (tmp_path / "dataset.json").exists()


def test_without_a_folder_one_sentence_says_so():
    done = programs.run("launch.measure_input")
    assert done.returncode == 2
    assert "--data_dir must be a prepared folder" in done.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seconds=nan", "--seconds must be above 0 and at most 86,400. Received: nan"),
        ("--seconds=inf", "--seconds must be above 0 and at most 86,400. Received: inf"),
        ("--seconds=-1", "--seconds must be above 0 and at most 86,400. Received: -1.0"),
        ("--devices_per_host=0", "--devices_per_host must be from 1 to"),
        (
            "--device_images_per_second=nan",
            "--device_images_per_second must be above 0 and at most 1e+12. Received: nan",
        ),
        (
            "--device_images_per_second=0",
            "--device_images_per_second must be above 0 and at most 1e+12. Received: 0.0",
        ),
    ],
)
def test_wrong_flags_end_with_one_sentence_and_code_2(flag, message):
    done = programs.run("launch.measure_input", "--data_dir=data", flag)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_says_which_of_the_two_is_the_limit():
    rate = InputRate(images=1000, seconds=1.0, cpu_seconds=2.0, cores=16)
    assert rate.feedable == 8000
    assert "up to 1,000 images/s" in verdict(rate, 8, None)
    assert "the device, at 500, is the limit, and the input takes 50%" in verdict(rate, 8, 500)
    assert "the input is the limit, and feeds 50% of the 2,000" in verdict(rate, 8, 2000)
