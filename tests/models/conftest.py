import pytest


@pytest.fixture
def mixed_bfloat16():
    """Sets mixed precision: bfloat16 arithmetic with float32 weights."""
    import keras

    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_dtype_policy(before)
