"""The flagfiles of launch/recipes: published settings, and comments that agree with them."""

import math
import re
import shlex

import pytest

from launch.cli import recipe_flag
from tests.helpers import launcher_flags
from tests.helpers.programs import ROOT
from tf_lars import planner
from tf_lars.planner.plan_table import planned_time
from tf_lars.recipes import recipes

PUBLISHED = {
    "resnet50_b256": ("resnet50", 256, "sgd"),
    "resnet50_b4k": ("resnet50", 4096, "lars"),
    "resnet50_b8k": ("resnet50", 8192, "lars"),
    "resnet50_b32k": ("resnet50", 32768, "lars"),
    "resnet50_b64k": ("resnet50", 65536, "lars"),
    "alexnet_bn_b32k": ("alexnet_bn", 32768, "lars"),
}
FILES = sorted((ROOT / "launch" / "recipes").glob("*.flags"))
LABELS = ["Command", "Hardware", "Time", "Published", "Run here"]
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def _settings(path):
    # Before the flagfile, which may override them.
    folders = ["--data_dir=unused", "--model_dir=unused"]
    return launcher_flags.settings(*folders, f"--flagfile={path}")[0]


def _head(path):
    """Returns the leading comment by label, with joined lines; the title has the label ""."""
    parts = {"": ""}
    label = ""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        text = line[1:].strip().removesuffix("\\")
        start = re.match(rf"# ({'|'.join(LABELS)})\b", line)
        if start:
            label = start[1]
            parts[label] = text
        else:
            parts[label] += f" {text}"
    return parts


def test_there_is_one_for_each_published_run_and_each_data_set_at_hand():
    assert {path.stem for path in FILES} == {*PUBLISHED, "digits", "imagenette"}


@EACH
def test_every_line_is_a_flag_of_training(path):
    settings = _settings(path)
    assert settings.global_batch_size >= 256
    assert settings.warmup_epochs < settings.epochs


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_are_the_published_ones(name):
    model, batch, optimizer = PUBLISHED[name]
    settings = _settings(ROOT / "launch" / "recipes" / f"{name}.flags")
    published = recipes.for_model(model, batch, optimizer)
    assert not published.interpolated
    assert (settings.model, settings.global_batch_size) == (model, batch)
    assert settings.optimizer == optimizer
    for field in recipe_flag._SET:
        expected = getattr(published, field)
        if expected is not None:
            # The Trainer trains whole epochs.
            expected = math.ceil(expected) if field == "epochs" else expected
            if field == "batch_norm_group_size":  # where the devices can form the groups
                expected = "recipe"
            assert getattr(settings, field) == expected, field


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_are_written_out_and_not_left_to_defaults(name):
    text = (ROOT / "launch" / "recipes" / f"{name}.flags").read_text()
    published = recipes.for_model(*PUBLISHED[name])
    for field in recipe_flag._SET:
        if getattr(published, field) is not None:
            assert f"\n--{field}=" in text


@EACH
def test_the_head_has_the_command_the_hardware_the_time_and_the_source(path):
    head = _head(path)
    assert list(head) == ["", *LABELS]
    assert head[""].strip()
    name = f"--flagfile=launch/recipes/{path.name}"
    commands = re.findall(r"python -m (launch\.\w+)([^#]*?)(?= python -m|$)", head["Command"])
    training = [(module, rest) for module, rest in commands if "--flagfile" in rest]
    assert len(training) == 1
    module, arguments = training[0]
    assert module in ("launch.local", "launch.gpu_cluster")
    assert name in shlex.split(arguments)
    assert f"--model_dir=runs/{path.stem}" in shlex.split(arguments)
    for label in LABELS:
        assert len(head[label]) > len(label) + 3


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_head_names_the_source_of_the_published_result(name):
    head = _head(ROOT / "launch" / "recipes" / f"{name}.flags")
    published = recipes.for_model(*PUBLISHED[name])
    source = r"resnet_ref_\d+, rules 4\.0\.0|arXiv:1706\.02677|Intel Caffe"
    assert re.search(source, published.source)[0] in head["Published"]
    assert f"{100 * published.expected_top1:.4g} % top-1" in head["Published"]
    if published.epochs_to_target:
        assert f"after {published.epochs_to_target:.3g} epochs" in head["Published"]
    assert head["Run here"] == "Run here: no."


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_planned_time_is_that_of_the_command_beside_it(name):
    head = _head(ROOT / "launch" / "recipes" / f"{name}.flags")
    command = head["Time"][head["Time"].index("launch.plan") + len("launch.plan") :]
    asked = dict(argument.removeprefix("--").split("=") for argument in shlex.split(command))
    model, batch, _ = PUBLISHED[name]
    settings = _settings(ROOT / "launch" / "recipes" / f"{name}.flags")
    assert asked.get("model", "resnet50") == model
    assert (int(asked["global_batch_size"]), int(asked["epochs"])) == (batch, settings.epochs)
    planned = planner.predict(
        model=model,
        accelerator=asked["accelerator"],
        devices=int(asked["devices"]),
        global_batch_size=batch,
        epochs=settings.epochs,
    )
    assert planned_time(planned) in head["Time"]
    docs = (ROOT / "docs" / "cluster.md").read_text()
    row = next(line for line in docs.splitlines() if line.startswith(f"| `{name}.flags`"))
    assert f"| {planned_time(planned).split(',')[0]} |" in row
    # The command and the hardware agree on devices and images per device.
    nodes = int((re.search(r"on each of (\d+) nodes", head["Command"]) or [0, 1])[1])
    each = int((re.search(r"(\d+) A100 each", head["Hardware"]) or [0, 1])[1])
    assert nodes * each == planned.devices
    assert f"{batch // planned.devices:,} images" in head["Hardware"]
    if nodes > 1:
        assert f"node{nodes - 1}:2222" in head["Command"]
