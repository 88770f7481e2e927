"""Independent LARS in float64 NumPy, written only from the equations of the papers."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class NumpyLars:
    """One variable under LARS; `step` returns its new weights."""

    weights: np.ndarray
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust_coefficient: float = 0.001
    epsilon: float = 0.0
    nesterov: bool = False
    momentum_form: str = "classic"
    trust_norm: str = "separate"
    clip_trust_ratio: bool = False
    zero_norm: str = "ratio_one"
    always_adapt: bool = True
    adapt: bool = True

    def __post_init__(self):
        self.weights = np.asarray(self.weights, np.float64)
        self.velocity = np.zeros_like(self.weights)
        self.trust_ratio = 1.0
        self.adapt = self.adapt and (self.always_adapt or self.weight_decay > 0)

    def ratio(self, gradient, direction, rate):
        """Returns the trust ratio, one branch after the other."""
        if not self.adapt:
            return 1.0
        weight_norm = np.sqrt((self.weights**2).sum())
        if self.momentum_form == "popular" or self.trust_norm == "combined":
            tested = denominator = np.sqrt((direction**2).sum())
        else:
            tested = np.sqrt((gradient**2).sum())
            denominator = tested + self.weight_decay * weight_norm
        if weight_norm == 0 or tested == 0:
            if self.zero_norm == "plain_gradient":
                return 1.0
            ratio = 1.0
        else:
            ratio = self.trust_coefficient * weight_norm / (denominator + self.epsilon)
        if self.clip_trust_ratio:
            ratio = 1.0 if rate == 0 else min(ratio / rate, 1.0)
        return ratio

    def step(self, gradient, rate):
        """Takes one step with the learning rate `rate`, and returns the new weights."""
        g = np.asarray(gradient, np.float64)
        plain = self.adapt and self.zero_norm == "plain_gradient" and not g.any()
        u = g if plain else g + self.weight_decay * self.weights
        m, v = self.momentum, self.velocity
        if self.momentum_form == "popular":
            v = m * v + u
            d = m * v + u if self.nesterov else v
            r = self.ratio(g, d, rate)
            change = rate * r * d
        else:
            r = self.ratio(g, u, rate)
            if self.momentum_form == "classic":
                v = m * v + rate * r * u
                change = m * v + rate * r * u if self.nesterov else v
            elif self.momentum_form == "torch":
                v = m * v + r * u
                change = rate * (r * u + m * v) if self.nesterov else rate * v
            else:
                v = m * v + g
                change = rate * r * (g + m * v) if self.nesterov else rate * r * v
        self.velocity, self.trust_ratio = v, r
        self.weights = self.weights - change
        return self.weights
