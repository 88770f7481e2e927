"""`--dry_run`: what it prints, which errors it finds, and that it leaves nothing behind."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys

import pytest

from launch.cli import dry_run, launcher
from tests.helpers import launcher_flags, programs
from tf_lars import planner, schedules
from tf_lars.cluster.spec import Cluster
from tf_lars.data.records.dataset_info import DatasetInfo, ShardInfo, SplitInfo
from tf_lars.data.records.tfrecord import masked_crc32c
from tf_lars.errors import InputError
from tf_lars.schedule_formulas import SCHEDULES

EXAMPLES = 40_960
NODES = Cluster(tuple(f"node{i}:2222" for i in range(4)), 2, "--worker_hosts")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Returns a data set of empty records, which a dry run counts but does not read."""
    folder = tmp_path_factory.mktemp("empty")
    length = struct.pack("<Q", 0)
    record = length + struct.pack("<I", masked_crc32c(length)) + bytes(4)
    splits = {}
    for split, count in (("train", EXAMPLES), ("validation", 50)):
        name = f"{split}-00000-of-00001"
        (folder / name).write_bytes(record * count)
        shard = ShardInfo(name, num_examples=count, num_bytes=len(record) * count, sha256="0" * 64)
        splits[split] = SplitInfo((shard,))
    classes = tuple(f"class {i}" for i in range(1000))
    DatasetInfo("empty", classes, classes, splits).save(folder)
    return str(folder)


