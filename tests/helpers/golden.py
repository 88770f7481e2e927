"""Weights after 20 LARS steps, computed by other implementations (tests/golden).

tests/golden/presets.npz holds, by `PRESET_DECAY|STEP|VARIABLE`, float32 weights after steps 1 and
20 on the variables and gradients of tests/golden/lars_golden.npz, at five times its learning rates,
so that the first step, which moves the zero weights, is at a rate of 2. All have momentum 0.9 and
were computed with PyTorch 2.15 on a CPU:

| preset | original |
|---|---|
| timm | timm 1.0.31, `create_optimizer_v2(model, opt="lars")` |
| bolts | lightning-bolts 0.7.0, pl_bolts/optimizers/lars.py; no decay for parameters of rank 1 |
| apex | NVIDIA/apex apex/parallel/LARC.py at 0bfb8300 over `torch.optim.SGD` |
"""

import functools
import json

import numpy as np

from tests.helpers.paths import ROOT

FOLDER = ROOT / "tests" / "golden"
TOLERANCE = 2e-6


def keras_steps(optimizer, mode):
    """Lets an optimizer of Keras train the initial weights.

    Args:
      optimizer: Optimizer that is not built.
      mode: "eager", "graph" or "jit".

    Returns:
      A function from gradients and a learning rate, which takes a step, and a function that
      returns the weights.
    """
    import tensorflow as tf

    variables = [
        tf.Variable(w, name=name) for name, w in zip(names(), initial_weights(), strict=True)
    ]
    optimizer.build(variables)

    def apply(*gradients):
        optimizer.apply(gradients, variables)

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "jit")

    def take_step(gradients, rate):
        optimizer.learning_rate = rate
        apply(*map(tf.constant, gradients))

    return take_step, lambda: [v.numpy() for v in variables]


@functools.cache
def manifest():
    return json.loads((FOLDER / "manifest.json").read_text())


@functools.cache
def arrays():
    with np.load(FOLDER / "lars_golden.npz") as file:
        return dict(file)


def configs():
    return sorted(manifest()["configs"])


def names():
    return [variable["name"] for variable in manifest()["variables"]]


def initial_weights():
    return [arrays()[f"w0|{name}"] for name in names()]


def gradients(step):
    return [arrays()[f"grads|{name}"][step] for name in names()]


def learning_rates():
    return arrays()["lr"]


def arguments(config):
    """Returns the arguments of `LARS` for a configuration, except the learning rate."""
    c = manifest()["configs"][config]
    return {
        "momentum": c["momentum"],
        "weight_decay": c["weight_decay"],
        "trust_coefficient": c["eta"],
        "epsilon": c["eps"],
        "nesterov": c["nesterov"],
        "momentum_form": c["form"],
        "trust_norm": c["norm"],
        "clip_trust_ratio": c["clip"],
        "exclude_from_weight_decay": c["exclude_wd"],
        "exclude_from_layer_adaptation": c["exclude_adapt"],
    }


def relative_error(value, reference):
    scale = np.abs(reference).max()
    return np.abs(value - reference).max() / (scale if scale else 1.0)


def check(config, take_step, read, tolerance=TOLERANCE):
    """Takes 20 steps; compares kept steps with float64, and the last one with the originals.

    Args:
        config: Name of the configuration.
        take_step: Function of (gradients, learning rate).
        read: Function that returns the weights in the order of `names()`.
        tolerance: Limit of max|x - ref| / max|ref| for each variable.
    """
    kept = manifest()["kept_steps"]
    for step, rate in enumerate(learning_rates()):
        take_step(gradients(step), rate)
        if step + 1 in kept:
            for name, value in zip(names(), read(), strict=True):
                reference = arrays()[f"{config}|f64|{name}"][kept.index(step + 1)]
                error = relative_error(value, reference)
                assert error <= tolerance, (config, name, step + 1, error)
    for implementation in manifest()["configs"][config]["reference_impls"]:
        for name, value in zip(names(), read(), strict=True):
            reference = arrays()[f"{config}|ref_{implementation}|{name}"]
            error = relative_error(value, reference)
            assert error <= tolerance, (config, name, implementation, error)


PRESETS = [(preset, decay) for preset in ("timm", "bolts", "apex") for decay in (0.0, 1e-4)]
"""Presets and weight decays in tests/golden/presets.npz."""


@functools.cache
def _of_presets():
    with np.load(FOLDER / "presets.npz") as file:
        return dict(file)


def check_preset(preset, decay, take_step, read):
    """Takes 20 steps with momentum 0.9; compares the first and the last with the original.

    Args:
        preset: Name of the preset.
        decay: Weight decay.
        take_step: Function of (gradients, learning rate).
        read: Function that returns the weights in the order of `names()`.
    """
    key = f"{preset}_{'wd1e-4' if decay else 'wd0'}"
    for step, rate in enumerate(learning_rates(), start=1):
        take_step(gradients(step - 1), 5 * rate)
        if step not in (1, 20):
            continue
        for name, value in zip(names(), read(), strict=True):
            error = relative_error(value, _of_presets()[f"{key}|{step}|{name}"])
            assert error <= TOLERANCE, (name, step, error)
