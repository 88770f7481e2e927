"""The exported training step, run by JAX on the device that it finds, beside TensorFlow's.

    python -m benchmarks.xla_step --export=step.zip --model=small_resnet14 --image_size=32
    .venv-compile/bin/python -m benchmarks.xla_step --run=step.zip
    .venv-compile/bin/python -m benchmarks.xla_step --time=lars.zip,sgd.zip

The first command, in TensorFlow's environment, exports the step of one replica together with a
batch, the initial weights, and the weights after each of three steps that TensorFlow has taken
without XLA. Dropout is off, because XLA draws other random numbers. The second command needs JAX
and no TensorFlow: it compares weights, velocities and statistics. The third times steps,
interleaved, and writes `xla_step.csv`: images per second, share of the roofline, memory, and the
time of each beside that of the first. On one device, there is nothing to reduce.

Not run on a GPU: none was there. On the host that has one, with the driver alone,

    pip install "jax[cuda12]==0.10.2" absl-py google-crc32c
    python -m benchmarks.xla_step --time=... --peak_flops=989e12 --memory_bandwidth=3.35e12
"""

import json
import pathlib
import statistics
import time

import numpy as np
from absl import app, flags

from benchmarks import tables
from tf_lars.xla import exported_step

FLAGS = flags.FLAGS

STEPS = 3

NOISE = 1e-3
"""Relative difference of TensorFlow's values for another order of the examples, above which they
are rounding."""


def export(path):
    """Exports a step with the values before and after it."""
    import dataclasses

    import keras
    import tensorflow as tf

    from launch.run import build_input, replica_step
    from launch.run.settings import TrainingSettings

    settings = TrainingSettings(
        model=FLAGS.model,
        image_size=FLAGS.image_size,
        data=f"synthetic:{FLAGS.batch * 100}:{FLAGS.classes}",
        global_batch_size=FLAGS.batch,
        optimizer=FLAGS.optimizer,
        learning_rate=FLAGS.learning_rate,
        warmup_epochs=0.0,
        epochs=1,
        mixed_precision=FLAGS.mixed_precision,
        noise_scale=False,
    )
    program, about = replica_step.program(settings, 1, None)
    for layer in program.model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    step = program.exported(about)
    data = build_input.training(settings, FLAGS.batch)
    element = next(iter(data.dataset(tf.distribute.InputContext(), 0, 1)))
    leaves = zip(step.arguments, tf.nest.flatten(element), strict=True)
    values = {tensor.name: leaf.numpy() for tensor, leaf in leaves}
    start = program.state_values()
    values |= start
    taken = range(1, STEPS + 1 if FLAGS.reference else 1)
    for number in taken:
        program.take_step(element)
        after = program.state_values()
        values |= {f"after_{number}/{t.name}": after[t.name] for t in step.state}
    program.set_state(start)
    element = tf.nest.map_structure(lambda leaf: tf.reverse(leaf, [0]), element)
    for number in taken:
        program.take_step(element)
        after = program.state_values()
        noise = [relative(after[t.name], values[f"after_{number}/{t.name}"]) for t in step.state]
        values[f"noise_{number}"] = np.array(noise)
    exported_step.write(path, dataclasses.replace(step, values=values))
    print(f"exported to {path}, {keras.__version__=}")


class Running:
    """A step on this machine's device, with its state.

    Args:
      path: Path of the exported step.
    """

    def __init__(self, path):
        import jax

        from tf_lars.xla import compiler

        self.step = exported_step.read(path)
        self._run, self.compiled = compiler.runner(self.step)
        names = [t.name for t in (*self.step.arguments, *self.step.state)]
        self._inputs = [jax.device_put(self.step.values[name]) for name in names]

    def take(self):
        """Takes a step, and returns when it is done."""
        import jax

        outputs = self._run(self._inputs)
        first = len(self.step.arguments)
        for i, value in zip(self.step.changed, outputs[len(self.step.results) :], strict=True):
            self._inputs[first + i] = value
        jax.block_until_ready(self._inputs)

    def state(self):
        """Returns the state by name."""
        values = self._inputs[len(self.step.arguments) :]
        return {t.name: np.asarray(v) for t, v in zip(self.step.state, values, strict=True)}


