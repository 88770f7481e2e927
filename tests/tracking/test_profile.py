"""Profiles of chosen steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars import LARS, Trainer
from tf_lars.tracking.profile import Profile

xplane_pb2 = pytest.importorskip(
    "tensorflow.tsl.profiler.protobuf.xplane_pb2", reason="this TensorFlow has no format of traces"
)


def _train(profile):
    """Trains for six steps, one per call of the loop."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(LARS(0.1), loss)
    x, y = np.ones((48, 4), "float32"), np.zeros(48, "int32")
    return Trainer(model, steps_per_loop=1).fit(x, y, 8, 1, verbose=0, callbacks=[profile])


def _events(path):
    """Returns the names of a trace's events, and the numbers of the steps that are marked."""
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    names, steps = set(), set()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                names.add(plane.event_metadata[event.metadata_id].name)
                for stat in event.stats:
                    if plane.stat_metadata[stat.metadata_id].name == "step_num":
                        steps.add(stat.int64_value)
    return names, steps


def test_each_chosen_step_has_a_trace_with_its_operations(tmp_path):
    history = _train(Profile(str(tmp_path), [2, 3, 5]))
    assert history[-1]["step"] == 6
    folder = tmp_path / "plugins" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["step_2", "step_3", "step_5"]
    for step in (2, 3, 5):
        (trace,) = (folder / f"step_{step}").glob("*.xplane.pb")
        names, steps = _events(trace)
        assert steps == {step}
        assert any("MatMul" in name for name in names)


def test_calls_of_the_loop_end_before_and_after_each_chosen_step():
    profile = Profile("", [20, 21, 30])
    boundaries, step = [], 0
    while (step := profile.next_boundary(step)) is not None:
        boundaries.append(step)
    assert boundaries == [19, 20, 21, 29, 30]
    assert Profile("", [1]).next_boundary(0) == 1
    assert Profile("", []).next_boundary(0) is None


def test_a_step_that_is_profiled_again_replaces_its_trace(tmp_path):
    for _ in range(2):
        profile = Profile(str(tmp_path), [1])
        profile.on_train_batch_begin(0)
        tf.constant(1.0).numpy()
        profile.on_train_batch_end(0)
    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    assert folder.name == "step_1"
    assert len(list(folder.glob("*.xplane.pb"))) == 1


def test_a_profiler_that_fails_costs_one_warning_and_not_the_run(tmp_path, capsys):
    tf.profiler.experimental.start(str(tmp_path / "another"))  # only one may run
    try:
        history = _train(Profile(str(tmp_path), [2, 3, 5]))
    finally:
        tf.profiler.experimental.stop(save=False)
    assert history[-1]["step"] == 6
    assert capsys.readouterr().out.count("warning: the profiler has failed") == 1


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    _train(Profile(str(tmp_path / "file"), [2, 3]))
    assert capsys.readouterr().out.count("warning: the profiler has failed") == 1
    # The profiler itself has ended, so that another may run.
    tf.profiler.experimental.start(str(tmp_path / "another"))
    tf.profiler.experimental.stop(save=False)
