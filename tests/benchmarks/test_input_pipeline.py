"""A small run of the benchmark, with the installed libraries."""

import csv
import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import input_peers as peers
from benchmarks import input_pipeline, interleaved

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the benchmark pins its processes (Linux)"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos in class folders, one of them with a short side above 256."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(90, 60), (400, 300)]):
        path = folder / f"class{number}" / f"{number}.jpg"
        path.parent.mkdir()
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.exhaustive
def test_a_run_measures_what_is_installed_and_names_what_is_not(photos, tmp_path):
    names = [peers.OURS, peers.OURS_SMALL, peers.DALI]
    command = [sys.executable, "-m", "benchmarks.input_pipeline", f"--images={photos}"]
    command += [f"--output_dir={tmp_path}", f"--contenders={','.join(names)}"]
    command += ["--records=4", "--batch_size=2", "--batches=2", "--rounds=2", "--cores=1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with (tmp_path / "input_pipeline.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = {(row["mode"], row["pipeline"]) for row in rows}
    for mode in ("train", "eval"):
        for name in names:
            skipped = f"{mode}, skipped: {name} (No module named" in run.stdout
            assert ((mode, name) in measured) != skipped
        assert {(mode, peers.OURS), (mode, peers.OURS_SMALL)} <= measured
    assert list(rows[0]) == [
        "mode",
        "pipeline",
        "cores",
        "cpu_ms_median",
        "cpu_ms_min",
        "images_per_cpu_s",
        "wall_images_per_s",
        "times_dali",
        "times_tf_models",
        "wall_speedup",
        "rounds",
    ]
    assert all(float(row["cpu_ms_median"]) > 0 and row["rounds"] == "2" for row in rows)
    assert (tmp_path / "input_pipeline.png").read_bytes().startswith(b"\x89PNG")
    assert "Python" in (tmp_path / "input_pipeline.txt").read_text()


@pytest.mark.exhaustive
def test_small_shards_have_the_short_side_256_and_quality_90(photos, tmp_path):
    import tensorflow as tf

    data = input_pipeline.prepare(photos, tmp_path, records=2)
    (shard,) = (tmp_path / "small_shards").glob("train-*")
    sides = []
    for record in tf.data.TFRecordDataset(str(shard)):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        shape = tf.io.extract_jpeg_shape(feature["image/encoded"].bytes_list.value[0])
        sides.append(min(shape.numpy()[:2]))
    assert sorted(sides) == [60, 256]
    assert set(data) == {"images", "shards", "small_shards"}


def test_the_table_compares_cpu_time_per_image_and_wall_time_on_more_cores():
    def turn(cpu, wall):
        return interleaved.Turn(images=100, cpu=cpu, wall=wall)

    rows = input_pipeline.table(
        "train",
        {
            (peers.OURS, 1): [turn(0.1, 0.1), turn(0.3, 0.3), turn(0.1, 0.1)],
            (peers.OURS, 2): [turn(0.1, 0.05)] * 3,
            (peers.DALI, 1): [turn(0.25, 0.25)] * 3,
        },
    )
    ours, dali, ours_on_two = rows
    assert (ours["pipeline"], ours["cores"], ours["cpu_ms_median"]) == (peers.OURS, 1, 1.0)
    assert (ours["images_per_cpu_s"], ours["times_dali"]) == (1000.0, 2.5)
    assert (dali["times_dali"], dali["times_tf_models"]) == (1.0, "")
    assert (ours_on_two["wall_speedup"], ours_on_two["times_dali"]) == (2.0, "")


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (3, 1000), (1, 1)])
def test_a_random_box_lies_within_the_image(width, height):
    for _ in range(50):
        left, top, w, h = peers.random_box(width, height)
        assert 0 <= left < left + w <= width
        assert 0 <= top < top + h <= height


def test_stopped_processes_end_with_their_caller():
    code = (
        "from benchmarks import interleaved, input_peers\n"
        "process = interleaved.Process(int, input_peers.Task('', '', '', True, 1))\n"
        "process.stop()\n"
        "print(process._process.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as caller:
        pid = int(caller.stdout.readline())
        pipe = os.pidfd_open(pid)
        caller.send_signal(signal.SIGKILL)
    assert select.select([pipe], [], [], 30)[0], "the stopped process still exists"
    os.close(pipe)
