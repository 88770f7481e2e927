"""The table of settings: what a field declares is what flags, checks and runs derive from it."""

import dataclasses
import math

import pytest

from launch.run.settings import TrainingSettings, read_arguments
from tests.helpers import launcher_flags
from tf_lars import setting
from tf_lars.errors import InputError
from tf_lars.setting import as_arguments


@dataclasses.dataclass(frozen=True)
class Trial:
    """Made up."""

    count: int = setting.setting("How many.", 3, rule=setting.at_least(1))
    names: tuple[str, ...] = setting.setting("Which.", ("a",), rule=setting.one_of("a", "b"))
    size: int | str | None = setting.setting("How large.", None)

    def __post_init__(self):
        setting.check(self)


def test_a_program_constructs_settings_with_the_defaults_of_the_flags():
    made = TrainingSettings(model="resnet50", data_dir="data")
    given, recipe = launcher_flags.settings("--model=resnet50", "--data_dir=data")
    assert made == given
    assert recipe == ""


def test_settings_survive_the_command_line():
    made = TrainingSettings(
        model="alexnet", micro_batch_size="auto", epochs=7, cache=True, mixup_alpha=0.2
    )
    assert launcher_flags.settings(*as_arguments(made))[0] == made


def test_settings_survive_the_file_of_a_run(tmp_path):
    made = TrainingSettings(model="alexnet", micro_batch_size=4, image_size_schedule="0:64,2:96")
    path = tmp_path / "flags.txt"
    path.write_text("\n".join(as_arguments(made)) + "\n")
    assert read_arguments(str(path)) == made


def test_every_training_setting_has_documentation_and_a_group():
    described = setting.settings_of(TrainingSettings)
    assert list(described) == [field.name for field in dataclasses.fields(TrainingSettings)]
    for name, one in described.items():
        assert one.doc.endswith("."), name
        assert one.group != "Settings", name


def test_the_identity_of_a_run_leaves_out_what_may_change_with_the_machines():
    identity = TrainingSettings().values_where("identifies_run")
    assert {"model", "seed", "learning_rate", "global_batch_size"} <= set(identity)
    assert not {"data_dir", "model_dir", "resume", "micro_batch_size", "cache"} & set(identity)


def test_an_extension_may_change_the_length_and_the_learning_rate():
    described = setting.settings_of(TrainingSettings)
    may_change = {name for name, one in described.items() if one.extension_may_change}
    assert may_change == {
        *("epochs", "learning_rate", "initial_learning_rate", "warmup_epochs", "schedule"),
        *("end_learning_rate", "decay_power"),
    }
    assert may_change < set(TrainingSettings().values_where("identifies_run"))


@pytest.mark.parametrize("text", ["(", "[a", "*", ""])
def test_what_to_freeze_is_a_regular_expression(text):
    with pytest.raises(InputError, match="--freeze must be a regular expression"):
        TrainingSettings(freeze=text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "--count must be at least 1. Received: 0."),
        ({"count": float("nan")}, "--count must be at least 1"),
        ({"names": ("a", "c")}, "--names must be a or b. Received: 'c'."),
    ],
)
def test_a_value_out_of_range_is_named_with_its_flag(values, message):
    with pytest.raises(InputError, match=message):
        Trial(**values)


@pytest.mark.parametrize(
    ("rule", "words", "inside", "outside"),
    [
        (setting.within(1, 10_000), "from 1 to 10,000", (1, 10_000), (0, 10_001, math.nan)),
        (setting.within(0, 0.5), "from 0 to 0.5", (0, 0.5), (-0.1, 0.6)),
        (setting.above(0, 1e12), "above 0 and at most 1e+12", (1e-9, 1e12), (0, 1e13, math.nan)),
        (setting.above(0), "above 0", (1e300,), (0, math.inf)),
        (setting.at_least(0), "0 or above", (0, 1e300), (-1, math.inf, math.nan)),
        (setting.picture(), "a .png file in an existing folder", ("", "a.png"), ("a", "/no/a.png")),
    ],
)
def test_a_range_says_what_it_holds(rule, words, inside, outside):
    assert rule.words == words
    assert all(map(rule.holds, inside))
    assert not any(map(rule.holds, outside))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("names", "a, b", ("a", "b")),
        ("names", "", ()),
        ("size", "7", 7),
        ("size", "auto", "auto"),
    ],
)
def test_a_text_is_parsed_by_the_first_type_that_accepts_it(name, text, value):
    assert setting.parse(text, setting.kinds(Trial)[name]) == value


def test_a_text_that_no_type_accepts_is_refused():
    with pytest.raises(ValueError, match="'x' is not a value of"):
        setting.parse("x", setting.kinds(Trial)["count"])
