"""A first look, in about a minute: handwritten digits, with and without backpropagation.

    python -m examples.quickstart

A small network is cut into three modules and trained four ways on the digits that ship with
scikit-learn (1,797 pictures of 8 x 8). It needs Keras, on any backend, scikit-learn and matplotlib:

    backprop         the gradient runs through the whole network
    no-backprop      it stops at the last layer; the layers below keep their random weights
    sg               no gradient crosses an interface: a small MLP predicts it
    sg-conditional   the same with a linear synthesizer that also sees the label

Prints a table; writes results.json and accuracy.png into --output.
"""

import argparse
import pathlib

import keras

import keras_sg
from examples import data, runs
from examples.needs import needs

with needs("examples"):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

INTERFACES = {
    "backprop": lambda module: module,
    "no-backprop": lambda module: module,
    "sg": lambda module: keras_sg.SyntheticGradient(module, keras_sg.synthesizers.MLP(widths=(128,))),
    "sg-conditional": lambda module: keras_sg.SyntheticGradient(module, "linear", num_classes=10),
}


def build(arm):
    """The network of one arm, compiled."""
    inputs = hidden = keras.Input((64,))
    for name in ("block1", "block2"):
        module = keras.Sequential(
            [keras.layers.Dense(64), keras.layers.BatchNormalization(), keras.layers.ReLU()], name=name
        )
        hidden = INTERFACES[arm](module)(hidden)
    outputs = keras.layers.Dense(10, name="logits")(hidden)
    model = keras_sg.DecoupledModel(inputs, outputs, report_interfaces=False)

    if arm == "no-backprop":
        for variable in model.trainable_variables[:-2]:  # all but kernel and bias of the last layer
            variable.trainable = False

    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def load(seed=0):
    """Training and test batches of the digits, pixels in [0, 1]."""
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data.astype("float32") / 16, digits.target, test_size=0.25, random_state=seed
    )
    train = data.Batches({"image": train_x, "label": train_y}, (64,), batch_size=32, seed=seed)
    return train, data.Batches({"image": test_x, "label": test_y}, (64,), batch_size=len(test_y))


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=runs.positive, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    args = parser.parse_args(argv)

    runs.can_draw()
    runs.Results(args.output)
    train, test = load(args.seed)
    for arm in INTERFACES:
        keras.utils.set_random_seed(args.seed)
        settings = {"epochs": args.epochs, "seed": args.seed, "batch_size": 32, "learning_rate": 1e-3}
        runs.train(
            build(arm),
            arm,
            train,
            test,
            epochs=args.epochs,
            settings=settings,
            output=args.output,
            resume=False,
        )
    print("\n" + runs.table(args.output))
    runs.plot(args.output, "Digits, 64 - 64 - 64 - 10")


if __name__ == "__main__":
    main()