def differences(path):
    """Returns, for each step, the largest relative difference from TensorFlow's of any variable.

    Variables are left out, and named, of which TensorFlow's own values depend on the order of the
    examples by more than `NOISE`: their gradient is 0, such as that of a bias before batch
    normalisation, and what they hold is rounding; or an activation is so near 0 that rounding
    decides whether ReLU passes it on. They stay left out, since they accumulate what they hold.
    """
    running = Running(path)
    step, found = running.step, []
    noise = np.zeros(len(step.state))
    for number in range(1, STEPS + 1):
        running.take()
        state, noise = running.state(), np.maximum(noise, step.values[f"noise_{number}"])
        names = [step.state[i].name for i in step.changed if noise[i] <= NOISE]
        left_out = [step.state[i].name for i in step.changed if noise[i] > NOISE]
        errors = {
            name: relative(state[name], step.values[f"after_{number}/{name}"]) for name in names
        }
        worst = max(errors, key=errors.__getitem__)
        found.append(errors[worst])
        print(
            f"step {number}: largest relative difference {errors[worst]:.2e} of {len(names)} "
            f"variables, in {worst}; rounding: {', '.join(left_out) or 'none'}",
            flush=True,
        )
    return found


def relative(value, expected):
    """Returns the norm of the difference, relative to that of the expected value."""
    difference = np.linalg.norm(value.astype(np.float64) - expected.astype(np.float64))
    return float(difference / (np.linalg.norm(expected.astype(np.float64)) or 1.0))


def timed(paths):
    """Returns a row for each step, whose turns are interleaved."""
    import jax

    from tf_lars.xla import compiler

    contenders = [Running(path) for path in paths]
    seconds = [[] for _ in contenders]
    for turn in range(FLAGS.turns + 1):
        for i, running in enumerate(contenders):
            start = time.perf_counter()
            for _ in range(FLAGS.steps_per_turn):
                running.take()
            if turn:  # the first warms up
                seconds[i].append((time.perf_counter() - start) / FLAGS.steps_per_turn)
    rows = []
    device = jax.devices()[0]
    statistics_of_device = device.memory_stats() or {}
    for running, measured in zip(contenders, seconds, strict=True):
        about = running.step.about
        middle = statistics.median(measured)
        flops, moved = compiler.costs(running.step, running.compiled)
        least = max(flops / FLAGS.peak_flops, moved / FLAGS.memory_bandwidth)
        rows.append(
            {
                "device": device.device_kind,
                "model": about["model"],
                "image_size": about["image_size"],
                "precision": about["mixed_precision"],
                "optimizer": about["optimizer"],
                "batch": about["per_replica_batch_size"],
                "images_per_second": f"{about['per_replica_batch_size'] / middle:.1f}",
                "ms_per_step": f"{1e3 * middle:.3f}",
                "share_of_roofline": f"{least / middle:.3f}" if FLAGS.peak_flops < 1e30 else "",
                "time_beside_the_first": f"{middle / statistics.median(seconds[0]):.4f}",
                "compiled_bytes": compiler.peak_bytes(compiler.memory_parts(running.compiled)),
                "peak_bytes_in_use": statistics_of_device.get("peak_bytes_in_use", ""),
                "versions": compiler.versions(),
                "machine": tables.machine(),
            }
        )
    return rows


def main(_):
    """Runs the benchmark."""
    if FLAGS.export:
        export(FLAGS.export)
    if FLAGS.run:
        print(json.dumps(differences(FLAGS.run)))
    if FLAGS.time:
        rows = timed(FLAGS.time)
        tables.show([{k: v for k, v in row.items() if k != "machine"} for row in rows])
        output = pathlib.Path(FLAGS.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        tables.write(rows, output / "xla_step.csv")


if __name__ == "__main__":
    flags.DEFINE_string("export", "", "File to export a step to.")
    flags.DEFINE_string("run", "", "File whose step is compared with TensorFlow's.")
    flags.DEFINE_list("time", [], "Files whose steps are timed, with commas between them.")
    flags.DEFINE_string("model", "small_resnet14", "Model of the export.")
    flags.DEFINE_integer("image_size", 32, "Side of its images.")
    flags.DEFINE_integer("batch", 16, "Its batch.")
    flags.DEFINE_integer("classes", 10, "Its classes.")
    flags.DEFINE_string("optimizer", "lars", "Its optimizer.")
    flags.DEFINE_float("learning_rate", 0.1, "Its learning rate.")
    flags.DEFINE_string("mixed_precision", "float32", "Its precision.")
    flags.DEFINE_bool("reference", True, "Whether TensorFlow takes the steps too.")
    flags.DEFINE_integer("turns", 10, "Turns of each contender.", lower_bound=1)
    flags.DEFINE_integer("steps_per_turn", 10, "Steps of a turn.", lower_bound=1)
    flags.DEFINE_float("peak_flops", 1e30, "Peak of the device in FLOP/s, for the roofline.")
    flags.DEFINE_float("memory_bandwidth", 1e30, "Its bandwidth in bytes/s.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table.")
    app.run(main)
