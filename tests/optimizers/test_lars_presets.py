"""Presets, which take the steps of the implementations that they name."""

import pytest

from tests.helpers import golden
from tests.helpers.numpy_lars import NumpyLars
from tf_lars.errors import InputError
from tf_lars.optimizers import presets
from tf_lars.optimizers.lars import LARS

EACH = pytest.mark.parametrize(("preset", "decay"), golden.PRESETS)


@EACH
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_a_preset_takes_the_steps_of_the_original(preset, decay, mode):
    optimizer = LARS.preset(preset, learning_rate=0.0, weight_decay=decay, momentum=0.9)
    golden.check_preset(preset, decay, *golden.keras_steps(optimizer, mode))


@EACH
def test_so_does_the_numpy_model(preset, decay):
    arguments = presets.settings(preset) | {"momentum": 0.9}
    all_adapt = arguments.pop("exclude_from_layer_adaptation", None) == []
    arguments.pop("exclude_from_weight_decay", None)
    models = [
        NumpyLars(
            weights,
            weight_decay=decay if all_adapt or weights.ndim > 1 else 0.0,
            adapt=all_adapt or weights.ndim > 1,
            **arguments,
        )
        for weights in golden.initial_weights()
    ]

    def take_step(gradients, rate):
        for model, gradient in zip(models, gradients, strict=True):
            model.step(gradient, float(rate))

    golden.check_preset(preset, decay, take_step, lambda: [model.weights for model in models])


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_every_preset_makes_an_optimizer(name):
    optimizer = LARS.preset(name, learning_rate=3, weight_decay=0.25)
    assert float(optimizer.learning_rate) == 3.0
    assert optimizer.weight_decay == 0.25
    assert LARS.from_config(optimizer.get_config()).rule == optimizer.rule


def test_presets_are_what_the_implementations_do():
    forms = {name: LARS.preset(name).rule for name in presets.PRESETS}
    classic = {name for name, rule in forms.items() if rule.momentum_form == "classic"}
    separate = {name for name, rule in forms.items() if rule.trust_norm == "separate"}
    assert classic == {"paper", "mlperf", "optax", "tf-models", "simclr"}
    assert separate == {"paper", "mlperf", "timm", "apex", "bolts", "contrib"}
    assert [name for name, rule in forms.items() if rule.clip_trust_ratio] == ["apex"]
    assert forms["mlperf"].epsilon == 1e-7
    assert forms["apex"].trust_coefficient == 0.02
    assert LARS.preset("contrib").weight_decay == 1e-4
    assert LARS.preset("paper", name="lars").get_config() == LARS(name="lars").get_config()


def test_an_override_does_not_change_the_preset():
    LARS.preset("optax", exclude_from_weight_decay=["bias"])
    assert presets.settings("optax")["exclude_from_weight_decay"] == []


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(InputError, match=r"apex, bolts, .* Received: 'adam'"):
        LARS.preset("adam")
