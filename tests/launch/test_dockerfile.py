"""The container image: its Dockerfile, its locked packages, and training in it."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import container_images, programs

DOCKERFILE = programs.ROOT / "Dockerfile"
LOCKS = sorted((programs.ROOT / "launch/container").glob("*.txt"))


def _hadolint(text):
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("hadolint", path=f"{beside_python}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("hadolint is not installed (extra `test`, on Linux for x86_64)")
    return subprocess.run([found, "-"], input=text, capture_output=True, text=True, timeout=60)


def test_hadolint_finds_nothing():
    done = _hadolint(DOCKERFILE.read_text())
    assert (done.returncode, done.stdout) == (0, "")
    assert "DL3013" in _hadolint("FROM python:3.12-slim\nRUN pip install tensorflow\n").stdout


def test_what_is_copied_exists_and_is_not_ignored():
    ignore = (programs.ROOT / ".dockerignore").read_text().split()
    assert "*" in ignore
    sources = re.findall(r"^COPY (.*) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    copied = [name for line in sources for name in line.split()]
    assert {"tf_lars", "models", "launch"} <= set(copied)
    for name in copied:
        path = name.replace("${ACCELERATOR}", "gpu")
        assert (programs.ROOT / path).exists()
        assert f"!{path.partition('/')[0]}" in ignore


def test_all_packages_are_locked_with_hashes_and_come_as_wheels():
    text = DOCKERFILE.read_text()
    (install,) = re.findall(r"python -m pip install(?:.*\\\n)*.*", text)
    for option in (
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement=/opt/requirements.txt",
    ):
        assert option in install
    assert [path.stem for path in LOCKS] == ["cpu", "gpu", "tpu"]
    for path in LOCKS:
        content = path.read_text()
        assert "://" not in content, path
        pinned = re.findall(r"^[\w.-]+(?:\[[\w,-]+\])?==\S+ \\$", content, flags=re.MULTILINE)
        assert len(pinned) > 30
        # Each of the other lines is one of their hashes.
        others = [line for line in content.splitlines() if line not in pinned and line[0] != "#"]
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", one) for one in others)


def _required(extra):
    setup = configparser.ConfigParser()
    setup.read(programs.ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"] + "\n" + extra
    if extra:
        wanted += setup["options.extras_require"][extra]
    return [line for line in wanted.split("\n") if line and line != extra]


@pytest.mark.parametrize(("name", "extra"), [("cpu", ""), ("gpu", "gpu"), ("tpu", "tpu")])
def test_the_locked_versions_are_those_that_setup_cfg_allows(name, extra):
    packaging = pytest.importorskip("packaging.requirements")
    content = (programs.ROOT / f"launch/container/{name}.txt").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", content, flags=re.MULTILINE))
    for line in _required(extra):
        wanted = packaging.Requirement(line)
        if name == "tpu" and wanted.name == "tensorflow":  # tensorflow-tpu takes its place
            assert wanted.name not in locked
            continue
        assert wanted.specifier.contains(locked[wanted.name]), (line, locked[wanted.name])


def test_the_image_runs_as_a_user_to_whom_the_code_does_not_belong():
    lines = DOCKERFILE.read_text().splitlines()
    assert lines[-1] == "USER 1000:1000"
    assert not [line for line in lines if line.startswith("COPY --chown")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of buildah, which are deleted at the end."""
    reason = container_images.missing()
    if reason:
        pytest.skip(reason)
    made = container_images.Images(tmp_path_factory.mktemp("images"))
    yield made
    made.remove()


_MAY_NOT = """
import os
assert os.getuid() == 1000 and os.getgid() == 1000, os.getuid()
for path in ("/opt/tf-lars/tf_lars/errors.py", "/opt/requirements.txt", "/etc/passwd"):
    assert not os.access(path, os.W_OK), path
import tf_lars, tensorflow
open(os.path.expanduser("~/.here"), "w").close()
"""


@pytest.mark.exhaustive
def test_the_image_trains_on_two_workers_without_privileges(images, digits_dir, tmp_path):
    image = images.build(images.build_base(), "cpu")
    runs = tmp_path / "runs"
    runs.mkdir()
    os.chown(runs, 1000, 1000)
    volumes = [f"--volume={digits_dir}:/data:ro", f"--volume={runs}:/runs"]
    with images.container(image, *volumes) as run:
        allowed = run("python", "-c", _MAY_NOT)
        assert allowed.returncode == 0, allowed.stderr
        done = run(
            *("python", "-m", "launch.local", "--flagfile=launch/recipes/digits.flags"),
            *("--model=small_resnet8", "--epochs=6", "--warmup_epochs=1"),
            *("--data_dir=/data", "--model_dir=/runs/digits"),
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "top1" in done.stdout
    written = [runs / "digits", *(runs / "digits").rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in written} == {(1000, 1000)}
    assert sorted(path.name for path in (runs / "digits/logs").iterdir()) == [
        "rank-0.log",
        "rank-1.log",
    ]
