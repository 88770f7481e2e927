"""`python -m launch.local` from the command line, in real processes, on the digits."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
import tensorflow as tf

from tests.helpers import programs, tensorboard_server
from tf_lars import planner
from tf_lars.tracking import metric_log

ROOT = programs.ROOT
LIMIT = programs.SECONDS


def _command(*flags):
    return programs.command("launch.local", *flags)


def _run(*flags, environment=None):
    return programs.run("launch.local", *flags, environment=environment)


def test_a_run_leaves_what_it_promises(finished):
    model_dir, printed = finished
    results = json.loads((model_dir / "results.json").read_text())
    assert results["eval_examples"] == 360
    assert (results["steps"], results["epochs"]) == (17, 6)
    assert results["global_batch_size"] == 512
    assert 0 <= results["top1"] <= results["top5"] <= 1
    assert results["images_per_second"] > 0
    run = planner.Measurement.load(str(model_dir))
    assert (run.accelerator, run.devices, run.shared_host) == ("CPU", 2, True)
    assert run.step_seconds == pytest.approx(512 / results["images_per_second"])
    assert 0 < run.cores <= (os.cpu_count() or 1) / 2
    for name in ("flags.txt", "report.html", "report.png", "logs/rank-0.log", "logs/rank-1.log"):
        assert (model_dir / name).stat().st_size > 0
    assert list((model_dir / "checkpoints").glob("step-*/state.json"))
    for line in ("epoch 6/6", "images/s", "ETA", "weights_sha256", "eval_examples"):
        assert line in printed


def test_both_workers_report_the_same_weights(finished):
    model_dir, _ = finished
    results = json.loads((model_dir / "results.json").read_text())
    for rank in (0, 1):
        log = (model_dir / "logs" / f"rank-{rank}.log").read_text()
        assert f"worker {rank}: weights_sha256 {results['weights_sha256']}" in log
    assert results["replica_weights_sha256"] == [results["weights_sha256"]] * 2


SCALARS = {
    *("loss", "top1", "top5", "learning_rate"),
    *("norms/gradient", "norms/weights", "norms/update_to_weight"),
    *(f"noise/{name}" for name in ("scale", "trace", "gradient_squared", "batch", "adascale_gain")),
    "throughput/images_per_second",
    "throughput/images_per_second_per_device",
    "throughput/input_wait",
    "throughput/slowest_step_seconds",
    "throughput/fastest_step_seconds",
}
MAPS = {"layers/trust_ratio_map", "layers/update_ratio_map"}


def _tags(ask, plugin):
    """Returns the tags that TensorBoard has for a plugin, by run."""
    return {run: set(tags) for run, tags in json.loads(ask(f"plugin/{plugin}/tags")).items()}


def _curve(ask, tag, run="train"):
    """Returns the steps and the values of a curve in TensorBoard."""
    points = json.loads(ask("plugin/scalars/scalars", run=run, tag=tag))
    return [step for _, step, _ in points], [value for _, _, value in points]


def _lines(model_dir):
    """Returns the lines of metrics.jsonl with scalars."""
    return [line for line in metric_log.read(str(model_dir / "metrics.jsonl")) if "epoch" in line]


def test_tensorboard_shows_everything_that_a_run_records(finished):
    model_dir, _ = finished
    results = json.loads((model_dir / "results.json").read_text())
    with tensorboard_server.serving(model_dir / "tensorboard") as ask:
        scalars = _tags(ask, "scalars")
        assert scalars["train"] >= SCALARS
        assert scalars["validation"] == {"loss", "top1", "top5"}
        assert _curve(ask, "top1", "validation")[0][-1] == 17
        assert _curve(ask, "top1", "validation")[1][-1] == pytest.approx(results["top1"])
        assert _curve(ask, "loss")[0] == list(range(1, 18))
        histograms = ("trust_ratio", "weight_norm", "update_ratio", "gradient_norm")
        assert _tags(ask, "histograms")["train"] == {f"layers/{name}" for name in histograms}
        assert _tags(ask, "images")["train"] == {*MAPS, "input/images"}
        assert b"small_resnet" in ask("plugin/graphs/graph", run="train")
        session = json.loads(ask("plugin/hparams/experiment", {"experimentName": ""}))
        assert "global_batch_size" in {one["name"] for one in session["hparamInfos"]}


def test_metrics_have_each_step_once_with_the_numbers_of_tensorboard(finished):
    model_dir, _ = finished
    lines = _lines(model_dir)
    assert [line["step"] for line in lines] == list(range(1, 18))
    # The first call traces the loop, and its noise is not known yet.
    assert lines[-1].keys() >= SCALARS - {"noise/scale", "noise/adascale_gain"}
    with tensorboard_server.serving(model_dir / "tensorboard") as ask:
        steps, values = _curve(ask, "norms/gradient")
    assert steps == [line["step"] for line in lines]
    assert values == pytest.approx([line["norms/gradient"] for line in lines], rel=1e-6)
    start = metric_log.read(str(model_dir / "metrics.jsonl"))[0]["start"]
    assert start["tensorflow"] == tf.__version__
    assert start["cluster"] == "2 workers (launch.local)"


def test_an_undisturbed_run_warns_of_nothing(finished):
    model_dir, printed = finished
    assert "warning" not in printed
    assert not [
        one for one in metric_log.read(str(model_dir / "metrics.jsonl")) if "warning" in one
    ]


def test_a_finished_run_started_again_trains_no_further(finished, short_run):
    model_dir, _ = finished
    before = json.loads((model_dir / "results.json").read_text())
    again = _run(*short_run, f"--model_dir={model_dir}")
    assert again.returncode == 0, again.stderr
    assert "nothing is left to train" in again.stdout
    after = json.loads((model_dir / "results.json").read_text())
    for name in ("weights_sha256", "top1", "loss", "steps"):
        assert after[name] == before[name]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_with_the_same_weights(finished, short_run, tmp_path):
    flags = [*short_run, f"--model_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        _command(*flags),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("epoch 2/6"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "the same command resumes from the last checkpoint" in errors
    assert not programs.workers(tmp_path)

    resumed = _run(*flags)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"resuming from .*step-\d+, step \d+ of 17", resumed.stdout)
    undisturbed = json.loads((finished[0] / "results.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["weights_sha256"] == undisturbed["weights_sha256"]
    assert results["steps"] == undisturbed["steps"]


@pytest.mark.slow
def test_a_killed_worker_is_named_and_the_run_goes_on(finished, short_run, tmp_path):
    # --resume=never applies to the first start only; the restart resumes.
    code, printed, errors = programs.run_killing_worker_1(
        *short_run, "--resume=never", model_dir=tmp_path, at="epoch 2/6"
    )
    assert code == 0, errors
    assert "worker 1 was killed by SIGKILL" in errors
    assert "restart 1 of at most 3" in errors
    assert "resuming from" in printed
    undisturbed, results = (
        json.loads((folder / "results.json").read_text()) for folder in (finished[0], tmp_path)
    )
    assert results["weights_sha256"] == undisturbed["weights_sha256"]
    assert not programs.workers(tmp_path)
    # What the first start has recorded after its last checkpoint is recorded anew.
    assert [line["step"] for line in _lines(tmp_path)] == list(range(1, 18))
    losses = [line["loss"] for line in _lines(finished[0])]
    with tensorboard_server.serving(tmp_path / "tensorboard") as ask:
        steps, values = _curve(ask, "loss")
    assert steps == list(range(1, 18))
    assert values == pytest.approx(losses, rel=1e-6)


def test_one_worker_trains_in_the_process_itself(short_run, tmp_path):
    done = _run(
        *short_run,
        "--num_workers=1",
        "--epochs=2",
        "--image_size_schedule=0:6,1:8",
        f"--model_dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    assert "0:6,1:8 px" in done.stdout
    assert "replicas    1" in done.stdout
    assert not (tmp_path / "run" / "logs").exists()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["eval_examples"] == 360


@pytest.mark.exhaustive
def test_a_run_with_every_augmentation_counts_every_validation_image(short_run, tmp_path):
    pytest.importorskip("keras_cv", reason="needs keras-cv (extra `keras-cv`)")
    flags = ["--augmentation=randaugment", "--mixup_alpha=0.2", "--cutmix_alpha=1"]
    flags += ["--random_erasing_probability=0.5", "--epochs=2"]
    done = _run(*short_run, *flags, "--num_workers=1", f"--model_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["eval_examples"] == 360


@pytest.mark.exhaustive
def test_a_run_in_float16_with_averages_keeps_its_best_and_counts_skipped_steps(
    short_run, tmp_path
):
    flags = ["--mixed_precision=float16", "--gradient_reduction_dtype=bfloat16", "--keep_best"]
    flags += ["--ema_momentum=0.5", "--keep_checkpoints=1", "--bytes_per_pack=100000"]
    done = _run(*short_run, *flags, "--epochs=10", f"--model_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["top1"] > 0.5
    states = [json.loads(p.read_text()) for p in tmp_path.glob("checkpoints/*/state.json")]
    history = max((state["history"] for state in states), key=len)
    best = max(history, key=lambda entry: (entry["val_top1"], entry["step"]))
    assert {state["step"] for state in states} == {best["step"], history[-1]["step"]}
    assert results["skipped_steps"] == history[-1]["skipped_steps"]

    evaluated = programs.run("launch.evaluate", f"--model_dir={tmp_path}", "--format=json")
    assert f'"top1": {results["top1"]}' in evaluated.stdout


def _content(folder):
    """Returns the files of a run but its logs, and locks, which name their last holder."""
    kept = (p for p in folder.rglob("*") if p.is_file() and p.parent.name != "logs")
    return {p: p.read_bytes() for p in kept if p.suffix != ".lock"}


def test_other_settings_do_not_go_on_from_a_checkpoint(finished, short_run):
    model_dir, _ = finished
    before = _content(model_dir)
    refused = _run(*short_run, "--seed=7", f"--model_dir={model_dir}")
    assert refused.returncode == 2
    assert "seed=0 (now 7)" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert _content(model_dir) == before
    log = (model_dir / "logs" / "rank-0.log").read_text()
    assert "epoch 6/6" in log
    assert "seed=0 (now 7)" in log


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "logs"])
def test_a_file_in_the_place_of_a_folder_is_refused(name, short_run, tmp_path):
    (tmp_path / name).touch()
    refused = _run(*short_run, f"--model_dir={tmp_path}")
    assert refused.returncode == 2
    assert f"{tmp_path / name}" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=nonsense"], "The model must be one of"),
        (["--model=keras.applications/Xcepton"], "Did you mean keras.applications/Xception?"),
        (["--model={empty}/net.py:build"], "The file of --model must exist"),
        (["--model=no_such_package.net:build"], "no module 'no_such_package'"),
        (["--space_to_depth_stem"], "--space_to_depth_stem is for resnet18"),
        (["--data_dir=/nowhere"], "'/nowhere', which is not a folder"),
        (["--data_dir={empty}"], "holds nothing"),
        (["--global_batch_size=511"], "multiple of the number of replicas"),
        (["--global_batch_size=0"], "--global_batch_size must be from 1 to"),
        (["--model_dir=/proc/run"], "--model_dir must be a folder that can be written to"),
        (["--model_dir="], "--model_dir must be the path of a folder"),
        (["--num_workers=0"], "--num_workers must be from 1 to"),
        (["--optimizer=adam"], "--optimizer must be one of lars, sgd, nesterov"),
        (["--epochs=many"], "epochs"),
        (["--seed=4294967296"], "--seed must be at least 0 and below 2**32"),
        (["--flagfile=/nowhere.flags"], "/nowhere.flags"),
        (["--data_dir=gs://data"], "from a local folder. Received: 'gs://data'"),
        (["--learning_rate=-1"], "--learning_rate must be above 0"),
        (["--micro_batch_size=some"], "--micro_batch_size must be at least 1, or auto"),
        pytest.param(
            ["--micro_batch_size=100"],
            "micro_batch_size must divide the 256 examples",
            marks=pytest.mark.slow,
        ),
        (["--gradient_reduction_dtype=int8"], "must be float32 or bfloat16. Received: 'int8'"),
        (["--max_skipped_steps=0"], "--max_skipped_steps must be from 1 to"),
        (["--warmup_epochs=9"], "--warmup_epochs must be at most 6"),
        (["--image_size_schedule=5:64"], "such as 0:128,18:160,32:224"),
        (["--augmentation=much"], "--augmentation must be one of"),
        (["--randaugment_magnitude=11"], "--randaugment_magnitude must be from 0 to 10"),
        (["--mixup_alpha=-1"], "--mixup_alpha must be from 0 to"),
        (["--random_erasing_probability=2"], "--random_erasing_probability must be from 0 to 1"),
        (["--unknown_flag=1"], "unknown_flag"),
        (["stray"], "stray"),
        pytest.param(["--resume=must"], "--resume=must needs a checkpoint", marks=pytest.mark.slow),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(flags, message, short_run, tmp_path):
    flags = [flag.format(empty=tmp_path) for flag in flags]
    model_dir = [] if any("model_dir" in flag for flag in flags) else [f"--model_dir={tmp_path}/r"]
    refused = _run(*short_run, *model_dir, *flags)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert not programs.workers(tmp_path)


@pytest.mark.slow
def test_a_damaged_record_ends_the_run_with_its_name_or_is_counted(short_run, digits_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(digits_dir, data)
    shard = data / "train-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    failed = _run(*short_run, f"--data_dir={data}", f"--model_dir={tmp_path / 'run'}")
    assert failed.returncode == 2
    assert "a record that does not match its checksum, in record" in failed.stderr
    assert str(shard) in failed.stderr

    run = [*short_run, f"--data_dir={data}", f"--model_dir={tmp_path / 'run'}", "--epochs=2"]
    done = _run(*run, "--max_bad_records=1")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["bad_records"], results["eval_examples"]) == (1, 360)
    logs = [(tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert any("Skipping a bad record" in log for log in logs)
    assert _lines(tmp_path / "run")[-1]["bad_records"] == 1


MODEL_FILE = """
import keras
import tensorflow as tf
from a_neighbour_of_the_model import scale


