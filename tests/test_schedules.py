"""Schedules are chosen in `compile`; one that cannot serve a model says so, by name."""

import keras
import numpy as np
import pytest
from in_turn import CLASSES, FEATURES, LABELS, X, chain, compiled, gradient, train
from keras import layers

import keras_sg
from keras_sg import schedules


def cut(layer):
    return gradient(layer, num_classes=None)


def mixed(layer):
    return keras_sg.SyntheticGradient(layer, mix=0.5)


class OwnStep(keras_sg.DecoupledModel):
    def train_step(self, *args):
        return super().train_step(*args)


class OwnCall(keras_sg.DecoupledModel):
    def call(self, inputs, **kwargs):
        return super().call(inputs, **kwargs)


class Idle(keras_sg.SyntheticGradient):
    """An interface that lets the true gradient pass."""

    def call(self, inputs, **kwargs):
        return self.layer(inputs)


def uncut():
    inputs = keras.Input((FEATURES,))
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(inputs))


def test_the_default_is_together_and_a_schedule_stands_for_itself():
    model = compiled(lambda: chain(cut), "together")
    assert type(model.schedule) is schedules.Together and model.schedule.start(model) is None
    assert repr(compiled(lambda: chain(cut), schedules.InTurn()).schedule) == "InTurn()"
    assert type(compiled(lambda: chain(cut), "in_turn").schedule) is schedules.InTurn


@pytest.mark.parametrize("schedule", ["in turn", None, schedules.InTurn])
def test_a_schedule_that_is_not_known(schedule):
    with pytest.raises(
        ValueError, match=r"`schedule` says when and where modules run: one of \['in_turn', 'tog"
    ):
        compiled(lambda: chain(cut), schedule)


@pytest.mark.parametrize(
    "make, expected",
    [
        (
            lambda: chain(lambda layer: keras_sg.SyntheticGradient(layer, mix=0.5)),
            "a share of the true gradient",
        ),
        (
            lambda: chain(cut, model_class=OwnStep),
            r"has \['train_step'\] of its own, which takes the",
        ),
        (
            lambda: chain(cut, model_class=OwnCall),
            r"has \['call'\] of its own, which takes the",
        ),
        (uncut, r"has no interfaces to part it at"),
    ],
    ids=["mix", "train_step", "call", "no interface"],
)
def test_what_in_turn_cannot_serve(make, expected):
    with pytest.raises(ValueError, match=expected):
        compiled(make)
    compiled(make, "together")


def test_a_mix_that_moves():
    model = compiled(lambda: chain(cut, cut))
    schedule = keras_sg.callbacks.MixSchedule(lambda epoch: 1.0)
    with pytest.raises(ValueError, match=r"\(mix=1.0, and it moves\).*Received: schedule='in_turn'"):
        train(model, X, LABELS, callbacks=[schedule])


def test_under_a_strategy(two_devices):
    with two_devices.scope(), pytest.raises(ValueError, match=r"run by themselves are not replicated"):
        compiled(lambda: chain(cut))


def test_interfaces_that_take_no_part():
    model = compiled(lambda: chain(cut, Idle))
    with pytest.raises(
        ValueError, match=r"\['module2'\] took no part in the training step: called with training"
    ):
        train(model, X, LABELS)


def test_labels_out_of_range_in_a_data_set():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return X, LABELS + CLASSES

    model = compiled(lambda: chain(gradient))
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\)"):
        model.fit(Batches(), verbose=0)


def test_a_schedule_is_not_saved(tmp_path):
    model = compiled(lambda: chain(gradient, cut))
    train(model, X, LABELS)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.schedule) is schedules.Together
    for each in (model, again):
        train(each, X, LABELS)
    for a, b in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    plain = keras_sg.strip(model)
    np.testing.assert_allclose(plain.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
