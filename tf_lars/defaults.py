"""Defaults and choices that the library, its launchers and its studies share; imports nothing."""

OPTIMIZERS = ("lars", "sgd", "nesterov")
"""Optimizers by name: LARS, SGD with momentum, and SGD with Nesterov momentum."""

PRECISIONS = ("float32", "bfloat16", "float16")
"""Arithmetic of a network; float16 comes with dynamic loss scaling."""

REDUCTION_DTYPES = ("float32", "bfloat16")
"""Types in which gradients may be all-reduced."""

BYTES_PER_PACK = 32 * 2**20
"""Gradients are all-reduced in packs of at most this size.

On two CPU processes over loopback, 102 MB in 160 tensors took 678 ms with packs of 32 MiB, and
1,808 ms or more with TensorFlow's default.
"""

MAX_SKIPPED_STEPS = 20
"""Steps in a row that a run skips before it ends; dynamic loss scaling needs a few to settle."""

SHORT_RUN_STEPS = 1000
"""In runs of fewer steps, moving averages of batch normalisation are useless for evaluation."""

SHORT_RUN_EXAMPLES = 8192
"""Training examples from which such runs estimate the statistics of batch normalisation."""
