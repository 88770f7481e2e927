"""CPU time of AlexNet's grouped convolutions, compared with Keras and TensorFlow in one run.

    python -m benchmarks.grouped_convolution

Forward and backward passes through conv2, conv4 and conv5 at 227 pixels, with two groups each, by
`models.alexnet.GroupedConv2D`, by `keras.layers.Conv2D(groups=2)`, which compiles them with XLA,
and by `tf.nn.conv2d`, which accepts grouped filters directly. Contenders take turns, in a new order
every round, so that other load on the machine affects all equally. Times are CPU times of all
threads. Writes `grouped_convolution.csv` and a chart.
"""

import os
import pathlib
import platform
import random
import statistics
import time

from absl import app, flags

from benchmarks import tables

FLAGS = flags.FLAGS

OURS, KERAS, NATIVE = "models GroupedConv2D", "keras Conv2D(groups=2)", "tf.nn.conv2d"
# Side and channels of the input, channels of the output, kernel.
LAYERS = {"conv2": (27, 96, 256, 5), "conv4": (13, 384, 384, 3), "conv5": (13, 384, 256, 3)}


def steps(side, channels, filters, kernel, batch):
    """Returns {name: function without arguments} that computes the gradients of one layer.

    All have the same weights and images, and return the gradients of the sum of squares with
    respect to images, kernel and bias.
    """
    import keras
    import tensorflow as tf

    from models.alexnet import GroupedConv2D

    images = tf.random.stateless_normal([batch, side, side, channels], seed=[0, 1])
    layer, theirs = (
        cls(filters, kernel, padding="same", groups=2)
        for cls in (GroupedConv2D, keras.layers.Conv2D)
    )
    layer.build(images.shape)
    theirs.build(images.shape)
    theirs.set_weights(layer.get_weights())
    weights = [layer.kernel.value, layer.bias.value]

    def gradients(function, weights):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = tf.reduce_sum(function(images) ** 2)
            return tape.gradient(loss, [images, *weights])

        return step

    return {
        OURS: gradients(layer, weights),
        KERAS: gradients(theirs, [theirs.kernel.value, theirs.bias.value]),
        NATIVE: gradients(lambda x: tf.nn.conv2d(x, weights[0], 1, "SAME") + weights[1], weights),
    }


def measure(contenders, rounds):
    """Returns {name: CPU milliseconds}, one value per round, after a warm-up round."""
    times = {name: [] for name in contenders}
    order = list(contenders)
    shuffle = random.Random(0).shuffle
    for round_ in range(-1, rounds):
        shuffle(order)
        for name in order:
            start = time.process_time()
            for gradient in contenders[name]():
                gradient.numpy()
            if round_ >= 0:
                times[name].append(1e3 * (time.process_time() - start))
    return times


def table(layer, times):
    """Returns the rows of the table for one layer."""
    ours = statistics.median(times[OURS])
    return [
        {
            "layer": layer,
            "convolution": name,
            "cpu_ms_median": round(statistics.median(values), 1),
            "cpu_ms_min": round(min(values), 1),
            "cpu_to_ours": round(statistics.median(values) / ours, 2),
            "rounds": len(values),
        }
        for name, values in times.items()
    ]


def chart(rows, path):
    """Draws a bar chart of the CPU times of all contenders and layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, colour) in enumerate(
        [(OURS, "tab:red"), (NATIVE, "tab:cyan"), (KERAS, "tab:blue")]
    ):
        values = [row["cpu_ms_median"] for row in rows if row["convolution"] == name]
        positions = [layer + 0.27 * (i - 1) for layer in range(len(values))]
        bars = axes.bar(positions, values, 0.25, color=colour, label=name)
        axes.bar_label(bars, fmt="%.0f", padding=2)
    axes.set_xticks(range(len(LAYERS)), list(LAYERS))
    axes.set_yscale("log")
    axes.set_ylabel("CPU ms, forward and backward, median")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import keras
    import tensorflow as tf

    print(tables.machine())
    print(
        f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras "
        f"{keras.__version__}, batch {FLAGS.batch}, {len(os.sched_getaffinity(0))} cores"
    )
    rows = []
    for layer, shape in LAYERS.items():
        rows += table(layer, measure(steps(*shape, FLAGS.batch), FLAGS.rounds))
    tables.show(rows)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(rows, folder / "grouped_convolution.csv")
    chart(rows, folder / "grouped_convolution.png")


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 9, "Interleaved rounds over the contenders.", lower_bound=1)
    flags.DEFINE_integer("batch", 64, "Images per step.", lower_bound=1)
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table and the chart.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
