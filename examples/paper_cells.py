"""The cells of the paper's Table 1, as `examples.paper_table` trains them: networks, arms and recipes.

Source: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, table 1, section 3.1 and appendix A.
"""

import itertools
from typing import NamedTuple

import keras

import keras_sg
from examples import data, images

ARMS = ("no-backprop", "backprop", "sg", "sg-conditional", "local", "feedback", "sg-input", "sg-error")
NONE = {("cnn", "sg-error")}  # networks and arms that do not go together
LAYERS = {"fcn": (3, 4, 5, 6, 21), "cnn": (3, 4)}
SHAPES = {
    ("mnist", "fcn"): (784,),
    ("mnist", "cnn"): (28, 28, 1),
    ("cifar10", "fcn"): (3072,),
    ("cifar10", "cnn"): (32, 32, 3),
}
WIDTHS = {("mnist", "fcn"): 256, ("mnist", "cnn"): 64, ("cifar10", "fcn"): 1000, ("cifar10", "cnn"): 128}
# The paper's test errors, in per cent: no-backprop, backprop, sg, sg-conditional.
PAPER = {
    ("mnist", "fcn", 3): (9.3, 2.0, 1.9, 2.2),
    ("mnist", "fcn", 4): (12.6, 1.8, 2.2, 1.9),
    ("mnist", "fcn", 5): (16.2, 1.8, 3.4, 1.7),
    ("mnist", "fcn", 6): (21.4, 1.8, 4.3, 1.6),
    ("mnist", "fcn", 21): (None, 2.0, None, 2.0),
    ("mnist", "cnn", 3): (0.9, 0.8, 0.9, 1.0),
    ("mnist", "cnn", 4): (2.8, 0.6, 0.7, 0.8),
    ("cifar10", "fcn", 3): (54.9, 43.5, 42.5, 48.5),
    ("cifar10", "fcn", 4): (57.2, 43.0, 45.0, 45.1),
    ("cifar10", "fcn", 5): (59.6, 41.7, 46.9, 43.5),
    ("cifar10", "fcn", 6): (61.9, 42.0, 49.7, 46.8),
    ("cifar10", "cnn", 3): (28.7, 17.9, 19.5, 19.0),
    ("cifar10", "cnn", 4): (38.1, 15.7, 19.5, 16.4),
}
# Of dense synthesizers, the hidden layers; convolutional ones have two, of as many channels as the network.
# No synthesizer rate: one optimizer for everything.
FAST = dict(
    iterations=4680,
    batch_size=128,
    learning_rate=1e-3,
    synthesizer_learning_rate=None,
    decay="cosine",
    synthesizer=(),
)
# Slow modules, and synthesizers that can follow them.
SLOW = dict(FAST, iterations=23_400, learning_rate=1e-4, synthesizer_learning_rate=1e-3)
RECIPES = {
    "paper": {
        arm: dict(
            iterations=500_000,
            batch_size=256,
            learning_rate=3e-5,
            synthesizer_learning_rate=None,
            decay="steps",
            synthesizer={"mnist": (1024, 1024), "cifar10": (4000,)} if arm in ("sg", "sg-input") else (),
        )
        for arm in ARMS
    },
    "fast": {
        **{arm: dict(FAST, iterations=11_700, learning_rate=2e-3) for arm in ("sg-conditional", "sg-error")},
        ("sg-conditional", "fcn", 21): SLOW,
        "sg": dict(FAST, learning_rate=3e-4, synthesizer_learning_rate=1e-2, synthesizer=(256,)),
        **{("sg", "fcn", layers): dict(SLOW, synthesizer=(1024, 1024)) for layers in (3, 4)},
        "sg-input": dict(
            FAST,
            iterations=14_040,
            batch_size=256,
            learning_rate=3e-4,
            synthesizer_learning_rate=3e-3,
            synthesizer=(256, 256),
        ),
        **{arm: FAST for arm in ("no-backprop", "backprop", "local", "feedback")},
    },
}


