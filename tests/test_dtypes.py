import pytest

from keras_sg._backends import dtypes


@pytest.mark.parametrize(
    "dtype, expected",
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_wide(dtype, expected):
    assert dtypes.wide(dtype) == expected
