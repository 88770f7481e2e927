"""CPU time of RandAugment in tf_lars and other libraries, compared in one run on one core.

    python -m benchmarks.augmentation --images=../shared/data/imagenet_photos.tar

Each contender augments the same decoded 224-pixel photographs in one thread, with two operations
per image. Contenders take turns, in a new order every round, so that other load on the machine
affects all equally. Times are CPU times of the process, minus that of a pipeline without
augmentation. Libraries that are not installed are skipped with a message. Also measured: each
operation of tf_lars separately, AugMix, and the random draws of MixUp, CutMix and random erasing.
Writes `augmentation.csv` and a chart.

The photographs are not in the repository: `--images` is a tar of JPEGs, by default
`../shared/data/imagenet_photos.tar`, next to the checkout.
"""

import importlib.metadata
import io
import os
import pathlib
import platform
import random
import statistics
import tarfile
import time

from absl import app, flags

from benchmarks import tables

FLAGS = flags.FLAGS

NOTHING, OURS, TF_MODELS = "no augmentation", "tf_lars RandAugment", "tf-models RandAugment"
PACKAGES = ("tensorflow", "keras", "keras-cv", "tf-models-official", "tf-keras")
BUDGET_MS = 4.0


def load(path, count, size):
    """Returns the centres of up to `count` JPEGs in a tar, as uint8 `[n, size, size, 3]`."""
    import numpy as np
    from PIL import Image

    images = []
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and len(images) < count:
                picture = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                side = min(picture.size)
                left, top = (picture.width - side) // 2, (picture.height - side) // 2
                square = picture.crop((left, top, left + side, top + side))
                images.append(np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(images)


def ours(magnitude):
    """RandAugment of tf_lars.data.augment, on uint8, with the example's index as random key."""
    from tf_lars.data import augment

    policy = augment.policy("randaugment", magnitude)
    return lambda image, index: policy(image, _key(index))


def keras_cv_layer(magnitude):
    """keras_cv.layers.RandAugment, which has ten operations, without rotate and sharpness."""
    import keras_cv

    layer = keras_cv.layers.RandAugment(
        (0, 255), augmentations_per_image=2, magnitude=magnitude / 10
    )
    return lambda image, index: layer(image)


def keras_layer(magnitude):
    """keras.layers.RandAugment."""
    import keras

    layer = keras.layers.RandAugment((0, 255), num_ops=2, factor=magnitude / 10)
    return lambda image, index: layer(image)


def tf_models(magnitude):
    """tf-models-official: official/vision/ops/augment.py, with defaults except the magnitude."""
    from official.vision.ops import augment

    policy = augment.RandAugment(num_layers=2, magnitude=magnitude)
    return lambda image, index: policy.distort(image)


def augmix(magnitude):
    """AugMix of tf_lars.data.augment: three chains of one to three operations."""
    from tf_lars.data import augment

    policy = augment.policy("augmix", magnitude)
    return lambda image, index: policy(image, _key(index))


def keras_cv_augmix(magnitude):
    """keras_cv.layers.AugMix."""
    import keras_cv

    layer = keras_cv.layers.AugMix((0, 255))
    return lambda image, index: layer(image)


def mixing_draws(magnitude):
    """Random draws of MixUp, CutMix and random erasing together."""
    from tf_lars.data.mixing import Mixing

    mixing = Mixing(0.2, 1.0, 0.5)

    def draw(image, index):
        return image, mixing.draw(_key(index), image.shape[0], image.shape[1])

    return draw


def _key(index):
    import tensorflow as tf

    return tf.stack([tf.constant(0, tf.int64), index])


CONTENDERS = {
    NOTHING: lambda magnitude: lambda image, index: image,
    OURS: ours,
    TF_MODELS: tf_models,
    "keras-cv RandAugment layer": keras_cv_layer,
    "Keras RandAugment layer": keras_layer,
    "tf_lars AugMix": augmix,
    "keras-cv AugMix layer": keras_cv_augmix,
    "tf_lars draws of MixUp, CutMix, erasing": mixing_draws,
}


def operations(magnitude):
    """Returns {name: function} for each operation of tf_lars at one magnitude."""
    import tensorflow as tf

    from tf_lars.data import augment

    strength, sign = tf.constant(magnitude / 10), tf.constant(1.0)
    return {
        f"  {name}": lambda image, index, apply=apply: apply(image, strength, sign)
        for name, apply in augment._operations().items()
    }


def pipelines(images, magnitude, with_operations):
    """Returns {name: endless iterator} of all installed contenders, with one thread each."""
    import tensorflow as tf

    functions = {}
    for name, make in CONTENDERS.items():
        try:
            functions[name] = make(magnitude)
        except ImportError as error:
            print(f"skipped: {name} ({error})")
    if with_operations and OURS in functions:
        functions |= operations(magnitude)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    base = tf.data.Dataset.from_tensor_slices((images, tf.range(len(images), dtype=tf.int64)))
    base = base.repeat()
    return {name: iter(base.map(one).with_options(options)) for name, one in functions.items()}


def measure(iterators, count, rounds):
    """Returns {name: CPU milliseconds per image}, a value per round, after a warm-up round."""
    times = {name: [] for name in iterators}
    order = list(iterators)
    shuffle = random.Random(0).shuffle
    for round_ in range(-1, rounds):
        shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(count):
                next(iterators[name])
            if round_ >= 0:
                times[name].append(1e3 * (time.process_time() - start) / count)
    return times


def table(times, rounds):
    """Returns rows of milliseconds beyond the empty pipeline, and their ratio to tf_lars."""
    base = statistics.median(times[NOTHING])
    net = {name: statistics.median(values) - base for name, values in times.items()}
    return [
        {
            "augmentation": name,
            "cpu_ms_median": round(net[name], 3),
            "cpu_ms_min": round(min(values) - base, 3),
            "cpu_to_tf_lars": round(net[name] / net[OURS], 2) if OURS in net else "",
            "rounds": rounds,
        }
        for name, values in times.items()
        if name != NOTHING
    ]


def write(rows, path):
    """Writes the table as CSV."""
    tables.write([{**row, "augmentation": row["augmentation"].strip()} for row in rows], path)


def chart(rows, path):
    """Draws a bar chart of CPU times, with the budget as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    names = [row["augmentation"] for row in rows]
    bars = axes.barh(
        range(len(rows)),
        [row["cpu_ms_median"] for row in rows],
        color=[
            "tab:red" if n.startswith("tf_lars") else "tab:orange" if n[0] == " " else "tab:blue"
            for n in names
        ],
    )
    axes.bar_label(bars, fmt="%.2f", padding=3, bbox={"facecolor": "white", "lw": 0, "pad": 0.5})
    axes.set_yticks(range(len(rows)), [name.strip() for name in names])
    axes.axvline(BUDGET_MS, color="0.4", linestyle=":", zorder=0, label=f"{BUDGET_MS:g} ms")
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per image on one core, median; orange: one operation of tf_lars")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(tables.machine())
    print(f"Python {platform.python_version()}, {_versions()}, 1 thread")
    if not pathlib.Path(FLAGS.images).is_file():
        raise SystemExit(f"--images must be a tar file of JPEGs. Received: {FLAGS.images!r}.")
    images = load(FLAGS.images, FLAGS.count, FLAGS.image_size)
    iterators = pipelines(images, FLAGS.magnitude, FLAGS.operations)
    rows = table(measure(iterators, len(images), FLAGS.rounds), FLAGS.rounds)
    for row in rows:
        print("  ".join(f"{value!s:<12}" for value in list(row.values())[1:4]), row["augmentation"])
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write(rows, folder / "augmentation.csv")
    chart(rows, folder / "augmentation.png")


def _versions():
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_string(
        "images",
        str(pathlib.Path(__file__).resolve().parents[2] / "shared/data/imagenet_photos.tar"),
        "Tar file of JPEGs, not part of the repository.",
    )
    flags.DEFINE_integer("rounds", 9, "Interleaved rounds over the contenders.", lower_bound=1)
    flags.DEFINE_integer("count", 200, "Images per contender and round.", lower_bound=1)
    flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.", lower_bound=8)
    flags.DEFINE_float("magnitude", 9.0, "Magnitude of RandAugment, from 0 to 10.")
    flags.DEFINE_boolean("operations", True, "Also measure each operation of tf_lars.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table and the chart.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
