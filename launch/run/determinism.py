"""Runs that end with the same bits each time."""

import os
import sys


def enable() -> None:
    """Has TensorFlow use deterministic kernels only; to be called before TensorFlow is imported.

    oneDNN is switched off, because it may choose its kernels by the load of the machine.
    """
    if "tensorflow" in sys.modules:
        raise RuntimeError("Determinism must be chosen before TensorFlow is imported.")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