class Cell(NamedTuple):
    """A cell of the table, and one seed of it."""

    data: str
    network: str
    layers: int
    arm: str
    seed: int

    @property
    def name(self):
        return f"{self.data}-{self.network}{self.layers}-{self.arm}-seed{self.seed}"


def cells(args):
    """Those that the command line picks, the most telling first.

    Raises:
        SystemExit: there is no such network, or no such cell of it.
    """
    networks = args.network or list(LAYERS)
    known = sorted({layers for network in networks for layers in LAYERS[network]})
    for layers in args.layers or ():
        if layers not in known:
            raise SystemExit(
                f"The paper's networks have {' or '.join(map(str, known))} layers ({', '.join(networks)}), "
                f"the classifier counted. Received: --layers {layers}"
            )
    groups = (
        ("fcn", (6, 5, 4, 3), ("sg-conditional", "sg", "sg-input", "sg-error")),
        ("fcn", (21,), ("sg-error", "sg-conditional")),
        ("fcn", (6, 5, 4, 3), ("backprop", "local", "feedback", "no-backprop")),
        ("fcn", (21,), ("backprop", "sg", "sg-input", "local", "feedback", "no-backprop")),
        ("cnn", (3, 4), ("sg-conditional", "sg", "sg-input", "backprop", "local", "feedback", "no-backprop")),
    )
    found = []
    for dataset, (network, layers, arms) in itertools.product(args.data, groups):
        for seed, arm, count in itertools.product(args.seed, arms, layers):
            wanted = network in networks and count in (args.layers or layers) and arm in (args.arm or arms)
            if wanted:
                found.append(Cell(dataset, network, count, arm, seed))
    if not found:
        raise SystemExit(
            f"The table has no such cell: sg-error is for networks of dense layers. Received: --arm "
            f"{' '.join(args.arm)} with --network {' '.join(networks)}"
        )
    return found


def recipe(name, cell):
    """The settings that a recipe has for a cell, a dictionary."""
    recipes = RECIPES[name]
    found = dict(recipes.get((cell.arm, cell.network, cell.layers), recipes[cell.arm]))
    widths = found["synthesizer"]
    return found | {"synthesizer": list(widths[cell.data] if isinstance(widths, dict) else widths)}


def cut(module, cell, hidden):
    """A hidden module of the network, with what the arm puts behind it."""
    if cell.arm in ("backprop", "no-backprop"):
        return module
    if cell.arm == "local":
        return keras_sg.LocalLoss(module, "critic", num_classes=data.CLASSES)
    if cell.arm == "feedback":
        feedback = keras_sg.synthesizers.Feedback(seed=cell.seed)
        return keras_sg.SyntheticGradient(module, feedback, num_classes=data.CLASSES)
    recipe = keras_sg.synthesizers.MLP(hidden) if hidden else "linear"
    recipe = recipe if cell.network == "fcn" else "conv"
    if cell.arm == "sg-error":
        recipe = "error"
    if cell.arm == "sg-input":
        context = None if cell.network == "fcn" else "conv"
        recipe = keras_sg.synthesizers.WithInput(recipe, SHAPES[cell.data, cell.network], context)
    return keras_sg.SyntheticGradient(
        module,
        recipe,
        num_classes=data.CLASSES if cell.arm in ("sg-conditional", "sg-error") else None,
    )


def build(cell, args):
    """The network of a cell, compiled."""
    key = cell.data, cell.network
    inputs = hidden = keras.Input(SHAPES[key])
    for number in range(1, cell.layers):
        name = f"block{number}"
        module = (
            images.dense(WIDTHS[key], name)
            if cell.network == "fcn"
            else images.convolution(WIDTHS[key], name, first=number == 1)
        )
        hidden = cut(module, cell, args.synthesizer)(hidden)
    if cell.network == "cnn":
        hidden = keras.layers.Flatten()(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(data.CLASSES, name="logits")(hidden))
    return images.compile(model, cell.arm, args, **(images.speed() if cell.network == "fcn" else {}))
