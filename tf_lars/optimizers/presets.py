"""Settings of well-known implementations of LARS, as arguments of `tf_lars.LARS`.

A preset holds the defaults of the implementation's constructor, so that
`LARS.preset("optax", learning_rate=..., weight_decay=...)` takes the steps of `optax.lars` with the
same two arguments. It never includes the learning rate. `ADAPT_ALL` marks implementations that by
default also adapt and decay biases and batch normalisation; to exclude those, pass
`exclude_from_weight_decay=None, exclude_from_layer_adaptation=None`.
"""

from typing import Any

from tf_lars.errors import InputError

ADAPT_ALL: dict[str, Any] = {"exclude_from_weight_decay": [], "exclude_from_layer_adaptation": []}

PRESETS: dict[str, dict[str, Any]] = {
    # You et al., arXiv:1708.03888, algorithm 1.
    "paper": {"momentum_form": "classic", "trust_norm": "separate"},
    # mlcommons/training retired_benchmarks/resnet-tf2/tensorflow2/lars_optimizer.py, which replaces
    # an epsilon of 0 with 1e-7. Its launcher skips batch normalisation and biases.
    "mlperf": {"momentum_form": "classic", "trust_norm": "separate", "epsilon": 1e-7},
    # google-deepmind/optax optax/_src/alias.py
    "optax": {"momentum_form": "classic", "trust_norm": "combined", **ADAPT_ALL},
    # tensorflow/models official/modeling/optimization/lars.py; its classic_momentum=False is
    # momentum_form="popular" here.
    "tf-models": {"momentum_form": "classic", "trust_norm": "combined", **ADAPT_ALL},
    # google-research/simclr tf2/lars_optimizer.py; the same switch.
    "simclr": {"momentum_form": "classic", "trust_norm": "combined", **ADAPT_ALL},
    # huggingface/pytorch-image-models timm/optim/lars.py, as created by timm's factory: momentum
    # 0.9, and no decay, hence no adaptation, for parameters of rank 1. Without weight decay, no
    # parameter is adapted.
    "timm": {
        "momentum_form": "torch",
        "trust_norm": "separate",
        "epsilon": 1e-8,
        "always_adapt": False,
    },
    # NVIDIA/apex apex/parallel/LARC.py over torch.optim.SGD, which owns the momentum.
    "apex": {
        "momentum_form": "torch",
        "trust_norm": "separate",
        "trust_coefficient": 0.02,
        "epsilon": 1e-8,
        "clip_trust_ratio": True,
        "zero_norm": "plain_gradient",
        **ADAPT_ALL,
    },
    # facebookresearch/moco-v3 moco/optimizer.py
    "moco-v3": {"momentum_form": "torch", "trust_norm": "combined"},
    # Lightning-Universe/lightning-bolts pl_bolts/optimizers/lars.py. Parameters of a group without
    # decay are not adapted: the rule by rank equals such a group for biases and normalisation.
    "bolts": {
        "momentum_form": "torch",
        "trust_norm": "separate",
        "momentum": 0.0,
        "epsilon": 1e-8,
        "zero_norm": "plain_gradient",
        "always_adapt": False,
    },
    # tensorflow/tensorflow 1.15 tensorflow/contrib/opt/python/training/lars_optimizer.py
    "contrib": {
        "momentum_form": "contrib",
        "trust_norm": "separate",
        "weight_decay": 1e-4,
        **ADAPT_ALL,
    },
}


def settings(name):
    """Returns the arguments of a preset as a new dict.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in PRESETS:
        raise InputError(
            f"A preset must be one of {', '.join(sorted(PRESETS))}. Received: {name!r}."
        )
    return dict(PRESETS[name])
