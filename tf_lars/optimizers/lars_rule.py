"""The LARS rule: trust ratio and momentum step of one variable, in every published form.

Pure TensorFlow, shared by `tf_lars.optimizers.lars` (Keras 3) and `tf_lars.keras2` (Keras 2). With
gradient g, weights w, velocity v, learning rate a, momentum m, weight decay b, trust coefficient k:

    u = g + b*w
    r = k*|w| / (|g| + b*|w| + epsilon)        trust_norm="separate"
    r = k*|w| / (|u| + epsilon)                trust_norm="combined"

and r = 1 if a norm in it (|w| and |g|, or |w| and |u|) is zero. `clip_trust_ratio` (LARC) replaces
r with min(r/a, 1). A variable excluded from adaptation has r = 1. zero_norm="plain_gradient" gives
a variable with a zero norm SGD's step without decay: u = g, and r = 1 is not clipped.
"""

import dataclasses

import tensorflow as tf

from tf_lars.errors import require
from tf_lars.setting import above, at_least, below_one, flag, number

MOMENTUM_FORMS = ("classic", "torch", "contrib", "popular")
TRUST_NORMS = ("separate", "combined")
ZERO_NORMS = ("ratio_one", "plain_gradient")


def velocity_dtype(dtype):
    """Returns the dtype in which the velocity, the norms and the step are computed.

    This is float32 for float16 and bfloat16, otherwise `dtype` itself: a LARS step is about
    k = 0.001 of a weight, which float16 holds as a subnormal and bfloat16 with an error as large as
    the step.
    """
    dtype = tf.as_dtype(dtype)
    return tf.float32 if dtype.size < 4 else dtype


def l2_norm(x):
    """Returns the scalar |x| in float32 (float64 for float64), in one pass over memory."""
    return tf.sqrt(2.0 * tf.nn.l2_loss(tf.cast(x, velocity_dtype(x.dtype))))


