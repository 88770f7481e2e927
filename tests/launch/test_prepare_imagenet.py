import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.prepare.test_describe import write_gcs
from tests.helpers import programs
from tests.helpers.image_files import exif_block, with_exif
from tf_lars.data.records.dataset_info import DatasetInfo


def run(*flags):
    return programs.run("launch.prepare_imagenet", *flags)


def table(output):
    """Returns the last lines of the output as lists of words."""
    return [line.split() for line in output.splitlines()[-3:]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An image folder, the output folder, and the finished process."""
    images = tmp_path_factory.mktemp("images")
    output_dir = tmp_path_factory.mktemp("data") / "new" / "out"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (images / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = np.full((16, 16, 3), 40 * number, np.uint8)
                Image.fromarray(pixels).save(images / split / name / f"{number}.jpg")
    Image.fromarray(pixels).save(images / "train" / "cat" / "4.png")
    photo = images / "train" / "dog" / "2.jpg"
    photo.write_bytes(with_exif(photo.read_bytes(), exif_block(6)))
    (images / "val" / "dog" / "bad.jpg").write_bytes(b"bad")
    result = run(
        f"--input_dir={images}",
        f"--output_dir={output_dir}",
        "--train_shards=2",
        "--max_bad_images=1",
        "--num_processes=1",
    )
    return images, output_dir, result


def test_a_folder_is_prepared_and_counted_in_a_table(folders):
    _, output_dir, result = folders
    assert result.returncode == 0, result.stderr
    info = DatasetInfo.load(output_dir)
    assert info.class_names == ("cat", "dog")
    header, train, validation = table(result.stdout)
    assert header[:4] == ["split", "examples", "shards", "MB"]
    assert header[4:] == ["re-encoded", "resized", "oriented", "refused"]
    assert train == ["train", "7", "2", "0.0", "1", "0", "1", "0"]
    assert validation == ["validation", "6", "1", "0.0", "0", "0", "0", "1"]


def test_verify_passes_a_sound_folder_and_names_a_damaged_shard(folders, tmp_path):
    _, output_dir, _ = folders
    assert run("--verify", f"--output_dir={output_dir}").returncode == 0
    for path in output_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "train-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    result = run("--verify", f"--output_dir={tmp_path}")
    assert result.returncode == 2
    assert shard.name in result.stderr


def test_the_digits_are_prepared_without_an_input(tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn (extra `demo`)")
    result = run("--dataset=digits", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert [row[:3] for row in table(result.stdout)[1:]] == [
        ["train", "1,437", "1"],
        ["validation", "360", "1"],
    ]


def test_shards_of_another_program_are_described_where_they_are(tmp_path):
    folder = write_gcs(tmp_path)
    result = run(f"--describe={folder}", "--label_base=0", "--num_classes=5")
    assert result.returncode == 0, result.stderr
    assert "5 classes" in result.stdout
    assert "labels from 0 to 4" in result.stdout
    assert DatasetInfo.load(folder).label_base == 0


def test_help_needs_no_tensorflow():
    program = (
        "import sys\nfrom launch import prepare_imagenet\nprepare_imagenet.define()\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=programs.ROOT, check=True)
    shown = run("--help").stdout
    for heading in ("Source, exactly one of these:", "Output:", "Encoding:"):
        assert heading in shown
    assert "--input_dir" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--verify"], "--output_dir is required"),
        (["--output_dir=out"], "Exactly one of --input_dir, --dataset, --describe, --verify"),
        (["--describe=in", "--output_dir=out"], "--output_dir goes with --input_dir or --dataset"),
        (["--describe=no_such_folder"], "which is not a folder"),
        (["--verify", "--output_dir=out", "--label_base=1"], "goes with --describe only"),
        (["--output_dir=out", "--input_dir=in", "--verify"], "--input_dir and --verify"),
        (["--output_dir=out", "--verify", "--train_shards=2"], "goes with --input_dir only"),
        (["--output_dir=out", "--input_dir=no_such_folder"], "which is not a folder"),
        (["--output_dir=no_such_folder", "--verify"], "data folder must exist"),
        (["--output_dir=out", "--dataset=digits", "--jpeg_quality=90"], "with --dataset"),
        (["--output_dir=out", "--dataset=cifar"], "must be digits. Received: 'cifar'"),
        (["--train_shards=0"], "--train_shards must be from 1 to"),
        (["--validation_shards=-1"], "--validation_shards must be from 1 to"),
        (["--max_bad_images=-1"], "--max_bad_images must be from 0 to"),
        (["--short_side=0"], "--short_side must be from 1 to"),
        (["--jpeg_quality=101"], "--jpeg_quality must be from 1 to 100. Received: 101"),
        (["--exif=turn"], "--exif must be apply or ignore. Received: 'turn'"),
        (["--max_image_pixels=0"], "--max_image_pixels must be from 1 to 178,956,970. Received: 0"),
        (["--label_base=2"], "--label_base must be 0 or 1. Received: 2"),
        (["--num_classes=0"], "--num_classes must be from 1 to"),
        (["--num_processes=two"], "--num_processes"),
        (["--no_such_flag"], "no_such_flag"),
        (["out"], "'out'"),
    ],
)
def test_wrong_flags_end_with_one_sentence_and_code_2(flags, message):
    result = run(*flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not (programs.ROOT / "out").exists()
