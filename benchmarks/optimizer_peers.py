"""One optimizer step of LARS and other optimizers, over the same variables and gradients.

Each factory takes a `Problem` and returns a function without arguments that takes one whole step
and waits for its end; it raises ImportError if the library is not installed. All implementations of
LARS have the same task: momentum 0.9, weight decay 1e-4, and neither weight decay nor layer
adaptation for biases and normalisation.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
import types

import keras
import numpy as np
import tensorflow as tf

from tf_lars.optimizers.lars import LARS

RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-4


@dataclasses.dataclass(frozen=True)
class Problem:
    """Names, weights and gradients of a model's trainable variables, in float32."""

    names: list[str]
    weights: list[np.ndarray]
    gradients: list[np.ndarray]

    @property
    def parameters(self):
        """Number of parameters."""
        return sum(w.size for w in self.weights)


def problem(shapes, names=None, seed=0):
    """Returns random weights and gradients of the given shapes, with magnitudes as in a network."""
    rng = np.random.default_rng(seed)
    names = names or [f"{'bias' if len(s) < 2 else 'kernel'}{i}" for i, s in enumerate(shapes)]
    return Problem(
        names,
        [0.05 * rng.standard_normal(s, np.float32) for s in shapes],
        [0.01 * rng.standard_normal(s, np.float32) for s in shapes],
    )


def resnet50():
    """Returns a problem with the 214 variables of ResNet-50 in Keras: 25.6 M parameters."""
    variables = keras.applications.ResNet50(weights=None).trainable_variables
    return problem([tuple(v.shape) for v in variables], [v.path for v in variables])


def keras3(make):
    """Returns the factory for a Keras 3 optimizer, stepped by one tf.function without XLA."""

    def maker(task):
        variables = [keras.Variable(w) for w in task.weights]
        optimizer = make()
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in task.gradients]

        @tf.function
        def step(*gradients):
            optimizer.apply(gradients, variables)
            return optimizer.iterations.value

        return lambda: step(*gradients).numpy()

    return maker


def lars(**arguments):
    """Returns the factory for `tf_lars.LARS`."""
    return keras3(lambda: LARS(RATE, momentum=MOMENTUM, weight_decay=DECAY, **arguments))


def tf_models_lars(task):
    """tf-models-official: official/modeling/optimization/lars.py."""
    from official.modeling.optimization.lars import LARS as Peer

    rank_1 = [f"^{n}:" for n, w in zip(task.names, task.weights, strict=True) if w.ndim < 2]
    optimizer = Peer(
        RATE,
        momentum=MOMENTUM,
        weight_decay_rate=DECAY,
        exclude_from_weight_decay=rank_1,
        exclude_from_layer_adaptation=rank_1,
    )
    named = zip(task.names, task.weights, strict=True)
    variables = [tf.Variable(w, name=name) for name, w in named]
    optimizer._create_all_weights(variables)
    gradients = [tf.constant(g) for g in task.gradients]

    @tf.function
    def step(*gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return tf.identity(optimizer.iterations)

    return lambda: step(*gradients).numpy()


def optax_lars(task):
    """optax.lars, compiled by jax.jit, with donated weights and state."""
    import jax
    import optax

    mask = [w.ndim > 1 for w in task.weights]
    optimizer = optax.lars(
        RATE,
        weight_decay=DECAY,
        weight_decay_mask=mask,
        trust_ratio_mask=mask,
        momentum=MOMENTUM,
    )
    gradients = [jax.numpy.asarray(g) for g in task.gradients]

    # The gradients are an argument, since XLA would otherwise treat them as constants.
    def update(gradients, weights, state):
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    jitted = jax.jit(update, donate_argnums=(1, 2))
    held = [jax.numpy.array(w) for w in task.weights]
    held = held, optimizer.init(held)

    def step():
        nonlocal held
        held = jax.block_until_ready(jitted(gradients, *held))

    return step


def timm_lars(task):
    """timm/optim/lars.py, which updates all tensors of a group together ("foreach"), one thread."""
    import torch

    package = importlib.util.find_spec("timm")
    if package is None:
        raise ModuleNotFoundError("No module named 'timm'")
    # The package itself imports torchvision; its optimizers need only torch.
    for name, folder in (("timm", ""), ("timm.optim", "optim")):
        if name not in sys.modules:
            stub = types.ModuleType(name)
            stub.__path__ = [os.path.join(p, folder) for p in package.submodule_search_locations]
            sys.modules[name] = stub
    from timm.optim.lars import Lars

    torch.set_num_threads(1)
    parameters = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in task.weights]
    for parameter, gradient in zip(parameters, task.gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient.copy())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return Lars(groups, lr=RATE, momentum=MOMENTUM).step


def memory_copy(task):
    """Copy of the weights: two streams over their bytes, which measures memory bandwidth."""
    source = np.concatenate([w.ravel() for w in task.weights])
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


LARS_DEFAULT = "tf_lars.LARS"
SGD = "Keras SGD momentum"
TF_MODELS = "tf-models LARS"
COPY = "memory copy"
OURS = {
    LARS_DEFAULT: lars(),
    "tf_lars.LARS nesterov": lars(nesterov=True),
    "tf_lars.LARS combined": lars(trust_norm="combined"),
    "tf_lars.LARS torch": lars(momentum_form="torch"),
    "tf_lars.LARS contrib": lars(momentum_form="contrib"),
    "tf_lars.LARS popular": lars(momentum_form="popular"),
}
PEERS = {
    SGD: keras3(lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM)),
    "Keras LAMB": keras3(lambda: keras.optimizers.Lamb(RATE)),
    TF_MODELS: tf_models_lars,
    "optax.lars": optax_lars,
    "timm LARS": timm_lars,
    COPY: memory_copy,
}


PACKAGES = (
    "tensorflow",
    "keras",
    "tf-models-official",
    "tf-keras",
    "optax",
    "jax",
    "timm",
    "torch",
)


def versions():
    """Returns {package: version} for the installed ones among `PACKAGES`."""
    return {package: version for package in PACKAGES if (version := _version(package))}


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
