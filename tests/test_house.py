"""The rules of the layout that CONTRIBUTING.md states."""

import ast
import collections

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("tf_lars", "models", "launch")
PROGRAMS = {
    "compare",
    "compile_for",
    "critical_batch",
    "evaluate",
    "export",
    "gpu_cluster",
    "large_batch_study",
    "local",
    "measure_input",
    "plan",
    "prepare_imagenet",
    "ray",
    "render_kubernetes",
    "show_input",
    "tpu",
    "tpu_server",
    "worker",
}


def _modules(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_two_modules_share_a_name():
    names = [path.stem for path in _modules(*PACKAGES) if path.name != "__init__.py"]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


def test_packages_hold_names_only():
    allowed = (ast.Import, ast.ImportFrom, ast.Assign)
    for path in _modules(*PACKAGES):
        if path.name != "__init__.py" or path.parent == ROOT / "tf_lars":  # that one is lazy
            continue
        body = ast.parse(path.read_text()).body
        assert ast.get_docstring(ast.Module(body, [])), path
        assert all(isinstance(node, allowed) for node in body[1:]), path


def test_launch_holds_programs_only():
    files = {path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__"}
    assert files == PROGRAMS
    for name in files:
        text = (ROOT / "launch" / f"{name}.py").read_text()
        assert 'if __name__ == "__main__":' in text, name


def test_flags_are_read_in_launch_only():
    for path in _modules("tf_lars", "models"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "absl":
                assert "flags" not in [alias.name for alias in node.names], path


def test_private_api_is_used_in_one_module():
    private = ("keras.src", "tensorflow.python")
    for path in _modules(*PACKAGES):
        if path.name == "private_api.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            assert not [name for name in modules if name.startswith(private)], path


@pytest.mark.parametrize("package", [*PACKAGES, "tests", "benchmarks"])
def test_files_are_of_a_size_that_can_be_read(package):
    lines = {path: len(path.read_text().splitlines()) for path in _modules(package)}
    assert {str(path): count for path, count in lines.items() if count > 440} == {}


def test_helpers_of_tests_are_apart_from_tests():
    for path in _modules("tests"):
        if path.name in ("__init__.py", "conftest.py"):
            continue
        is_helper = path.parent == ROOT / "tests" / "helpers"
        assert is_helper != path.name.startswith("test_"), path


def _opens_a_text_file(call):
    """Returns whether a call opens a file, or the output of a program, as text."""
    name = getattr(call.func, "id", None) or getattr(call.func, "attr", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if any(
        getattr(keywords.get(key), "value", 0) is True for key in ("text", "universal_newlines")
    ):
        return True
    if name in ("read_text", "write_text"):
        return True
    if name in ("NamedTemporaryFile", "TemporaryFile", "fdopen"):
        mode = keywords.get("mode", call.args[1] if name == "fdopen" and call.args[1:] else None)
        return isinstance(mode, ast.Constant) and "b" not in mode.value
    if not (isinstance(call.func, ast.Name) and name == "open"):
        return False
    mode = keywords.get("mode", call.args[1] if call.args[1:] else None)
    return mode is None or (isinstance(mode, ast.Constant) and "b" not in mode.value)


def test_the_encoding_of_every_text_file_is_named():
    # That of the locale would depend on the machine, and be ASCII in many containers.
    for path in _modules(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _opens_a_text_file(node):
                keywords = [keyword.arg for keyword in node.keywords]
                assert "encoding" in keywords, f"{path}:{node.lineno}"
