"""Uniform access to Keras and TensorFlow variables."""

import keras


def variable_path(variable):
    """Returns the name of a variable in exclusions and statistics, such as "block/dense/kernel".

    This is a Keras variable's path, or a `tf.Variable`'s name without ":0".
    """
    return getattr(variable, "path", None) or variable.name.split(":")[0]


def native_variable(variable):
    """Returns the `tf.Variable` inside a Keras variable; returns a `tf.Variable` unchanged."""
    return variable.value if isinstance(variable, keras.Variable) else variable
