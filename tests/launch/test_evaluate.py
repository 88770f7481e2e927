"""launch.evaluate and launch.export on a finished run."""

import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
import tensorflow as tf

from launch import export
from tests.helpers import batch_norm_cases, programs
from tests.helpers.image_files import exif_block, with_exif
from tf_lars.training.fused_batch_norm import fuse_batch_norm


def _evaluated(*flags):
    done = programs.run("launch.evaluate", *flags, "--format=json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_checkpoint_evaluates_to_the_results_of_its_run(num_workers, finished):
    model_dir, _ = finished
    results = json.loads((model_dir / "results.json").read_text())
    again = _evaluated(f"--model_dir={model_dir}", f"--num_workers={num_workers}")
    assert again["eval_examples"] == 360
    assert (again["step"], again["num_workers"]) == (results["steps"], num_workers)
    assert again["top1"] == pytest.approx(results["top1"], abs=1e-6)
    assert again["top5"] == pytest.approx(results["top5"], abs=1e-6)
    assert again["loss"] == pytest.approx(results["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_best_checkpoint_and_one_by_path(finished):
    model_dir, _ = finished
    states = [json.loads(p.read_text()) for p in model_dir.glob("checkpoints/*/state.json")]
    history = max((state["history"] for state in states), key=len)
    kept = [entry for entry in history if entry["step"] in {state["step"] for state in states}]
    best = max(kept, key=lambda entry: (entry["val_top1"], entry["step"]))
    found = _evaluated(f"--model_dir={model_dir}", "--checkpoint=best")
    assert found["step"] == best["step"]
    assert found["top1"] == pytest.approx(best["val_top1"], abs=1e-6)

    first = min(kept, key=lambda entry: entry["step"])
    path = f"{model_dir}/checkpoints/step-{int(first['step']):08d}"
    found = _evaluated(f"--model_dir={model_dir}", f"--checkpoint={path}")
    assert found["top1"] == pytest.approx(first["val_top1"], abs=1e-6)


@pytest.mark.slow
def test_a_damaged_record_is_named_or_passed_over(finished, digits_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(digits_dir, data)
    shard = next(data.glob("validation-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    flags = [f"--model_dir={finished[0]}", f"--data_dir={data}"]
    failed = programs.run("launch.evaluate", *flags)
    assert failed.returncode == 2
    assert "a record that does not match its checksum, in record" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert _evaluated(*flags, "--max_bad_records=1", "--num_workers=2")["eval_examples"] == 359


@pytest.fixture(scope="module")
def pictures(finished, tmp_path_factory):
    """Returns validation images, as JPEG and PNG files, with the names of their classes."""
    flags = (finished[0] / "flags.txt").read_text().split()
    data_dir = next(f for f in flags if f.startswith("--data_dir=")).partition("=")[2]
    folder, found = tmp_path_factory.mktemp("pictures"), []
    names = json.loads(pathlib.Path(data_dir, "dataset.json").read_text())["class_names"]
    shard = sorted(str(p) for p in pathlib.Path(data_dir).glob("validation-*"))[0]
    for number, record in enumerate(tf.data.TFRecordDataset(shard).take(10)):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        encoded = features["image/encoded"].bytes_list.value[0]
        path = folder / f"{number}.{'png' if number % 2 else 'jpg'}"
        if number % 2:
            encoded = tf.io.encode_png(tf.io.decode_jpeg(encoded)).numpy()
        path.write_bytes(encoded)
        found.append((str(path), names[features["image/class/label"].int64_list.value[0] - 1]))
    return found


@pytest.mark.slow
def test_pictures_are_named(finished, pictures):
    paths = [path for path, _ in pictures]
    done = programs.run(
        "launch.evaluate",
        f"--model_dir={finished[0]}",
        f"--predict={','.join(paths)}",
        "--format=json",
    )
    assert done.returncode == 0, done.stderr
    named = json.loads(done.stdout)
    assert [one["image"] for one in named] == paths
    right = 0
    for one, (_, name) in zip(named, pictures, strict=True):
        probabilities = [probability for _, probability in one["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-6
        right += one["classes"][0][0] == name
    top1 = json.loads((finished[0] / "results.json").read_text())["top1"]
    assert right >= 10 * top1 - 3

    table = programs.run("launch.evaluate", f"--model_dir={finished[0]}", f"--predict={paths[0]}")
    first = named[0]["classes"][0]
    assert f"{first[1]:.2%}  {first[0]}" in table.stdout


@pytest.mark.slow
def test_pictures_are_shrunk_and_turned_as_the_data_was(finished, digits_dir, pictures, tmp_path):
    picture = tmp_path / "upside_down.jpg"
    picture.write_bytes(with_exif(pathlib.Path(pictures[0][0]).read_bytes(), exif_block(3)))
    probabilities = set()
    for name, value in (("short_side", None), ("short_side", 4), ("exif", "apply")):
        data = tmp_path / f"{name} {value}"
        shutil.copytree(digits_dir, data)
        info = json.loads((data / "dataset.json").read_text())
        info["settings"][name] = value
        info.pop("checksum", None)
        (data / "dataset.json").write_text(json.dumps(info))
        done = programs.run(
            "launch.evaluate",
            f"--model_dir={finished[0]}",
            f"--data_dir={data}",
            f"--predict={picture}",
            "--format=json",
        )
        assert done.returncode == 0, done.stderr
        probabilities.add(json.loads(done.stdout)[0]["classes"][0][1])
    assert len(probabilities) == 3


_WITH_KERAS_ALONE = """
import sys, json, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
print(json.dumps(np.asarray(model(np.load(sys.argv[2]))).tolist()))
"""
_WITH_TENSORFLOW_ALONE = """
import sys, json, numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
print(json.dumps(np.asarray(model.serve(tf.constant(np.load(sys.argv[2])))).tolist()))
"""


@pytest.mark.slow
def test_an_exported_model_takes_plain_images_elsewhere(finished, pictures, tmp_path):
    import numpy as np

    images = np.stack(
        [tf.io.decode_image(pathlib.Path(p).read_bytes(), channels=3).numpy() for p, _ in pictures]
    )
    np.save(tmp_path / "images.npy", images.astype(np.float32))
    logits = {}
    for output, program in (
        ("model.keras", _WITH_KERAS_ALONE),
        ("saved_model", _WITH_TENSORFLOW_ALONE),
    ):
        path = str(tmp_path / output)
        done = programs.run("launch.export", f"--model_dir={finished[0]}", f"--output={path}")
        assert done.returncode == 0, done.stderr
        loaded = subprocess.run(
            [sys.executable, "-c", program, path, str(tmp_path / "images.npy")],
            cwd=tmp_path,  # where neither tf_lars nor models can be imported
            capture_output=True,
            text=True,
            timeout=programs.SECONDS,
        )
        assert loaded.returncode == 0, loaded.stderr
        logits[output] = np.array(json.loads(loaded.stdout.splitlines()[-1]))
    np.testing.assert_allclose(logits["model.keras"], logits["saved_model"], rtol=1e-4, atol=1e-4)
    named = programs.run(
        "launch.evaluate",
        f"--model_dir={finished[0]}",
        f"--predict={pictures[0][0]}",
        "--format=json",
    )
    probability = json.loads(named.stdout)[0]["classes"][0][1]
    softmax = np.exp(logits["saved_model"][0]) / np.sum(np.exp(logits["saved_model"][0]))
    assert softmax.max() == pytest.approx(probability, rel=0.02)

    again = programs.run("launch.export", f"--model_dir={finished[0]}", f"--output={path}")
    assert again.returncode == 2
    assert "does not exist yet" in again.stderr
    for output, sentence in (
        (f"{tmp_path}/model.h5", "must end in .keras"),
        ("/proc/nowhere/model.keras", "--output must be writable"),
    ):
        refused = programs.run("launch.export", f"--model_dir={finished[0]}", f"--output={output}")
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr


def test_an_exported_model_has_keras_layers_alone(tmp_path):
    model, path = batch_norm_cases.network(), tmp_path / "model.keras"
    fuse_batch_norm(model)
    export._write(model, str(path), 8)
    with zipfile.ZipFile(path) as file:
        assert "tf_lars" not in file.read("config.json").decode()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model_dir=/nowhere"], "must hold the flags.txt"),
        ([], "--model_dir must be the folder of a run"),
        (["--model_dir={run}", "--checkpoint=/nowhere"], "--checkpoint must be newest, best"),
        pytest.param(
            ["--model_dir={run}", "--predict=/etc/hostname"],
            "--predict takes pictures",
            marks=pytest.mark.slow,
        ),
        (["--model_dir={run}", "--data_dir=/nowhere"], "/nowhere"),
        (["--model_dir={run}", "--num_workers=0"], "--num_workers must be from 1 to"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, finished):
    flags = [flag.format(run=finished[0]) for flag in flags]
    done = programs.run("launch.evaluate", *flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1


def test_a_run_without_a_whole_checkpoint_is_refused(finished, tmp_path):
    shutil.copy(finished[0] / "flags.txt", tmp_path)
    done = programs.run("launch.evaluate", f"--model_dir={tmp_path}")
    assert done.returncode == 2
    assert "--checkpoint must be newest" in done.stderr
