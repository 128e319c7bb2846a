"""Sweeps: what a trial trains is what its hyperparameters say, and divergence is a failure."""

import pathlib
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
from models import BATCH, FEATURES, data

import keras_sg
from keras_sg import tuning
from keras_sg.synthesizers import MLP, Critic

pytestmark = pytest.mark.tensorflow
ROOT = pathlib.Path(__file__).parent.parent
X, _, LABELS = data()
LOSS = {
    "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "metrics": ["accuracy"],
    "run_eagerly": True,  # a handful of steps each: tracing would take most of the time
}


def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(5, activation="tanh", name="module1"),
            keras.layers.Dense(6, activation="tanh", name="module2"),
            keras.layers.Dense(3, name="last"),
        ]
    )


def space(after=("module1",), learning_rate=1e-2, **options):
    return tuning.DecoupledHyperModel(network, list(after), learning_rate=learning_rate, **options, **LOSS)


def built(hypermodel, **values):
    hp = keras_tuner.HyperParameters()
    hp.values = values
    return hypermodel.build(hp), hp


def search(hypermodel, folder, tuner=keras_tuner.RandomSearch, epochs=2, **options):
    options = {"objective": "val_accuracy", "seed": 3, "directory": folder, "project_name": "sweep"} | options
    tuner = tuner(hypermodel, **options)
    tuner.search(X, LABELS, validation_data=(X, LABELS), batch_size=BATCH, epochs=epochs, verbose=0)
    return tuner, list(tuner.oracle.trials.values())


EVERYTHING = {
    "after": tuning.Choice([], ["module1"], ["module1", "module2"]),
    "learning_rate": tuning.LogRange(1e-4, 1e-1),
    "synthesizer_learning_rate": tuning.LogRange(1e-3, 1e-2),
    "synthesizer": tuning.Choice("linear", "mlp", "critic"),
    "width": tuning.Choice(7, 9),
    "update_period": tuning.Choice(1, 10),
    "conditional": tuning.Choice(True, False),
    "num_classes": 3,
}


def everything():
    return tuning.DecoupledHyperModel(network, **EVERYTHING, **LOSS)


def test_a_trial_has_what_its_hyperparameters_say():
    model, _ = built(
        everything(),
        after="module1, module2",
        learning_rate=3e-3,
        synthesizer_learning_rate=4e-3,
        synthesizer="mlp",
        width=9,
        conditional=True,
        update_period=10,
    )
    assert [interface.name for interface in model.interfaces] == ["module1", "module2"]
    for interface in model.interfaces:
        assert isinstance(interface, keras_sg.SyntheticGradient)
        assert interface._recipe == MLP(widths=(9, 9))
        assert (interface.num_classes, interface.update_period) == (3, 10)
    synthesizers, modules = model.optimizer.optimizers
    np.testing.assert_allclose(float(modules.learning_rate), 3e-3, rtol=1e-6)
    np.testing.assert_allclose(float(synthesizers.learning_rate), 4e-3, rtol=1e-6)


def test_a_critic_predicts_a_loss_and_sees_the_label():
    model, hp = built(everything(), after="module1", synthesizer="critic", width=7)
    (interface,) = model.interfaces
    assert isinstance(interface, keras_sg.SyntheticLoss) and interface._recipe == Critic(widths=(7,))
    assert interface.num_classes == 3 and "conditional" not in hp.values
    model, _ = built(
        space(synthesizer=tuning.Choice("linear", Critic(widths=(4,))), num_classes=3),
        synthesizer=repr(Critic(widths=(4,))),
    )
    assert model.interfaces[0]._recipe == Critic(widths=(4,))


@pytest.mark.parametrize("kind", ["critic", "error", "feedback"])
def test_what_needs_the_label_sees_it_in_every_trial(kind):
    searched = {"synthesizer": tuning.Choice("linear", kind), "conditional": tuning.Choice(True, False)}
    model, hp = built(space(**searched, num_classes=3), synthesizer=kind)
    assert model.interfaces[0].num_classes == 3 and "conditional" not in hp.values


def test_what_cannot_matter_is_no_part_of_a_trial(tmp_path):
    """Forty random points of the space, none of them trained."""
    tuner = keras_tuner.RandomSearch(everything(), "val_loss", max_trials=40, seed=1, directory=tmp_path)
    trials = [tuner.oracle.create_trial(f"worker{i}").hyperparameters.values for i in range(40)]
    always, cut = {"learning_rate", "after"}, {"synthesizer_learning_rate", "synthesizer", "update_period"}
    expected = {
        "linear": always | cut | {"conditional"},
        "mlp": always | cut | {"conditional", "width"},
        "critic": always | cut | {"width"},
    }
    seen = set()
    for values in trials:
        seen.add((values["after"], values.get("synthesizer")))
        uncut = values["after"] == "nowhere"
        assert values.keys() == (always if uncut else expected[values["synthesizer"]])
        assert 1e-4 <= values["learning_rate"] <= 1e-1
    # All seven kinds of trials came up, and the rates lie in all three decades.
    assert len(seen) == 7 and ("nowhere", None) in seen
    assert {int(np.floor(np.log10(values["learning_rate"]))) for values in trials} == {-4, -3, -2}


