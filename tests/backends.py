"""What a backend cannot do, and the mark of tests that need it."""

import keras
import pytest

BACKEND = keras.backend.backend()

compiled = pytest.mark.skipif(BACKEND == "torch", reason="on torch, a DecoupledModel trains eagerly only")


def _one_step_at_a_time():
    """Whether Keras takes one batch in an execution and no more, as on PyTorch before 3.16."""
    model = keras.Model()
    model.compile("sgd", "mse", steps_per_execution=2)
    try:
        model.make_train_function()
    except ValueError:
        return True
    return False


ONE_STEP = BACKEND == "torch" and _one_step_at_a_time()
several_steps = pytest.mark.skipif(ONE_STEP, reason="this Keras on torch executes one step at a time")
not_on_jax = pytest.mark.skipif(
    BACKEND == "jax", reason="Keras on JAX hands a model's variables to the step once an epoch"
)
