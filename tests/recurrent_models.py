"""The recurrent networks that the tests train, the windows for them, and the oracle with the same weights."""

import itertools

import keras
import numpy as np
from recurrent_oracle import RecurrentOracle

import keras_sg

ROWS, STEPS, FEATURES, UNITS, OUTPUTS = 4, 3, 2, 5, 2
WINDOWS = 12
RATE, SYNTHESIZER_RATE = 0.3, 0.2
NOTHING = -9.0  # what stands at a step that is masked


def windows(seed=0):
    """12 windows: inputs `(12, 4, 3, 2)`, targets `(12, 4, 3, 2)`, ends `(12, 4)`; float32."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(WINDOWS, ROWS, STEPS, FEATURES)).astype("float32")
    y = rng.normal(size=(WINDOWS, ROWS, STEPS, OUTPUTS)).astype("float32")
    ends = (rng.random((WINDOWS, ROWS)) < 0.25).astype("float32")
    ends[4], ends[7] = 1.0, 0.0  # all at once; none
    return x, y, ends


def weights_of_steps(seed=1):
    """Weights `(12, 4, 3)`, some of them 0."""
    weight = np.random.default_rng(seed).uniform(0.2, 2.0, (WINDOWS, ROWS, STEPS)).astype("float32")
    weight[:, ::2, 1] = 0.0
    weight[3, 1] = 0.0
    return weight


def masks(seed=2):
    """Masks `(12, 4, 3)`: padding behind the end of a sequence, and a whole window of it."""
    mask = np.ones((WINDOWS, ROWS, STEPS), bool)
    mask[:, 1, 2:] = mask[5, 2] = mask[6, :, 1:] = False
    return mask


def network(
    model_class=keras_sg.DecoupledModel, layer=None, masked=False, seed=0, say_nothing=False, **options
):
    """A recurrent network; if `masked`, a step of NOTHING is masked.

    Its synthesizer is not zero in the beginning, unless it is to `say_nothing`.
    """
    keras.utils.set_random_seed(seed)
    x, ends = keras.Input((STEPS, FEATURES), name="x"), keras.Input((), name="ends")
    h = keras.layers.Masking(NOTHING)(x) if masked else x
    layer = layer or keras.layers.SimpleRNN(UNITS, return_sequences=True, name="rnn")
    options.setdefault("batch_size", ROWS)
    h = keras_sg.RecurrentSyntheticGradient(layer, **options)(h, ends=ends)
    model = model_class([x, ends], keras.layers.Dense(OUTPUTS, name="last")(h))
    if not say_nothing:
        randomise(model, seed)
    return model


def randomise(model, seed=0):
    """Let the model's synthesizers say something."""
    rng = np.random.default_rng(seed)
    for interface in interfaces_of(model):
        synthesizer = interface.synthesizer
        synthesizer.set_weights([0.3 * rng.normal(size=w.shape) for w in synthesizer.get_weights()])


def interfaces_of(model):
    return [layer for layer in model.layers if isinstance(layer, keras_sg.RecurrentSyntheticGradient)]


def optimizer():
    return keras_sg.decoupled_optimizer(keras.optimizers.SGD(RATE), keras.optimizers.SGD(SYNTHESIZER_RATE))


def oracle_of(model, **options):
    (interface,) = interfaces_of(model)
    options = {"mix": interface.mix, "auxiliary": interface.auxiliary, "loss": interface.loss} | options
    weights = (
        part.get_weights() for part in (interface.layer, model.get_layer("last"), interface.synthesizer)
    )
    return RecurrentOracle(*weights, RATE, SYNTHESIZER_RATE, **options)


def flat(array):
    """Windows behind each other, as `fit` takes them in batches of so many rows."""
    return array.reshape(-1, *array.shape[2:])


def assert_same(model, oracle, tolerance=1e-5):
    (interface,) = interfaces_of(model)
    ours = [part.get_weights() for part in (interface.layer, model.get_layer("last"), interface.synthesizer)]
    ours += [
        [keras.ops.convert_to_numpy(interface.state)],
        [keras.ops.convert_to_numpy(interface.fresh)[:, 0]],
    ]
    theirs = [oracle.cell, oracle.read_out, oracle.synthesizer, [oracle.state], [oracle.fresh]]
    for a, b in zip(itertools.chain(*ours), itertools.chain(*theirs)):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
