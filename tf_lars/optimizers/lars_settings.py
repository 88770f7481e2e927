"""Arguments, presets and configuration that LARS on Keras 3 and on Keras 2 share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from tf_lars.optimizers import presets
from tf_lars.optimizers.exclusions import ExcludingOptimizer
from tf_lars.optimizers.lars_rule import LarsRule
from tf_lars.setting import Rule, above, at_least, number, whole_number, within

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class OptimizerArguments(TypedDict, total=False):
    """Arguments of `keras.optimizers.Optimizer` that LARS passes on."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None


class LarsArguments(OptimizerArguments, total=False):
    """Arguments of `tf_lars.LARS`; see there."""

    learning_rate: Any
    momentum: float
    weight_decay: float
    trust_coefficient: float
    epsilon: float
    nesterov: bool
    momentum_form: str
    trust_norm: str
    clip_trust_ratio: bool
    zero_norm: str
    always_adapt: bool
    exclude_from_weight_decay: Sequence[str] | None
    exclude_from_layer_adaptation: Sequence[str] | None
    excluded_learning_rate_multiplier: float
    name: str | None


_CHECKS: Mapping[str, tuple[Callable[..., Any], Rule]] = {
    "clipnorm": (number, at_least(0)),
    "clipvalue": (number, at_least(0)),
    "global_clipnorm": (number, at_least(0)),
    "ema_momentum": (number, within(0, 1)),
    "loss_scale_factor": (number, above(0)),
    "ema_overwrite_frequency": (whole_number, at_least(1)),
    "gradient_accumulation_steps": (whole_number, at_least(2)),
}


def checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of Keras's optimizer with Python numbers; Keras itself checks few of them.

    Raises:
        InputError: If a number is out of its range.
    """
    found = dict(arguments)
    for name, (convert, rule) in _CHECKS.items():
        if found.get(name) is not None:
            found[name] = convert(f"`{name}`", found[name], rule)
    return found


class LarsSettings(ExcludingOptimizer):
    """Mixin for an optimizer of either Keras; it precedes the Keras class in the list of bases.

    Attributes:
        rule: Settings shared by all variables, and the step that they define.
        weight_decay: b of variables that are not excluded from decay.
        excluded_learning_rate_multiplier: Factor on the learning rate of variables that are
            excluded from adaptation.
    """

    rule: LarsRule
    weight_decay: float
    excluded_learning_rate_multiplier: float

    def _set_lars(
        self,
        *,
        weight_decay: float | None,
        excluded_learning_rate_multiplier: float,
        exclude_from_weight_decay: Sequence[str] | None,
        exclude_from_layer_adaptation: Sequence[str] | None,
        **rule: Any,
    ) -> None:
        """Checks and sets the arguments that Keras's own class does not have."""
        decay = 0.0 if weight_decay is None else weight_decay
        self.weight_decay = number("`weight_decay`", decay, at_least(0))
        self.rule = LarsRule(**rule)
        self.excluded_learning_rate_multiplier = number(
            "`excluded_learning_rate_multiplier`", excluded_learning_rate_multiplier, at_least(0)
        )
        self._set_exclusions(exclude_from_weight_decay, exclude_from_layer_adaptation)

    @classmethod
    def preset(cls, preset: str, /, **overrides: "Unpack[LarsArguments]") -> "Self":
        """Returns LARS with the hyperparameters of a well-known implementation.

        Args:
            preset: A key of `tf_lars.optimizers.presets.PRESETS`, such as "mlperf" or "optax".
            **overrides: Arguments of the optimizer, which take precedence.

        Raises:
            InputError: If the name is unknown.
        """
        return cls(**{**presets.settings(preset), **overrides})

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, and the exclusions added by methods."""
        return {
            **super().get_config(),  # type: ignore[misc]
            **dataclasses.asdict(self.rule),
            "excluded_learning_rate_multiplier": self.excluded_learning_rate_multiplier,
            **self._exclusions_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Self":
        """Returns the optimizer that `get_config` describes, without its state."""
        config = dict(config)
        more = config.pop("more_exclusions", None)
        optimizer = super().from_config(config, custom_objects)  # type: ignore[misc]
        if more:
            optimizer._restore_exclusions(more)
        return optimizer
