"""Checkpoints: atomic, and restored only by the run that wrote them."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import faulty_disks
from tf_lars import LARS
from tf_lars.errors import InputError, PeerFailure
from tf_lars.training import checkpoints
from tf_lars.training.checkpoints import CheckpointStore

SETTINGS = {"model": "m", "batch": 8}


def _model(units=3):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    model.compile(LARS(0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _train(model, steps=1):
    for _ in range(steps):
        model.train_on_batch(np.ones((2, 4)), np.ones((2, 3)))


@pytest.fixture
def two(tmp_path):
    """Returns a folder with the checkpoints of steps 1 and 2, and the weights at each step."""
    directory = str(tmp_path / "checkpoints")
    store, model, weights = CheckpointStore(directory, SETTINGS), _model(), {}
    for step in (1, 2):
        _train(model)
        store.save(model, step, [{"epoch": e, "step": e} for e in range(1, step + 1)])
        weights[step] = [w.numpy() for w in [*model.weights, *model.optimizer.variables]]
    return directory, weights


def _restored(directory, **arguments):
    model = _model()
    store = CheckpointStore(directory, SETTINGS, **arguments)
    history = store.restore(model)
    weights = [w.numpy() for w in [*model.weights, *model.optimizer.variables]]
    return store, history, weights


def test_the_newest_is_restored_with_optimizer_and_history(two):
    directory, expected = two
    store, history, weights = _restored(directory)
    assert store.resumed_from.endswith("step-00000002")
    assert [h["epoch"] for h in history] == [1, 2]
    for one, other in zip(weights, expected[2], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "part", ["checkpoint.index", "checkpoint.data-00000-of-00001", "state.json"]
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_torn_checkpoint_is_skipped_for_the_one_before(two, part, share):
    directory, expected = two
    path = f"{directory}/step-00000002/{part}"
    content = open(path, "rb").read()  # noqa: SIM115
    with open(path, "wb") as file:
        file.write(content[: int(share * len(content))])
    store, history, weights = _restored(directory)
    assert store.resumed_from.endswith("step-00000001")
    assert [h["epoch"] for h in history] == [1]
    np.testing.assert_array_equal(weights[0], expected[1][0])


def test_a_missing_part_is_a_torn_checkpoint(two):
    directory, _ = two
    os.remove(f"{directory}/step-00000002/checkpoint.index")
    assert _restored(directory)[0].resumed_from.endswith("step-00000001")


@pytest.mark.parametrize("content", ["[]", "null", '{"sha256": []}', '{"sha256": {}}'])
def test_a_state_of_another_shape_is_a_torn_checkpoint(two, content):
    directory, _ = two
    with open(f"{directory}/step-00000002/state.json", "w") as file:
        file.write(content)
    assert _restored(directory)[0].resumed_from.endswith("step-00000001")


def test_others_may_read_checkpoints_as_the_umask_has_it(two):
    directory, _ = two
    assert os.stat(f"{directory}/step-00000002").st_mode == os.stat(directory).st_mode


def test_other_settings_are_refused_with_the_difference(two):
    directory, _ = two
    store = CheckpointStore(directory, {"model": "m", "batch": 16})
    with pytest.raises(InputError, match=r"batch=8 \(now 16\)"):
        store.restore(_model())


def test_another_model_under_the_same_settings_is_refused(two):
    directory, _ = two
    with pytest.raises(InputError, match="another model"):
        CheckpointStore(directory, SETTINGS).restore(_model(units=5))


def test_only_the_newest_are_kept(tmp_path):
    directory = tmp_path / "checkpoints"
    store, model = CheckpointStore(str(directory), SETTINGS, keep=2), _model()
    for step in (1, 2, 3, 10):
        store.save(model, step, [])
    assert sorted(p.name for p in directory.iterdir()) == ["step-00000003", "step-00000010"]


def test_what_a_killed_process_left_half_written_is_removed(two):
    directory, _ = two
    left = f"{directory}/.writing-abc"
    shutil.copytree(f"{directory}/step-00000002", left)
    _restored(directory)
    assert sorted(os.listdir(directory)) == ["step-00000001", "step-00000002"]


def test_never_starts_anew_and_keeps_the_old_ones_aside(two):
    directory, _ = two
    store, history, _ = _restored(directory, resume="never")
    assert (history, store.resumed_from) == ([], None)
    parent = directory.rsplit("/", 1)[0]
    (aside,) = [name for name in os.listdir(parent) if name.startswith("checkpoints-")]
    assert sorted(os.listdir(f"{parent}/{aside}")) == ["step-00000001", "step-00000002"]


def test_never_starts_anew_once_in_a_job(two):
    directory, _ = two
    first, history, _ = _restored(directory, resume="never", job="a")
    assert (history, first.started_afresh) == ([], True)
    model = _model()
    _train(model)
    first.save(model, 5, [])
    again, _, _ = _restored(directory, resume="never", job="a")
    assert (again.resumed_step, again.started_afresh) == (5, False)
    other, _, _ = _restored(directory, resume="never", job="b")
    assert (other.resumed_step, other.started_afresh) == (None, True)
    parent = directory.rsplit("/", 1)[0]
    assert len([name for name in os.listdir(parent) if name.startswith("checkpoints-")]) == 2


def test_all_workers_restore_what_the_chief_has_found(two, monkeypatch):
    directory, expected = two
    model = _model()
    other = CheckpointStore(directory, SETTINGS, is_chief=False)
    other.restore(model, lambda own: 1)  # although this worker also sees that of step 2
    np.testing.assert_array_equal(model.weights[0].numpy(), expected[1][0])
    assert other.restore(_model(), lambda own: -1) == []
    monkeypatch.setattr(checkpoints, "VISIBLE_SECONDS", 0.0)
    with pytest.raises(PeerFailure, match="step-00000007, which is missing or incomplete"):
        other.restore(_model(), lambda own: 7)


def test_layers_in_lists_and_dictionaries_and_random_states_are_in_a_checkpoint(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [keras.layers.BatchNormalization() for _ in range(2)]
            self.named = {"a": [keras.layers.BatchNormalization()]}
            self.dropout = keras.layers.Dropout(0.5)
            self.head = keras.layers.Dense(3)

        def call(self, x, training=False):
            for block in [*self.blocks, *self.named["a"]]:
                x = block(x, training=training)
            return self.head(self.dropout(x, training=training))

    def build():
        model = Net()
        model.compile(LARS(0.5), "mse")
        model(np.ones((1, 4), np.float32))
        model.optimizer.build(model.trainable_variables)
        return model

    trained = build()
    data = np.random.default_rng(0).normal(3.0, 2.0, (8, 4)), np.ones((8, 3))
    trained.fit(*data, batch_size=4, verbose=0)
    CheckpointStore(str(tmp_path), SETTINGS).save(trained, 2, [])
    restored = build()
    CheckpointStore(str(tmp_path), SETTINGS).restore(restored)
    assert len(trained.variables) == 2 + 3 * 4 + 1
    for one, other in zip(trained.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    reader = tf.train.load_checkpoint(str(tmp_path / "step-00000002" / "checkpoint"))
    kernels = [shape for shape in reader.get_variable_to_shape_map().values() if shape == [4, 3]]
    assert len(kernels) == 2, "the head's kernel, once, and its velocity"


def test_must_insists(tmp_path):
    with pytest.raises(InputError, match="--resume=must"):
        _restored(str(tmp_path / "none"), resume="must")


def test_others_than_the_chief_write_nothing(tmp_path):
    directory = tmp_path / "checkpoints"
    CheckpointStore(str(directory), SETTINGS, is_chief=False).save(_model(), 1, [])
    assert not directory.exists()


def test_the_state_says_what_it_belongs_to(two):
    directory, _ = two
    with open(f"{directory}/step-00000002/state.json") as file:
        state = json.load(file)
    assert state["settings"] == SETTINGS
    assert state["step"] == 2
    assert set(state["sha256"]) == {"checkpoint.index", "checkpoint.data-00000-of-00001"}


def test_the_best_is_kept_beside_the_newest(tmp_path):
    directory, model = str(tmp_path / "checkpoints"), _model()
    history = []
    for step, top1 in enumerate([0.1, 0.7, 0.3, 0.7, None, 0.2, 0.4], start=1):
        history.append({"step": step} | ({} if top1 is None else {"val_top1": top1}))
        store = CheckpointStore(directory, SETTINGS, keep=2, keep_best="val_top1")
        store.save(model, step, history)
    assert sorted(os.listdir(directory)) == ["step-00000004", "step-00000006", "step-00000007"]
    assert [c.step for c in checkpoints.complete_checkpoints(directory)] == [7, 6, 4]


def test_a_checkpoint_cut_at_any_byte_is_not_whole(two):
    directory, _ = two
    path = f"{directory}/step-00000002"
    assert checkpoints.open_checkpoint(path).step == 2
    for name in os.listdir(path):
        with open(f"{path}/{name}", "r+b") as file:
            whole = file.read()
            for length in reversed(range(len(whole))):
                file.truncate(length)
                if checkpoints.open_checkpoint(path):
                    # Only white space at the end of the JSON can be missing.
                    assert (name, whole[length:].strip()) == ("state.json", b"")
            file.seek(0)
            file.write(whole)
    assert checkpoints.open_checkpoint(path).step == 2


def test_the_number_of_steps_is_that_of_the_checkpoint(two):
    directory, _ = two
    store, _, _ = _restored(directory)
    assert store.resumed_step == 2


def test_a_disk_that_cannot_be_written_costs_a_warning_and_that_checkpoint_only(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    model = _model()
    CheckpointStore(str(tmp_path / "file" / "checkpoints"), SETTINGS).save(model, 7, [])
    assert "warning: no checkpoint of step 7 could be written" in capsys.readouterr().out


def test_a_full_disk_leaves_no_part_of_a_checkpoint_and_the_older_one_whole(tmp_path):
    with faulty_disks.small(tmp_path / "disk", megabytes=1) as disk:
        directory = disk.path / "checkpoints"
        store, model = CheckpointStore(str(directory), SETTINGS), _model()
        store.save(model, 1, [])
        disk.fill()
        store.save(model, 2, [])
        assert [path.name for path in directory.iterdir()] == ["step-00000001"]
        disk.free()
        store.save(model, 3, [])
        names = [found.step for found in checkpoints.complete_checkpoints(str(directory))]
        assert names == [3, 1]
