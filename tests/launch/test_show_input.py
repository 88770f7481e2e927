"""`python -m launch.show_input` as a person runs it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import programs


def _run(*flags):
    return programs.run("launch.show_input", *flags)


@pytest.fixture(scope="module")
def data_dir(digits_dir):
    return Path(digits_dir)


@pytest.mark.slow
def test_a_sheet_shows_training_images_and_is_the_same_again(data_dir, tmp_path):
    flags = [f"--data_dir={data_dir}", "--image_size=16", "--mixup_alpha=0.4", "--epoch=2"]
    flags += ["--augmentation=pad_crop", "--crop_padding=0.25", "--noflip"]
    pictures = []
    for name in ("one.png", "two.png"):
        done = _run(*flags, f"--output={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert f"32 images in {tmp_path / name}" in done.stdout
        pictures.append(np.asarray(Image.open(tmp_path / name)))
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].shape[1] > pictures[0].shape[0] > 500


def test_a_sheet_shows_validation_images_and_no_padding(data_dir, tmp_path):
    path = tmp_path / "sheet.png"
    flags = ["--split=validation", "--num_images=5", "--image_size=8", f"--output={path}"]
    done = _run(f"--data_dir={data_dir}", *flags)
    assert done.returncode == 0, done.stderr
    assert "5 images" in done.stdout
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    "program", ["launch.show_input", pytest.param("launch.measure_input", marks=pytest.mark.slow)]
)
def test_a_damaged_record_ends_either_program_with_its_name(program, data_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)
    for shard in data.glob("*-of-*"):
        content = bytearray(shard.read_bytes())
        content[40] ^= 0xFF
        shard.write_bytes(content)
    own = {
        "launch.show_input": ["--split=validation", f"--output={tmp_path / 'sheet.png'}"],
        "launch.measure_input": ["--seconds=60", "--global_batch_size=64"],
    }
    done = programs.run(program, f"--data_dir={data}", "--image_size=8", *own[program])
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "a record that does not match its checksum, in record" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output must be the PNG file to write"),
        (["--output=sheet.jpg"], "must be a .png file in an existing"),
        (["--output=/nowhere/sheet.png"], "in an existing folder"),
        (["--output={folder}/sheet.png"], "--data_dir must be a prepared folder"),
        (["--output={folder}/sheet.png", "--data_dir={data}", "--mixup_alpha=-1"], "mixup_alpha"),
        (
            ["--output={folder}/s.png", "--data_dir={data}", "--mixup_alpha=1", "--num_images=1"],
            "at least 2 examples",
        ),
        (["--num_images=0"], "--num_images must be from 1 to 256. Received: 0"),
        (["--num_images=257"], "--num_images must be from 1 to 256. Received: 257"),
        (["--epoch=-1"], "--epoch must be from 0 to"),
        ([f"--epoch={2**63}"], "--epoch must be from 0 to"),
        (["--split=test"], "--split must be train or validation. Received: 'test'"),
    ],
)
def test_wrong_flags_end_with_one_sentence_and_code_2(flags, message, data_dir, tmp_path):
    result = _run(*(flag.format(folder=tmp_path, data=data_dir) for flag in flags))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
