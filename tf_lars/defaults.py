"""Defaults and choices that the library, its launchers and its studies share; imports nothing."""

OPTIMIZERS = ("lars", "sgd", "nesterov")
"""Optimizers by name: LARS, SGD with momentum, and SGD with Nesterov momentum."""

STUDY_OPTIMIZERS = (*OPTIMIZERS, "lamb", "adamw", "muon")
"""Optimizers of `launch.large_batch_study`, which compares those above with Keras's."""

PRECISIONS = ("float32", "bfloat16", "float16")
"""Precisions of a network's arithmetic; float16 includes dynamic loss scaling."""

REDUCTION_DTYPES = ("float32", "bfloat16")
"""Types in which gradients may be all-reduced."""

BYTES_PER_PACK = 32 * 2**20
"""Maximum size of the packs in which gradients are all-reduced.

On two CPU processes over loopback, 102 MB in 160 tensors took 678 ms with packs of 32 MiB, and
1,808 ms or more with TensorFlow's default.
"""

MAX_SKIPPED_STEPS = 20
"""Number of skipped steps in a row that ends a run; dynamic loss scaling needs a few to settle."""

SHORT_RUN_STEPS = 1000
"""Number of steps below which batch normalisation's moving averages are useless for evaluation."""

SHORT_RUN_EXAMPLES = 8192
"""Number of training examples from which short runs estimate batch normalisation's statistics."""
