"""The guard: nothing public is missing from the table."""

import collections
import inspect
import pathlib
import re

import keras
import pytest
from table import MOST, NOT_TRIED, ROWS

import keras_sg
from keras_sg import synthesizers
from keras_sg._interfaces.interface import interfaces_in

# What makes a model or an optimizer, and the row (or the file) in which it is used.
FUNCTIONS = {
    "decouple": "decoupled nested",
    "strip": "test_saving.py",
    "balance": "tests/test_balance.py",
    "Windows": "tests/test_windows.py",
    **dict.fromkeys(
        ["split", "join", "LowerModel", "UpperModel", "Sent", "Target", "Pairs"], "tests/test_halves.py"
    ),
    "decoupled_optimizer": "linear, conditional",
}


@pytest.fixture(scope="module")
def models():
    return {name: row.compiled() for name, row in ROWS.items()}


def test_every_class_and_function_is_there(models):
    public = {
        name: value
        for name, value in vars(keras_sg).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    used = {type(layer) for model in models.values() for layer in (model, *interfaces_in(model))}
    used |= {getattr(keras_sg, name) for name in FUNCTIONS}
    assert [name for name, value in public.items() if value not in used] == []
    assert FUNCTIONS["decouple"] in ROWS and FUNCTIONS["decoupled_optimizer"] in ROWS
    optimizers = {type(model.optimizer) for model in models.values()}
    assert {type(keras_sg.decoupled_optimizer()), keras.optimizers.Adam} <= optimizers


def predicting(config):
    """What predicts at an interface, by its configuration."""
    return config.get("synthesizer") or config["head"]


def test_every_synthesizer_is_there_with_every_kind_of_label(models):
    interfaces = [interface for model in models.values() for interface in interfaces_in(model)]
    found = collections.defaultdict(set)
    for interface in interfaces:
        recipe = synthesizers.get(predicting(interface.get_config()))
        found[type(recipe)].add(type(interface.label).__name__)
    assert set(found) == {*synthesizers.RECIPES.values(), synthesizers.Existing, synthesizers.WithInput}
    for identifier, recipe in synthesizers.RECIPES.items():
        needed = {"Classes"} if recipe.needs_label else {"NoneType", "Classes"}
        assert needed <= found[recipe], identifier
    for recipe in (synthesizers.Linear, synthesizers.Critic, synthesizers.PredictedError):
        assert "Vector" in found[recipe]


def test_every_argument_of_an_interface_takes_several_values(models):
    values = collections.defaultdict(set)
    for model in models.values():
        for interface in interfaces_in(model):
            for argument, value in interface.get_config().items():
                values[type(interface), argument].add(str(value))
    fixed = {"dtype", "trainable", "keras_sg_version"}
    alone = {argument for (_, argument), found in values.items() if len(found) == 1} - fixed
    several = {argument for (_, argument), found in values.items() if len(found) > 1}
    assert alone - several == set()


def test_what_is_not_tried_on_a_backend_exists():
    files = list(pathlib.Path(__file__).parent.glob("test_*.py"))
    tests = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert set(NOT_TRIED) <= tests | {file.stem for file in files}


def test_everything_slow_is_tried_somewhere():
    assert {word for row in ROWS.values() for word in row.tried.split()} == {*MOST.split(), "killed"}
