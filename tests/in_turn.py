"""What the tests of `schedule="in_turn"` share: the same training, together and in turn."""

import keras
import numpy as np
from keras import layers

import keras_sg
from keras_sg import synthesizers
from keras_sg._interfaces.interface import interfaces_in

FEATURES, CLASSES, EXAMPLES, BATCH, EPOCHS = 6, 3, 20, 8, 3  # the last batch of an epoch is smaller
EAGERLY = keras.backend.backend() == "tensorflow"  # how a few steps are quickest
RNG = np.random.default_rng(0)
X = RNG.normal(size=(EXAMPLES, FEATURES)).astype("float32")
LABELS = RNG.integers(0, CLASSES, EXAMPLES)
WEIGHTS = (RNG.uniform(0.5, 2, EXAMPLES) * (np.arange(EXAMPLES) % 4 > 0)).astype("float32")
MLP = synthesizers.MLP((4,))
VALUE = synthesizers.Value((6,))
CRITIC = synthesizers.Critic((4,), batch_normalization=False)


def optimizer(rates=(0.03, 0.005), **options):
    modules, synthesizers = rates
    return keras_sg.decoupled_optimizer(
        keras.optimizers.SGD(modules, momentum=0.9, **options), keras.optimizers.SGD(synthesizers, **options)
    )


def crossentropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def dense(units, name, **options):
    return layers.Dense(units, "tanh", name=name, **options)


def gradient(layer, *args, num_classes=CLASSES, **options):
    return keras_sg.SyntheticGradient(layer, *args, num_classes=num_classes, **options)


def loss(layer, *args, num_classes=CLASSES, **options):
    return keras_sg.SyntheticLoss(layer, *args, num_classes=num_classes, **options)


def local(layer, *args, num_classes=CLASSES, **options):
    return keras_sg.LocalLoss(layer, *args, num_classes=num_classes, **options)


def chain(*cuts, model_class=keras_sg.DecoupledModel, **options):
    """A dense network with an interface behind every layer but the last: what each of `cuts` makes of it."""
    inputs = h = keras.Input((FEATURES,), name="x")
    for i, cut in enumerate(cuts):
        h = cut(dense(5 + i % 2, f"module{i + 1}", **options))(h)
    return model_class(inputs, layers.Dense(CLASSES, name="last")(h))


def seeded(make):
    """A model, always with the same weights; its synthesizers do not predict zero."""
    keras.utils.set_random_seed(0)
    model, rng = make(), np.random.default_rng(0)
    for interface in interfaces_in(model):
        for variable in interface.synthesizer.trainable_variables:
            variable.assign(keras.ops.convert_to_numpy(variable) + 0.2 * rng.normal(size=variable.shape))
    return model


def compiled(make, schedule="in_turn", **options):
    model = seeded(make)
    options = {"optimizer": optimizer(), "loss": crossentropy(), "run_eagerly": EAGERLY, **options}
    options = {key: value() if isinstance(value, Fresh) else value for key, value in options.items()}
    model.compile(**options, schedule=schedule)
    return model


class Fresh:
    """What is made anew for every model: an optimizer, a metric."""

    def __init__(self, make):
        self._make = make

    def __call__(self):
        return self._make()


def numbers(model):
    """All that training moves, by name."""
    variables = [*model.variables, *model.optimizer.variables]
    return [(variable.path, keras.ops.convert_to_numpy(variable)) for variable in variables]


def assert_same(found, expected, tolerance=1e-6):
    """Equal but for so much of the largest number of each variable."""
    assert len(found) == len(expected)
    for (path, a), (_, b) in zip(found, expected):
        a, b = (np.asarray(part, "float64") for part in (a, b))
        assert np.isfinite(b).all(), path
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(abs(b).max(initial=0), 0.1), err_msg=path
        )


def train(model, x, y, **options):
    options = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, **options).history


def check(make, x=X, y=LABELS, tolerance=1e-6, fit=None, **options):
    """Train a model by both schedules: weights, optimizers' states, metrics and logs are the same.

    Returns the model that was trained in turn.
    """
    trained = []
    for schedule in ("together", "in_turn"):
        model = compiled(make, schedule, **options)
        before = [value.copy() for _, value in numbers(model)][: len(model.variables)]
        trained.append((model, before, train(model, x, y, **(fit or {}))))
    (whole, before, expected), (model, _, found) = trained
    assert type(model.schedule) is keras_sg.schedules.InTurn
    assert_same(numbers(model), numbers(whole), tolerance)
    assert list(found) == list(expected)
    for key in expected:
        np.testing.assert_allclose(
            found[key], expected[key], rtol=10 * tolerance, atol=tolerance, err_msg=key
        )
    trainable = {id(variable) for variable in model.trainable_variables}
    moved = [abs(new - old).max() > 1e-5 for old, (_, new) in zip(before, numbers(model))]
    trained = [moved[i] for i, variable in enumerate(model.variables) if id(variable) in trainable]
    assert sum(trained) >= len(trained) / 4, "too little was trained"
    return model