@pytest.fixture
def show(data_dir, tmp_path, monkeypatch, capsys):
    """Returns a function that makes a dry run in its own folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, cluster=NODES, **more):
        default = [f"--data_dir={data_dir}", "--model_dir=run", "--global_batch_size=4096"]
        with launcher_flags.parsed("--dry_run", *default, *arguments):
            assert dry_run.wanted()
            launcher.describe_data()
            assert dry_run.show(launcher.chosen_settings()[0], cluster, **more) == 0
        return capsys.readouterr().out

    return run


def test_launch_local_prints_all_of_it_and_leaves_the_picture_only(short_run, tmp_path):
    done = programs.run(
        "launch.local",
        *short_run,
        "--dry_run",
        f"--dry_run_output={tmp_path / 'schedule.png'}",
        f"--model_dir={tmp_path / 'runs' / 'digits'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in (
        "dry run     nothing is started",
        "cluster     2 workers, from launch.local",
        "batch       512 = 2 workers x 1 device x 256 images",
        "data        digits: 1,437 training and 360 validation images, 10 classes",
        "steps       17 = 6 epochs x 2.81: 8,704 images",
        "optimizer   lars, rate 10 after 1 epochs of warm-up, then decay of power 2 to 0.0001",
        "the run starts afresh",
    ):
        assert line in done.stdout
    assert re.search(r"rank 1  127\.0\.0\.1:\d+\n", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


def test_it_needs_no_tensorflow(short_run, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "launch.local", *short_run]
        + ["--dry_run", "--dry_run_output=", f"--model_dir={tmp_path / 'run'}"],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        timeout=programs.SECONDS,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "launch.cli.dry_run" in imported
    assert not {"tensorflow", "keras", "matplotlib"} & imported
    assert not list(tmp_path.iterdir())


def test_workers_are_listed_by_rank_with_their_addresses(show):
    printed = show()
    assert "cluster     4 workers, from --worker_hosts\n" in printed
    listed = re.findall(r"rank (\d)  (\S+)(  this process)?\n", printed)
    assert listed == [
        (str(i), f"node{i}:2222", "  this process" if i == 2 else "") for i in range(4)
    ]
    assert "cluster     1 worker, this process (this machine alone)" in show(cluster=Cluster())


def test_workers_whose_addresses_are_not_known_yet_are_listed_too(show):
    printed = show(cluster=Cluster(("node0:2222", "", "", ""), 1, "torchrun"))
    assert "cluster     4 workers, from torchrun\n" in printed
    assert "rank 0  node0:2222\n" in printed
    assert "rank 1  registers its address at the start  this process\n" in printed


def test_of_a_large_cluster_the_first_the_own_and_the_last_are_listed(show):
    many = Cluster(tuple(f"node{i}:2222" for i in range(64)), 40, "Slurm")
    listed = [int(rank) for rank in re.findall(r"rank +(\d+) ", show(cluster=many))]
    assert listed == [*range(8), 40, 63]


def _product(printed):
    line = next(line for line in printed.splitlines() if line.startswith("batch"))
    whole, factors = line.removeprefix("batch").split("=")
    return int(whole.replace(",", "")), [
        int(f.split()[0].replace(",", "")) for f in factors.split(" x ")
    ]


@pytest.mark.parametrize(
    ("arguments", "factors"),
    [
        ([], [4, 1, 1024]),
        (["--devices_per_worker=8"], [4, 8, 128]),
        (["--devices_per_worker=8", "--micro_batch_size=32"], [4, 8, 4, 32]),
        (["--devices_per_worker=8", "--micro_batch_size=128"], [4, 8, 1, 128]),
        (["--devices_per_worker=8", "--micro_batch_size=auto"], [4, 8, 128]),
    ],
)
def test_the_batch_is_workers_times_devices_times_what_each_takes(arguments, factors, show):
    assert _product(show(*arguments)) == (4096, factors)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "over a device's 1,024 examples"),
        (["--micro_batch_size=32"], "over a micro-batch of 32 examples"),
        (["--micro_batch_size=auto"], "over a device's micro-batch, whose size is found by trial"),
        (["--sync_batch_norm"], "over the whole batch of 4,096 examples"),
        (["--batch_norm_group_size=256"], "groups of 256 examples"),
        (["--batch_norm_group_size=2048"], "groups of 2,048 examples, those of 2 of 4 devices"),
        (["--batch_norm_group_size=recipe"], "groups of 64 examples, as in the recipe"),
        (
            ["--batch_norm_group_size=recipe", "--sync_batch_norm"],
            "over the whole batch of 4,096 examples, instead of the recipe's groups of 64",
        ),
        (
            ["--batch_norm_group_size=recipe", "--fused_batch_norm"],
            "over a device's 1,024 examples, instead of the recipe's groups of 64",
        ),
        (
            ["--batch_norm_group_size=recipe", "--micro_batch_size=32"],
            "over a micro-batch of 32 examples, since this cluster cannot form the recipe's groups "
            "of 64: a group of batch normalisation must fit into a micro-batch",
        ),
        (
            ["--batch_norm_group_size=recipe", "--devices_per_worker=4"]
            + ["--global_batch_size=13056", "--jit_compile"],
            "groups of 204 examples, as in the recipe",
        ),
        (
            ["--batch_norm_group_size=recipe", "--devices_per_worker=32"]
            + ["--global_batch_size=13056", "--jit_compile"],
            "over a device's 102 examples, since this cluster cannot form the recipe's groups of "
            "204: groups of batch normalisation over several devices need each device's whole "
            "share in one pass, without XLA",
        ),
        (
            ["--batch_norm_group_size=recipe", "--model=resnet18"],
            "over a device's 1,024 examples; no group is published for this model and batch",
        ),
    ],
)
def test_it_tells_what_is_normalised_together(arguments, told, show):
    assert f"\nbatch norm  {told}\n" in show(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_norm_group_size=1000"], "a divisor of the global batch of 4,096"),
        (["--batch_norm_group_size=2048", "--micro_batch_size=auto"], "in one pass, without XLA"),
        (["--batch_norm_group_size=2048", "--jit_compile"], "Received: --jit_compile"),
        (["--batch_norm_group_size=2048", "--micro_batch_size=256"], "fit into a micro-batch"),
        (["--batch_norm_group_size=64", "--micro_batch_size=32"], "fit into a micro-batch"),
        (["--batch_norm_group_size=64", "--sync_batch_norm"], "--sync_batch_norm normalises the"),
        (["--batch_norm_group_size=2000", "--global_batch_size=6000"], "The nearest is 1,500"),
    ],
)
def test_groups_that_the_devices_cannot_form_are_refused(arguments, message, show):
    with pytest.raises(InputError, match=message):
        show(*arguments)


def test_a_flag_wins_over_the_devices_that_the_launcher_knows(show):
    assert _product(show(devices_per_worker=2))[1] == [4, 2, 512]
    assert _product(show("--devices_per_worker=4", devices_per_worker=2))[1] == [4, 4, 256]


def test_the_schedule_is_that_of_the_run(show):
    printed = show("--epochs=20", "--warmup_epochs=3", "--learning_rate=7", "--momentum=0.8")
    assert "steps       200 = 20 epochs x 10.00: 819,200 images" in printed
    assert "momentum 0.8, weight decay 5e-05, label smoothing 0.1" in printed
    rows = re.findall(r"^ +(\d+)  +([\d.]+)  +([\d.e-]+)  (\D.*|\d\d %)$", printed, re.MULTILINE)
    assert [(int(step), name) for step, _, _, name in rows] == [
        (0, "first step"),
        (30, "end of warm-up"),
        (50, "25 %"),
        (100, "50 %"),
        (150, "75 %"),
        (199, "last step"),
    ]
    schedule = schedules.create(
        "polynomial",
        peak_learning_rate=7,
        total_steps=200,
        warmup_steps=30,
        end_learning_rate=1e-4,
    )
    for step, epoch, rate, _ in rows:
        assert float(epoch) == pytest.approx(int(step) / 10, abs=0.01)
        assert float(rate) == pytest.approx(float(schedule(int(step))), rel=1e-4)


def test_the_phases_of_a_ramp_are_listed_and_the_schedule_counts_examples(show):
    printed = show(
        "--epochs=6",
        "--warmup_epochs=1",
        "--batch_size_schedule=0:2048,2:4096,4:8192,9:16384",
        "--batch_schedule_rate=linear",
    )
    assert "batch        2,048 = 4 workers x 1 device x 1 micro-batch x 512 images\n" in printed
    assert "             8,192 = 4 workers x 1 device x 4 micro-batches x 512 images\n" in printed
    rows = [line.split() for line in printed.splitlines()]
    first = next(i for i, row in enumerate(rows) if row[:1] == ["ramp"])
    assert rows[first + 1 : first + 5] == [
        ["1-2", "2,048", "40", "1", "1"],
        ["3-4", "4,096", "20", "2", "2"],
        ["5-6", "8,192", "10", "4", "4"],
        rows[first + 4],  # the phase after the last epoch is left out
    ]
    assert rows[first + 4][:2] == ["batch", "norm"]
    assert "steps       70 in 6 epochs" in printed
    assert ": 245,760 images" in printed
    found = re.findall(r"^ +(\d+)  +([\d.]+)  +([\d.e-]+)  (\D.*|\d\d %)$", printed, re.MULTILINE)
    schedule = schedules.create(
        "polynomial",
        peak_learning_rate=10,
        total_steps=120,
        warmup_steps=20,
        end_learning_rate=1e-4,
    )
    phases = [(0, 0, 2048), (40, 81_920, 4096), (60, 163_840, 8192)]
    ramped = schedules.Ramped(schedule, phases, 2048, "linear")
    assert [int(step) for step, *_ in found] == [0, 17, 20, 35, 52, 69]
    for step, _, rate, _ in found:
        assert float(rate) == pytest.approx(float(ramped(int(step))), rel=1e-4)
    assert [float(epoch) for _, epoch, *_ in found] == [0, 0.85, 1, 1.75, 3.2, 5.8]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 2])
def test_every_schedule_is_drawn(schedule, warmup, show, tmp_path):
    printed = show("--epochs=3", f"--schedule={schedule}", f"--warmup_epochs={warmup}")
    assert ("end of warm-up" in printed) == bool(warmup)
    assert "picture     schedule.png" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]


def test_a_known_model_is_described_and_another_is_not(show):
    known = "model       resnet50, 25,557,032 trainable parameters, 8.18 GFLOPs per image, forward"
    assert known in show()
    assert "resnet50, its size is counted when it is built, 160 px" in show("--image_size=160")


def test_what_a_run_starts_from_is_told(show):
    printed = show("--model=keras.applications/VGG16", "--initial_weights=imagenet", "--freeze=^b")
    assert "weights     of imagenet, for all layers that fit\n" in printed
    assert "frozen      layers and variables that match ^b\n" in printed
    # How many parameters are left to train is not known before the model is built.
    assert "resnet50, its size is counted when it is built" in show("--freeze=^stem")


def test_synthetic_data_needs_no_folder(show):
    printed = show("--data_dir=", "--data=synthetic", "--epochs=1", "--warmup_epochs=0")
    assert "1,281,167 training and 51,247 validation images, 1000 classes of noise" in printed
    assert "steps       313 = 1 epochs x 312.78" in printed
    assert "resnet50, 25,557,032 trainable parameters" in printed


def test_the_planned_time_is_the_planners(show):
    printed = show("--accelerator=A100-SXM", "--devices_per_worker=8", "--epochs=40")
    planned = planner.predict(
        accelerator="A100-SXM",
        devices=32,
        global_batch_size=4096,
        epochs=40,
        num_examples=EXAMPLES,
    )
    assert "min, with two chances in three between" in printed or " s, with two" in printed
    assert "on 32 x A100-SXM" in printed
    assert f"the input must give {planned.images_per_second:,.0f} images/s" in printed
    assert "on 4 x TPUv4" in show(accelerator="TPUv4")


def test_memory_is_judged_by_the_images_that_are_in_it_at_once(show):
    note = "images per device may not fit into the memory"
    assert note in show("--accelerator=A100-SXM")
    for size in ("64", "auto"):
        assert note not in show("--accelerator=A100-SXM", f"--micro_batch_size={size}")


def test_without_a_known_device_it_says_how_to_get_the_time(show):
    printed = show()
    assert "time        unknown for these devices: --accelerator=NAME" in printed
    assert "--calibrate=RUN,RUN" in printed
    small = show("--model=small_resnet14", "--image_size=32", "--accelerator=A100-SXM")
    assert "unknown for small_resnet14 at 32 px, which the planner does not know" in small


def _finished_run(folder, workers):
    folder.mkdir()
    results = {
        "model": "small_resnet14",
        "image_size": 32,
        "images_per_second": 500.0 * workers,
        "device": "CPU",
        "replicas": workers,
        "global_batch_size": 256,
        "forward_flops": 1e7,
        "parameters": 175_000,
        "cores_per_replica": 1,
        "num_hosts": 1,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def test_runs_of_ones_own_give_the_time_of_any_model(show, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = ",".join(_finished_run(folder / str(workers), workers) for workers in (1, 2))
    model = ["--model=small_resnet14", "--image_size=32", "--epochs=10"]
    printed = show(*model, f"--calibrate={runs}")
    assert "on 4 x CPU" in printed
    assert "note        calibrated with 2 runs" in printed


@pytest.fixture
def eight_a100(tmp_path_factory, monkeypatch):
    """Installs an nvidia-smi that lists 8 GPUs."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "nvidia-smi"
    lines = "".join(f"NVIDIA A100-SXM4-80GB, GPU-{i}abc\\n" for i in range(8))
    program.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_the_gpus_of_this_machine_are_counted_and_planned_with(eight_a100, show, monkeypatch):
    printed = show()
    assert _product(printed)[1] == [4, 8, 128]
    assert "on 32 x A100-SXM" in printed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert _product(show())[1] == [4, 2, 512]


