"""Overhead of training loops: CPU time per step of a model so small that the loop dominates.

    python -m benchmarks.loop_overhead

Six loops train the same network on the same batches: `tf_lars.Trainer` with 100 steps per call (by
default it would choose thousands), Keras's `fit` with one and with 100 steps per execution, and
three bare loops: a `tf.function` called for each step, as in TensorFlow's guides; one that takes
100 steps without checking that gradients are finite; and one that skips a step if they are not, as
the Trainer does. The loops take turns, each in a separate thread that waits for the others, so that
other load on the machine affects all equally. CPU time is that of all threads of this process.
Writes `loop_overhead.csv` and a chart.
"""

import os
import pathlib
import platform
import statistics
import threading
import time

from absl import app, flags

from benchmarks import tables

FLAGS = flags.FLAGS

STEPS_PER_CALL, BATCH, WARM_UP = 100, 32, 3
TRAINER = "tf_lars.Trainer"
FIT = "Keras fit"
FIT_MANY = f"Keras fit, steps_per_execution={STEPS_PER_CALL}"
BARE_ONE = "bare tf.function, one step per call"
BARE = f"bare tf.function, {STEPS_PER_CALL} steps per call"
BARE_SKIPPING = f"{BARE}, skips bad steps"


def take_turns(contenders, steps, rounds):
    """Returns {name: CPU milliseconds per step, one for each round}.

    Each contender has a thread; one runs at a time, until it has taken `steps` steps.

    Args:
        contenders: {name: function of `(total_steps, taken)`}, which trains for `total_steps` and
            calls `taken(n)` after every n of them.
        steps: Number of steps per turn.
        rounds: Number of measured turns per contender, after `WARM_UP` turns that are not.
    """
    go = {name: threading.Semaphore(0) for name in contenders}
    done = threading.Semaphore(0)
    times = {name: [] for name in contenders}
    ended, errors = set(), []

    def contend(name):
        left, start = steps, 0.0

        def taken(count):
            nonlocal left, start
            left -= count
            if left > 0:
                return
            times[name].append(1e3 * (time.process_time() - start) / steps)
            done.release()
            go[name].acquire()
            left, start = steps, time.process_time()

        go[name].acquire()
        start = time.process_time()
        try:
            contenders[name](steps * (rounds + WARM_UP), taken)
        except Exception as error:
            errors.append(error)
        finally:
            ended.add(name)
            done.release()

    threads = [threading.Thread(target=contend, args=(name,)) for name in contenders]
    for thread in threads:
        thread.start()
    for _ in range(rounds + WARM_UP):
        for name in contenders:
            if name not in ended:
                go[name].release()
                done.acquire()
    for name, thread in zip(contenders, threads, strict=True):
        go[name].release()
        thread.join()
    if errors:
        raise errors[0]
    return {name: values[WARM_UP:] for name, values in times.items()}


def network():
    """Returns a compiled perceptron with 2,410 parameters."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Batches:
    """A single batch, repeated endlessly, so that no loop waits for its input."""

    global_batch_size = BATCH
    shape_changes = ()

    def __init__(self, steps):
        self.num_examples = BATCH * steps

    def dataset(self, context=None, first_step=0, last_step=0):
        """Returns the batches as a `tf.data.Dataset`."""
        import numpy as np
        import tensorflow as tf

        random = np.random.default_rng(0)
        x = random.standard_normal((BATCH, 64), np.float32)
        return tf.data.Dataset.from_tensors((x, random.integers(0, 10, BATCH))).repeat()


def trainer(total, taken):
    """Trains with `tf_lars.Trainer`."""
    import keras

    from tf_lars import Trainer

    Trainer(network(), steps_per_loop=STEPS_PER_CALL).fit(
        Batches(total),
        epochs=1,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: taken(STEPS_PER_CALL)
            )
        ],
    )


def fit(steps_per_execution):
    """Returns the contender with Keras's `fit`."""

    def run(total, taken):
        import keras

        model = network()
        model.steps_per_execution = steps_per_execution
        model.fit(
            Batches(total).dataset(),
            steps_per_epoch=total,
            verbose=0,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_train_batch_end=lambda batch, logs: taken(steps_per_execution)
                )
            ],
        )

    return run


def bare(steps_per_call, skips_bad_steps=False):
    """Returns a contender that takes the same steps, with the same metrics, without a Trainer."""

    def run(total, taken):
        import keras
        import tensorflow as tf

        model = network()
        optimizer, variables = model.optimizer, model.trainable_variables
        optimizer.build(variables)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        mean, accuracy = keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()

        def step(iterator):
            x, y = next(iterator)
            with tf.GradientTape() as tape:
                logits = model(x, training=True)
                loss = loss_of(y, logits)
            gradients = tape.gradient(loss, variables)
            if not skips_bad_steps or all_finite(gradients):
                optimizer.apply(gradients, variables)
            mean.update_state(loss)
            accuracy.update_state(y, logits)

        def all_finite(gradients):
            return tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])

        @tf.function
        def loop(iterator):
            if steps_per_call == 1:
                step(iterator)
            else:
                for _ in tf.range(steps_per_call):
                    step(iterator)
            return mean.result(), accuracy.result()

        iterator = iter(Batches(total).dataset())
        for _ in range(total // steps_per_call):
            for value in loop(iterator):
                float(value)
            taken(steps_per_call)

    return run


def contenders():
    """Returns {name: contender}."""
    return {
        TRAINER: trainer,
        FIT: fit(1),
        FIT_MANY: fit(STEPS_PER_CALL),
        BARE_ONE: bare(1),
        BARE: bare(STEPS_PER_CALL),
        BARE_SKIPPING: bare(STEPS_PER_CALL, skips_bad_steps=True),
    }


def table(times):
    """Returns the rows of the table: median CPU times and their ratios to reference loops."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "loop": name,
            "cpu_ms_per_step_median": round(median, 4),
            "cpu_ms_per_step_min": round(min(times[name]), 4),
            "to_fit": round(median / medians[FIT], 3),
            "to_bare": round(median / medians[BARE], 3),
            "to_bare_skipping": round(median / medians[BARE_SKIPPING], 3),
            "turns": len(times[name]),
        }
        for name, median in medians.items()
    ]


def chart(rows, path):
    """Draws a bar chart of the loops' CPU times."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(
        [row["loop"] for row in rows],
        [row["cpu_ms_per_step_median"] for row in rows],
        color=["tab:red" if row["loop"] == TRAINER else "tab:blue" for row in rows],
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per step, median, perceptron with 2,410 parameters")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from benchmarks import optimizer_peers

    print(tables.machine())
    print(f"Python {platform.python_version()}, {optimizer_peers.versions()}")
    rows = table(take_turns(contenders(), FLAGS.steps_per_turn, FLAGS.rounds))
    tables.show(rows)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(rows, folder / "loop_overhead.csv")
    chart(rows, folder / "loop_overhead.png")


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 40, "Measured turns per loop.", lower_bound=1)
    flags.DEFINE_integer(
        "steps_per_turn", 1000, "Steps per turn, a multiple of 100.", lower_bound=STEPS_PER_CALL
    )
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table and the chart.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
