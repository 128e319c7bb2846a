"""What the tests of modules side by side share with others that train on the same batches."""

import keras
import numpy as np
from delayed import Adam, Descent
from models import BATCH, CLASSES, FEATURES

import keras_sg

EPOCHS, EXAMPLES = 2, 5 * BATCH
# How the tests start Ray: on this machine's loopback.
RAY = {
    "num_cpus": 2,
    "include_dashboard": False,
    "log_to_driver": False,
    "_node_ip_address": "127.0.0.1",
}


def data(seed=0):
    """Inputs, targets as one-hot vectors, and the weights of the examples, of which some are zero."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    weight = rng.uniform(0.2, 2.0, EXAMPLES).astype("float32")
    weight[::7] = 0.0
    x = rng.normal(size=(EXAMPLES, FEATURES)).astype("float32")
    return x, np.eye(CLASSES, dtype="float32")[labels], weight


def optimizers(descent):
    made = keras.optimizers.Adam if descent is Adam else keras.optimizers.SGD
    return keras_sg.decoupled_optimizer(made(0.02), made(0.05))


def fit(model, schedule, descent=Descent, epochs=EPOCHS, **options):
    model.compile(optimizers(descent), "mse", weighted_metrics=["mae"], schedule=schedule)
    x, y, weight = data()
    options = {"verbose": 0, "shuffle": False, "epochs": epochs} | options
    return model.fit(x, y, BATCH, sample_weight=weight, **options)
