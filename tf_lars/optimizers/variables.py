"""What the optimizers ask of a variable, be it Keras's or TensorFlow's."""

import keras


def variable_path(variable):
    """Returns the name by which exclusions and statistics know a variable: "block/dense/kernel".

    That is a Keras variable's path, or a `tf.Variable`'s name without ":0".
    """
    return getattr(variable, "path", None) or variable.name.split(":")[0]


def native_variable(variable):
    """Returns the `tf.Variable` inside a Keras variable; a `tf.Variable` as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable
