"""Bit-for-bit reproducible runs."""

import os
import sys


def enable() -> None:
    """Restricts TensorFlow to deterministic kernels; must be called before it is imported.

    Also disables oneDNN, which may choose its kernels by the load of the machine.
    """
    if "tensorflow" in sys.modules:
        raise RuntimeError("Determinism must be enabled before TensorFlow is imported.")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