class Net(keras.Model):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = keras.layers.Conv2D(16, 3, use_bias=False)
        self.norm = keras.layers.BatchNormalization(momentum=0.9)
        self.head = keras.layers.Dense(num_classes, dtype="float32")

    def call(self, image, training=False):
        x = self.norm(self.conv(scale(image - 128.0)), training=training)
        return self.head(tf.reduce_max(tf.nn.relu(x), [1, 2]))


def build(num_classes, image_size):
    return Net(num_classes)


def other_size(num_classes, image_size):
    return Net(num_classes + 1)
"""


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """Returns a file outside the repository that defines a subclassed model, beside its import."""
    folder = tmp_path_factory.mktemp("users_code")
    (folder / "net.py").write_text(MODEL_FILE)
    neighbour = "import keras\nscale = keras.layers.Rescaling(1 / 255)\n"
    (folder / "a_neighbour_of_the_model.py").write_text(neighbour)
    return folder / "net.py"


@pytest.mark.slow
def test_two_workers_train_a_subclassed_model_from_a_file_with_synchronised_batch_norm(
    model_file, short_run, tmp_path
):
    flags = [f"--model={model_file}:build", "--sync_batch_norm", f"--model_dir={tmp_path}"]
    flags += ["--mixed_precision=bfloat16", "--optimizer=sgd", "--learning_rate=0.3"]
    done = _run(*short_run, *flags, "--epochs=30")
    assert done.returncode == 0, done.stderr
    # 3 x 3 x 3 x 16 for the convolution, 2 x 16, 17 x 10; its 6 x 6 positions cost 31,104 FLOPs.
    described = f"model       {model_file}:build, 634 trainable parameters, 0.0000314 GFLOPs"
    assert described in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["replica_weights_sha256"] == [results["weights_sha256"]] * 2
    assert results["top1"] > 0.5  # of ten classes
    assert "--sync_batch_norm=True" in (tmp_path / "flags.txt").read_text()

    output = tmp_path / "saved_model"
    flags = [f"--model_dir={tmp_path}", f"--output={output}", "--trust_model_file"]
    done = programs.run("launch.export", *flags)
    assert done.returncode == 0, done.stderr
    exported = tf.saved_model.load(str(output))  # takes float32, although it computes in bfloat16
    assert exported.serve(tf.fill([2, 8, 8, 3], 200.0)).shape == (2, 10)


def test_a_wrong_model_of_ones_own_is_one_sentence_and_exit_code_2(model_file, short_run, tmp_path):
    refused = _run(*short_run, f"--model={model_file}:other_size", f"--model_dir={tmp_path}")
    assert refused.returncode == 2
    assert "must give logits of shape [batch, 10]" in refused.stderr
    assert "Received: [None, 11]" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert not programs.workers(tmp_path)