def test_trials_train_what_one_would_write_by_hand(tmp_path):
    """Weights after training are those of a network cut and compiled without the hypermodel."""

    def by_hand(optimizer, cut=lambda model: model):
        model = cut(network())
        model.compile(optimizer, **LOSS)
        model.fit(X, LABELS, batch_size=BATCH, epochs=2, verbose=0)
        return model.get_weights()

    def by_trial(hypermodel):
        model, hp = built(hypermodel)
        hypermodel.fit(hp, model, X, LABELS, batch_size=BATCH, epochs=2, verbose=0)
        return model.get_weights()

    adam, sgd = keras.optimizers.Adam, keras.optimizers.SGD
    cut = lambda model: keras_sg.decouple(model, ["module1", "module2"], synthesizer="linear", num_classes=3)
    pairs = [
        (by_hand(adam(1e-2)), by_trial(space([]))),
        (by_hand(adam(1e-2), cut), by_trial(space(["module1", "module2"], num_classes=3))),
        (
            by_hand(keras_sg.decoupled_optimizer(sgd(1e-2), sgd(1.0)), cut),
            by_trial(
                space(["module1", "module2"], num_classes=3, optimizer=sgd, synthesizer_learning_rate=1.0)
            ),
        ),
    ]
    for expected, found in pairs:
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert len({float(np.sum(expected[0])) for expected, _ in pairs}) == 3  # three different ones


def test_a_sweep_with_a_trial_that_diverges(tmp_path):
    """It fails, the sweep goes on, and the best model is a sound one: the one of the best epoch."""
    rates = tuning.Choice(1e-2, 1e38)
    options = {"optimizer": keras.optimizers.SGD, "num_classes": 3}
    tuner, trials = search(space(learning_rate=rates, **options), tmp_path, max_trials=2)
    statuses = {trial.hyperparameters.values["learning_rate"]: trial.status for trial in trials}
    assert statuses == {1e-2: "COMPLETED", 1e38: "FAILED"}
    (failed,) = [trial for trial in trials if trial.status == "FAILED"]
    assert "FailedTrialError: The trial diverged" in failed.message and failed.score is None
    (best,) = tuner.oracle.get_best_trials(1)
    (model,) = tuner.get_best_models(1)
    _, accuracy = model.evaluate(X, LABELS, verbose=0)
    assert best.score == pytest.approx(accuracy)
    plain = keras_sg.strip(model)
    np.testing.assert_allclose(plain.predict(X, verbose=0), model.predict(X, verbose=0), rtol=0, atol=1e-6)


def test_more_divergence_than_a_tuner_takes(tmp_path):
    """keras-tuner stops after three failures in a row, if it is not told otherwise."""
    hypermodel = space([], tuning.LogRange(1e38, 3e38), optimizer=keras.optimizers.SGD)
    with pytest.raises(RuntimeError, match="consecutive failures exceeded the limit of 3"):
        search(hypermodel, tmp_path / "stops", max_trials=5, epochs=1)
    _, trials = search(
        hypermodel, tmp_path / "goes on", max_trials=4, epochs=1, max_consecutive_failed_trials=5
    )
    assert [trial.status for trial in trials] == ["FAILED"] * 4


def test_good_epochs_do_not_save_a_trial_that_diverges_later():
    hypermodel = space([], optimizer=keras.optimizers.SGD)
    model, hp = built(hypermodel)
    explode = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-2 if epoch < 2 else 1e38)
    with pytest.raises(
        keras_tuner.errors.FailedTrialError, match=r"after \d epochs: \['loss'\].*'learning_rate'"
    ):
        hypermodel.fit(hp, model, X, LABELS, epochs=9, callbacks=[explode], verbose=0)