def test_checkpoints_that_the_run_would_find_are_told(show, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000019").mkdir(parents=True)
    assert "resumes from step-00000019 if it is complete" in show()
    assert "moves the checkpoints up to step-00000019 aside" in show("--resume=never")
    assert "resumes from step-00000019" in show("--resume=must")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--global_batch_size=4095"], "multiple of the number of replicas"),
        (["--devices_per_worker=3"], "global_batch_size=4096 on 12 replicas"),
        (["--devices_per_worker=0"], "--devices_per_worker must be from 1 to"),
        (["--evaluation_batch_size=100", "--devices_per_worker=8"], "=100 on 32 replicas"),
        (["--micro_batch_size=100"], "must divide the 1024 examples"),
        (["--model=nonsense"], "The model must be one of"),
        (["--data_dir=/nowhere"], "'/nowhere'"),
        (["--model_dir=a_file"], "--model_dir must be a folder .*'a_file/?' .Not a directory"),
        (["--model_dir=a_file/run"], "--model_dir must be a folder"),
        (["--accelerator=A100"], "The accelerator must be one of"),
        (["--resume=must"], "--resume=must needs a checkpoint"),
        (["--extend"], "--extend needs a finished run"),
        (["--data=synthetic"], "A run has one source of images"),
        (["--data_dir=", "--data=real"], "--data must be synthetic, synthetic:IMAGES or"),
        (["--initial_weights=a_file"], "'a_file', which is no such file"),
        (["--initial_weights=nowhere"], "'nowhere', which does not exist"),
        (["--initial_weights=imagenet"], "imagenet is for keras.applications/NAME"),
        (["--freeze=("], "--freeze must be a regular expression"),
        (["--calibrate=nowhere"], "'nowhere.*folders of finished runs"),
        (["--dry_run_output=nowhere/schedule.png"], "--dry_run_output must be a .png file"),
    ],
)
def test_what_would_end_the_run_ends_the_dry_run_too(arguments, message, show, tmp_path):
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match=message):
        show(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_bad_input_is_one_sentence_and_exit_code_2(short_run, tmp_path):
    refused = programs.run(
        "launch.local",
        *short_run,
        "--dry_run",
        "--global_batch_size=511",
        f"--model_dir={tmp_path}",
    )
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.strip().splitlines()) == 1


def test_data_without_a_description_is_refused_and_left_as_it_is(data_dir, show, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undescribed") / "data"
    shutil.copytree(data_dir, folder)
    (folder / "dataset.json").unlink()
    for arguments in ([], ["--recipe=auto"]):
        with pytest.raises(InputError, match=r"A dry run needs the dataset\.json"):
            show(f"--data_dir={folder}", *arguments)
    assert not (folder / "dataset.json").exists()
