"""What a backend cannot do, and the mark of tests that need it."""

import keras
import pytest

BACKEND = keras.backend.backend()

compiled = pytest.mark.skipif(BACKEND == "torch", reason="on torch, a DecoupledModel trains eagerly only")
several_steps = pytest.mark.skipif(BACKEND == "torch", reason="Keras on torch executes one step at a time")
not_on_jax = pytest.mark.skipif(
    BACKEND == "jax", reason="Keras on JAX hands a model's variables to the step once an epoch"
)
