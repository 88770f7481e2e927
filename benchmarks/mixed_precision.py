"""CPU time per image to train ResNet-50 in float32 and bfloat16, with Keras's and fused batch norm.

    python -m benchmarks.mixed_precision

Four `tf_lars.Trainer`s take turns in one process, on one batch of noise in memory, with LARS. The
result depends on the processor's bfloat16 instructions; its flags are printed. Writes
`mixed_precision.csv`.
"""

import itertools
import os
import pathlib
import platform
import statistics

from absl import app, flags

from benchmarks import tables
from benchmarks.loop_overhead import take_turns

FLAGS = flags.FLAGS
POLICIES = ("float32", "mixed_bfloat16")
BATCH_NORMS = ("Keras", "fused")


def contender(policy, batch_norm):
    """Returns a function of `(total_steps, taken)` that trains under a dtype policy."""

    def run(total, taken):
        import keras
        import numpy as np
        import tensorflow as tf

        import models
        from tf_lars import LARS, Trainer
        from tf_lars.training.fused_batch_norm import fuse_batch_norm

        before = keras.mixed_precision.global_policy()
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model = models.create("resnet50", num_classes=1000, image_size=FLAGS.image_size)
        finally:
            keras.mixed_precision.set_dtype_policy(before)
        if batch_norm == "fused":
            fuse_batch_norm(model)
        model.compile(
            LARS(1.0, weight_decay=5e-5),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

        class Noise:
            global_batch_size = FLAGS.batch_size
            shape_changes = ()
            num_examples = FLAGS.batch_size * total

            def dataset(self, context, first_step, last_step):
                random = np.random.default_rng(0)
                side = FLAGS.image_size
                x = random.integers(0, 256, (FLAGS.batch_size, side, side, 3)).astype(np.uint8)
                y = random.integers(0, 1000, FLAGS.batch_size)
                return tf.data.Dataset.from_tensors((x, y)).repeat()

        step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: taken(1))
        Trainer(model, steps_per_loop=1).fit(Noise(), epochs=1, callbacks=[step])

    return run


def table(times, batch_size):
    """Returns the rows of the table from {(policy, batch norm): CPU milliseconds per step}."""
    medians = {case: statistics.median(values) / batch_size for case, values in times.items()}
    reference = medians["float32", "Keras"]
    return [
        {
            "policy": policy,
            "batch_norm": batch_norm,
            "cpu_ms_per_image_median": round(median, 3),
            "cpu_ms_per_image_min": round(min(times[policy, batch_norm]) / batch_size, 3),
            "images_per_cpu_second": round(1000 / median, 2),
            "rate_to_float32_and_keras": round(reference / median, 3),
            "turns": len(times[policy, batch_norm]),
        }
        for (policy, batch_norm), median in medians.items()
    ]


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import keras
    import tensorflow as tf

    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().split()
    able = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in cpuinfo]
    print(tables.machine(), "with", " and ".join(able) or "neither avx512_bf16 nor amx_bf16")
    print(
        f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras "
        f"{keras.__version__}, batch {FLAGS.batch_size}, {FLAGS.image_size} px"
    )
    contenders = {case: contender(*case) for case in itertools.product(POLICIES, BATCH_NORMS)}
    rows = table(take_turns(contenders, steps=1, rounds=FLAGS.rounds), FLAGS.batch_size)
    tables.show(rows)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    tables.write(rows, output_dir / "mixed_precision.csv")


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 9, "Measured steps per policy, in turns.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Images per step.", lower_bound=1)
    flags.DEFINE_integer("image_size", 64, "Side of the images in pixels.", lower_bound=32)
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table.")
    app.run(main)