def densify(gradient, shape):
    """Returns `gradient` as a dense tensor, with repeated rows of `IndexedSlices` summed.

    Nothing is lost by this, because momentum and decay move every row of a variable, including
    those without a gradient in this step; and the norm is that of the complete gradient.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, shape[0])


def clip_by_norm(gradient, clip_norm):
    """Returns the gradient scaled so that its norm is at most `clip_norm`."""
    return _scale(gradient, clip_norm / tf.maximum(l2_norm(gradient), clip_norm))


def clip_by_global_norm(gradients, clip_norm):
    """Returns the gradients scaled together so that their joint norm is at most `clip_norm`."""
    norm = tf.norm(tf.stack([tf.cast(l2_norm(g), tf.float32) for g in gradients]))
    factor = clip_norm / tf.maximum(norm, clip_norm)
    return [_scale(g, factor) for g in gradients]


def _scale(gradient, factor):
    # In float16, a small factor would vanish before it is multiplied by a large gradient.
    dtype = velocity_dtype(gradient.dtype)
    return tf.cast(tf.cast(gradient, dtype) * tf.cast(factor, dtype), gradient.dtype)


@dataclasses.dataclass(frozen=True)
class LarsRule:
    """Settings of LARS shared by all variables, and the step that they define.

    Args:
        momentum: m, in [0, 1).
        trust_coefficient: k, above 0.
        epsilon: Term added to the denominator of the ratio, at least 0; 0 is used as it is.
        nesterov: Whether to look ahead along the velocity.
        momentum_form: "classic", "torch", "contrib" or "popular"; see `tf_lars.LARS`.
        trust_norm: "separate" or "combined"; ignored by "popular", which has its own norm.
        clip_trust_ratio: Whether to replace r with min(r/a, 1).
        zero_norm: "ratio_one" or "plain_gradient"; see `tf_lars.LARS`.
        always_adapt: Whether variables without decay are adapted.

    Raises:
        InputError: If a setting is out of its range.
    """

    momentum: float = 0.9
    trust_coefficient: float = 0.001
    epsilon: float = 0.0
    nesterov: bool = False
    momentum_form: str = "classic"
    trust_norm: str = "separate"
    clip_trust_ratio: bool = False
    zero_norm: str = "ratio_one"
    always_adapt: bool = True

    def __post_init__(self):
        ranges = {"momentum": below_one(), "trust_coefficient": above(0), "epsilon": at_least(0)}
        for name, rule in ranges.items():
            object.__setattr__(self, name, number(f"`{name}`", getattr(self, name), rule))
        for name in ("nesterov", "clip_trust_ratio", "always_adapt"):
            object.__setattr__(self, name, flag(f"`{name}`", getattr(self, name)))
        choices = {
            "momentum_form": MOMENTUM_FORMS,
            "trust_norm": TRUST_NORMS,
            "zero_norm": ZERO_NORMS,
        }
        for name, names in choices.items():
            chosen = getattr(self, name)
            require(chosen in names, f"`{name}`", f"one of {', '.join(names)}", chosen)

    def adapts(self, excluded: bool, weight_decay: float) -> bool:
        """Returns whether a variable is adapted.

        Args:
            excluded: Whether it is excluded from adaptation.
            weight_decay: b of this variable.
        """
        return not excluded and (self.always_adapt or weight_decay > 0)

    @property
    def _separate(self):
        return self.trust_norm == "separate" and self.momentum_form != "popular"

    def trust_ratio(self, weight_norm, update_norm, learning_rate, weight_decay):
        """Returns r, elementwise over scalars or vectors of norms.

        Args:
            weight_norm: |w|.
            update_norm: |g| for "separate", |u| for "combined", |d| for the popular form.
            learning_rate: a, used only by `clip_trust_ratio`.
            weight_decay: b of these variables; 0 if they are excluded from decay.
        """
        # k*|w| / (|g| + epsilon + b*|w|) with |w| divided out: TensorFlow adds three terms in an
        # order that differs between processes, and the weights of workers would diverge.
        norm = update_norm + self.epsilon if self.epsilon else update_norm
        denominator = tf.math.divide_no_nan(norm, weight_norm)
        if self._separate:
            denominator += weight_decay
        ratio = tf.math.divide_no_nan(self.trust_coefficient, denominator)
        exists = tf.minimum(weight_norm, update_norm) > 0
        if self.zero_norm == "plain_gradient":
            return tf.where(exists, self._clipped(ratio, learning_rate), 1.0)
        return self._clipped(tf.where(exists, ratio, 1.0), learning_rate)

    def _clipped(self, ratio, learning_rate):
        # With a = 0, as in the first step of a warm-up, r/a is infinite, and 1 is correct.
        return tf.minimum(ratio / learning_rate, 1.0) if self.clip_trust_ratio else ratio

    def update(self, variable, velocity, gradient, learning_rate, weight_decay, adapt):
        """Updates `variable` and `velocity` by one step.

        Args:
            variable: w, a `tf.Variable`.
            velocity: v, a `tf.Variable` of w's shape and of `velocity_dtype`; None if momentum is
                0. The classic form stores -v, the step, as `keras.optimizers.SGD` does.
            gradient: g, a dense tensor, already summed over the replicas.
            learning_rate: a, a scalar.
            weight_decay: b of this variable, a float; 0.0 excludes it from decay.
            adapt: Whether this variable is adapted; otherwise r = 1.

        Returns:
            r, a scalar tensor, or the float 1.0 if `adapt` is False.
        """
        dtype = velocity_dtype(variable.dtype)
        g = tf.cast(gradient, dtype)
        a = tf.cast(learning_rate, dtype)
        if adapt and weight_decay and self.zero_norm == "plain_gradient":
            # Without weights there is nothing to decay, so only the gradient's norm matters.
            weight_decay = tf.where(l2_norm(g) > 0, tf.cast(weight_decay, dtype), 0)
        if variable.dtype != dtype:  # a fused kernel needs one dtype for all its arguments
            step = self._elementwise
        elif velocity is None:
            step = self._without_momentum
        elif self.momentum_form == "classic":
            step = self._classic
        elif self.momentum_form == "torch":
            step = self._torch
        elif self.momentum_form == "contrib":
            step = self._contrib
        else:
            step = self._popular
        return step(variable, velocity, g, a, weight_decay, adapt)

    def _classic(self, w, v, g, a, b, adapt):
        if self.nesterov or (adapt and self.trust_norm == "combined"):
            u = _decayed(g, b, w)
            r = self._ratio(w, g, u, a, b, adapt)
        else:
            # u itself is not needed: b*w is added to the velocity before the kernel multiplies it
            # by m and adds g. This moves three fifths of the bytes that computing u would move.
            u = g
            r = self._ratio(w, g, u, a, b, adapt)
            if _decays(b):
                _descend(v, a * r * (b / self.momentum), w)
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=w.handle,
            accum=v.handle,
            lr=a * r,
            grad=u,
            momentum=tf.cast(self.momentum, a.dtype),
            use_nesterov=self.nesterov,
        )
        return r

    def _torch(self, w, v, g, a, b, adapt):
        u = _decayed(g, b, w)
        r = self._ratio(w, g, u, a, b, adapt)
        self._apply_momentum(w, v, a, r * u if adapt else u)
        return r

    def _contrib(self, w, v, g, a, b, adapt):
        u = _decayed(g, b, w) if adapt and self.trust_norm == "combined" else g
        r = self._ratio(w, g, u, a, b, adapt)
        self._apply_momentum(w, v, a * r, g)
        return r

    def _popular(self, w, v, g, a, b, adapt):
        m = self.momentum
        if self.nesterov:
            u = _decayed(g, b, w)
            v.assign(m * v + u)
            d = m * v + u
        else:
            # Not m*v + (g + b*w), which is again a sum of three terms.
            if _decays(b):
                _descend(v, -b / m, w)
            v.assign(m * v + g)
            d = v
        r = self._ratio(w, g, d, a, b, adapt)
        _descend(w, a * r, d)
        return r

    def _without_momentum(self, w, v, g, a, b, adapt):
        u = _decayed(g, b, w)
        r = self._ratio(w, g, u, a, b, adapt)
        _descend(w, a * r, g if self.momentum_form == "contrib" else u)
        return r

    def _elementwise(self, variable, velocity, g, a, b, adapt):
        """Computes the step directly from its equations, in float32, for 16-bit variables."""
        m, form = self.momentum, self.momentum_form
        w = tf.cast(variable, g.dtype)
        v = 0.0 if velocity is None else tf.cast(velocity, g.dtype)
        u = _decayed(g, b, w)
        if form == "popular":
            v = u - (-m) * v  # m*v + u would be a sum of three terms
            d = m * v + u if self.nesterov else v
            r = self._ratio(w, g, d, a, b, adapt)
            w -= a * r * d
        else:
            r = self._ratio(w, g, u, a, b, adapt)
            if form == "classic":
                v = m * v - a * r * u
                w += m * v - a * r * u if self.nesterov else v
            else:
                u, c = (r * u, a) if form == "torch" else (g, a * r)
                v = m * v + u
                w -= c * (u + m * v) if self.nesterov else c * v
        variable.assign(tf.cast(w, variable.dtype))
        if velocity is not None:
            velocity.assign(tf.cast(v, velocity.dtype))
        return r

    def _ratio(self, w, g, u, a, b, adapt):
        if not adapt:
            return 1.0
        return self.trust_ratio(l2_norm(w), l2_norm(g if self._separate else u), a, b)

    def _apply_momentum(self, w, v, learning_rate, gradient):
        tf.raw_ops.ResourceApplyMomentum(
            var=w.handle,
            accum=v.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=tf.cast(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov,
        )


def _decayed(g, b, w):
    return g + b * w if _decays(b) else g


def _decays(b):
    return tf.is_tensor(b) or b > 0


def _descend(x, rate, direction):
    """Computes x -= rate * direction in one pass over memory."""
    tf.raw_ops.ResourceApplyGradientDescent(
        var=x.handle, alpha=tf.cast(rate, x.dtype), delta=tf.convert_to_tensor(direction)
    )
