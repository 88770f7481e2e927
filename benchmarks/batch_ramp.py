"""Cost of a batch ramp: CPU time per step in each phase, beside a fixed batch of the same size.

    python -m benchmarks.batch_ramp

One run of `tf_lars.Trainer` doubles its batch twice, with the micro-batch of its first phase. In
each phase it takes turns with a run whose batch has always been that of the phase, with the same
micro-batch; both train the network of `loop_overhead`, so small that the loop counts. A turn is 100
steps, one call of the loop; the first of a phase, which traces the loop, is listed apart. CPU time
is that of all threads of this process, so that other load on the machine affects both equally.
Writes `batch_ramp.csv`.
"""

import os
import pathlib
import statistics
import threading
import time

from absl import app, flags

from benchmarks import tables
from benchmarks.loop_overhead import network

FLAGS = flags.FLAGS

SIZES = (64, 128, 256)
STEPS_PER_TURN, WARM_UP = 100, 4


class Batches:
    """A single batch of the size of each phase, repeated, so that no loop waits for its input."""

    def __init__(self, num_examples, global_batch_size):
        from tf_lars.data import order

        self.num_examples = num_examples
        self.global_batch_size = global_batch_size
        self._steps = order.Steps.of(num_examples, global_batch_size)
        self.shape_changes = self._steps.changes

    def dataset(self, context, first_step, last_step):
        """Returns the batches as a `tf.data.Dataset`."""
        import numpy as np
        import tensorflow as tf

        size = self._steps.batch_size(first_step)
        random = np.random.default_rng(0)
        x = random.standard_normal((size, 64), np.float32)
        return tf.data.Dataset.from_tensors((x, random.integers(0, 10, size))).repeat()


class Contender:
    """A run in a separate thread, which waits before each turn until it may take it."""

    def __init__(self, data, epochs):
        self._data, self._epochs = data, epochs
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error = None
        self._thread = threading.Thread(target=self._train)
        self._thread.start()

    def turn(self):
        """Takes a turn, and returns its CPU milliseconds per step."""
        start = time.process_time()
        self._go.release()
        self._done.acquire()
        if self._error:
            raise self._error
        return 1e3 * (time.process_time() - start) / STEPS_PER_TURN

    def end(self):
        """Waits for the thread, after all turns."""
        self._go.release()
        self._thread.join()

    def _train(self):
        import keras

        from tf_lars import Trainer

        def taken(batch, logs):
            self._done.release()
            self._go.acquire()

        self._go.acquire()
        try:
            Trainer(network(), micro_batch_size=SIZES[0], steps_per_loop=STEPS_PER_TURN).fit(
                self._data,
                epochs=self._epochs,
                verbose=0,
                callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=taken)],
            )
        except Exception as error:
            self._error = error
        self._done.release()


def measure(rounds):
    """Returns a row for each phase."""
    from tf_lars.data.batch_schedule import BatchSizeSchedule

    # A turn must not extend beyond an epoch, which is a quarter of the last phase.
    turns = WARM_UP + rounds // 4 * 4
    examples = SIZES[0] * STEPS_PER_TURN * turns
    # A phase of twice the batch takes as many steps in twice the epochs.
    ratios = [size // SIZES[0] for size in SIZES]
    epochs = [sum(ratios[:i]) for i in range(len(SIZES))]
    schedule = BatchSizeSchedule(tuple(zip(epochs, SIZES, strict=True)))
    ramp = Contender(Batches(examples, schedule), sum(ratios))
    rows = []
    for ratio, size in zip(ratios, SIZES, strict=True):
        fixed = Contender(Batches(examples, size), ratio)
        times = {"ramp": [], "fixed": []}
        for turn in range(turns):
            names = ("ramp", "fixed") if turn % 2 else ("fixed", "ramp")
            for name in names:
                times[name].append((ramp if name == "ramp" else fixed).turn())
        fixed.end()
        measured = {name: values[WARM_UP:] for name, values in times.items()}
        quotients = [ours / theirs for ours, theirs in zip(*measured.values(), strict=True)]
        low, middle, high = statistics.quantiles(quotients, n=4)
        rows.append(
            {
                "batch": size,
                "micro_batches": ratio,
                "steps": STEPS_PER_TURN * turns,
                "ramp_cpu_ms_per_step": f"{statistics.median(measured['ramp']):.4f}",
                "fixed_cpu_ms_per_step": f"{statistics.median(measured['fixed']):.4f}",
                "quotient_of_turns_median": f"{middle:.3f}",
                "quotient_of_turns_quartiles": f"{low:.3f} to {high:.3f}",
                "ramp_first_call_cpu_s": f"{times['ramp'][0] * STEPS_PER_TURN / 1e3:.2f}",
                "fixed_first_call_cpu_s": f"{times['fixed'][0] * STEPS_PER_TURN / 1e3:.2f}",
            }
        )
    ramp.end()
    return rows


def main(_):
    """Runs the benchmark."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import tensorflow as tf

    rows = measure(FLAGS.rounds)
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    rows = [row | {"machine": f"{tables.machine()}, {versions}"} for row in rows]
    output = pathlib.Path(FLAGS.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    tables.write(rows, output / "batch_ramp.csv")
    tables.show([{k: v for k, v in row.items() if k != "machine"} for row in rows])


if __name__ == "__main__":
    flags.DEFINE_integer(
        "rounds", 100, "Measured turns of 100 steps in each phase; a multiple of 4.", lower_bound=4
    )
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table.")
    app.run(main)
