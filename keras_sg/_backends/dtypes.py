"""The precision to compute in, whatever precision a layer has."""

import keras


def wide(dtype: str) -> str:
    """float32, or a float dtype itself if it is wider.

    `keras.backend.result_type` says the same of dtypes narrower than float64, for which it says float32 on
    every backend but TensorFlow.

    Args:
        dtype: float dtype, its name or the backend's own.
    """
    name = keras.backend.standardize_dtype(dtype)
    return name if name == "float64" else keras.backend.result_type(name, "float32")