@pytest.mark.parametrize("synthesizer_rate", [None, 1e-2])
def test_a_trial_goes_on_from_its_weights(tmp_path, synthesizer_rate):
    """As under Hyperband: with the state of its optimizers, so as if it had never been stopped."""

    def fit(epochs, start=None):
        hypermodel = space(num_classes=3, synthesizer_learning_rate=synthesizer_rate)
        model, hp = built(hypermodel)
        if start:
            model.load_weights(start)
        hypermodel.fit(hp, model, X, LABELS, batch_size=BATCH, shuffle=False, epochs=epochs, verbose=0)
        return model

    fit(2).save_weights(tmp_path / "half.weights.h5")
    resumed = fit(2, tmp_path / "half.weights.h5")
    for a, b in zip(fit(4).get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_synthesizer_is_swept_by_its_cosine(tmp_path):
    """Of two rates, the higher one follows better on so few steps; the objective finds it."""
    hypermodel = space(learning_rate=1e-3, synthesizer_learning_rate=tuning.Choice(1e-6, 1e-1), num_classes=3)
    tuner, trials = search(
        hypermodel, tmp_path, objective=tuning.objective("sg_cosine"), max_trials=2, epochs=4
    )
    assert tuner.get_best_hyperparameters()[0].get("synthesizer_learning_rate") == 1e-1
    assert len({trial.score for trial in trials}) == 2


@pytest.mark.parametrize(
    "name, direction",
    {
        "val_accuracy": "max",
        "sg_cosine": "max",
        "block1_sg_cosine": "max",
        "sg_loss": "min",
        "val_loss": "min",
        "block1_alignment_error": "min",
        "block1_alignment_sign": "max",
    }.items(),
)
def test_objectives(name, direction):
    assert tuning.objective(name) == keras_tuner.Objective(name, direction)


def test_an_objective_with_its_direction():
    assert tuning.objective("val_bleu", "max") == keras_tuner.Objective("val_bleu", "max")
    assert tuning.objective("sg_cosine", "min") == keras_tuner.Objective("sg_cosine", "min")


WRONG = {
    "metric without a direction": (
        lambda: tuning.objective("val_bleu"),
        r"direction='max' or 'min' for 'val_bleu'.*'accuracy', 'cosine'.*Received: direction=None",
    ),
    "direction": (lambda: tuning.objective("loss", "down"), "Received: direction='down'"),
    "synthesizers are not validated": (
        lambda: tuning.objective("val_sg_cosine"),
        "Use 'sg_cosine'. Received: name='val_sg_cosine'",
    ),
    "one choice": (lambda: tuning.Choice(3), r"two or more different.*Received: Choice\(3,\)"),
    "choices alike": (lambda: tuning.Choice([], ["a"], []), r"two or more different.*\['a'\]"),
    "range from zero": (lambda: tuning.LogRange(0, 1), "positive number to a larger one.*low=0, high=1"),
    "range backwards": (lambda: tuning.LogRange(1e-1, 1e-3), "low=0.1, high=0.001"),
    "range of words": (lambda: tuning.LogRange("1e-3", 1), "low='1e-3'"),
    "choices of one name": (
        lambda: space(synthesizer=tuning.Choice(lambda shape: 0, lambda shape: 1)),
        r"choices of `synthesizer` apart by their names.*\['<lambda>', '<lambda>'\]",
    ),
    "synthesizer": (lambda: space(synthesizer="quadratic"), "Unknown synthesizer.*Received: 'quadratic'"),
    "conditional on nothing": (
        lambda: space(conditional=tuning.Choice(True, False)),
        "Conditional synthesizers need num_classes.*Received: conditional=.*and neither",
    ),
    "what needs a label, without": (
        lambda: space(synthesizer=tuning.Choice("linear", "error")),
        "Conditional synthesizers need num_classes.*synthesizer=.*and neither",
    ),
    "width of nothing": (
        lambda: space(width=64),
        r"`width` is for the synthesizers \['conv', 'critic', 'error', 'mlp', 'value'\].*"
        "width=64 .*='linear'",
    ),
}


@pytest.mark.parametrize("make, message", WRONG.values(), ids=WRONG)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_wrong_place_stops_the_sweep(tmp_path):
    """It is an error of the space, not of one trial: later trials would meet it, too."""
    hypermodel = tuning.DecoupledHyperModel(
        network, tuning.Choice(["module1"], ["module7"]), learning_rate=1e-3, **LOSS
    )
    with pytest.raises(ValueError, match=r"no layers \['module7'\].*'module1', 'module2', 'last'"):
        search(hypermodel, tmp_path, max_trials=2, epochs=1)


def test_keras_tuner_is_imported_only_when_asked_for():
    """In a process in which it cannot be imported, keras_sg can, and tuning says what is missing."""
    script = (
        "import sys; sys.modules['keras_tuner'] = None; import keras_sg\n"
        "try: import keras_sg.tuning\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert 'keras_sg.tuning needs keras-tuner: pip install "/path/to/keras_sg[tune]"' in done.stdout
