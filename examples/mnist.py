"""MNIST with synthetic gradients: r2rt's experiment, five ways to train one network.

    python -m examples.mnist --arm all
    python -m examples.mnist --arm sg-conditional --iterations 2340 --learning-rate 1e-3
    python -m examples.mnist --plot runs/mnist

The network is 784 - 256 - 256 - 10 with BatchNormalization; two interfaces cut it into three
modules. The arms differ in nothing but what stands at the interfaces:

    backprop         nothing
    no-backprop      nothing, and only the last layer learns
    sg               an MLP predicts the gradient
    sg-conditional   an MLP that also sees the label predicts the gradient
    synthetic-loss   an MLP predicts the loss

Writes results.json (after every epoch) and accuracy.png into --output. A run that was stopped
goes on after its last whole epoch when the same command is given again.
"""

import argparse
import pathlib

import keras
import tensorflow as tf

import keras_sg
from examples import runs

INTERFACES = {
    "backprop": lambda module: module,
    "no-backprop": lambda module: module,
    "synthetic-loss": lambda module: keras_sg.SyntheticLoss(module, synthesizer="value"),
    "sg": lambda module: keras_sg.SyntheticGradient(module, synthesizer="mlp"),
    "sg-conditional": lambda module: keras_sg.SyntheticGradient(module, synthesizer="mlp", num_classes=10),
}


def build(arm, learning_rate=3e-5):
    """The network of one arm, compiled."""
    inputs = hidden = keras.Input((784,))
    for name in ("block1", "block2"):
        module = keras.Sequential(
            [keras.layers.Dense(256), keras.layers.BatchNormalization(), keras.layers.ReLU()], name=name
        )
        hidden = INTERFACES[arm](module)(hidden)
    logits = keras.layers.Dense(10, name="logits")(hidden)
    model = keras_sg.DecoupledModel(inputs, logits)

    if arm == "no-backprop":
        for variable in model.trainable_variables[:-2]:  # all but kernel and bias of the last layer
            variable.trainable = False

    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
        steps_per_execution=26,
    )
    return model


def load(data_dir, batch_size, seed):
    """Training batches, reshuffled every epoch and without the last short one; test batches."""
    train, test = fetch("mnist", data_dir)
    if batch_size > len(train["label"]):
        raise SystemExit(f"--batch-size is at most {len(train['label'])}. Received: {batch_size}")
    order = tf.data.Dataset.range(len(train["label"])).shuffle(len(train["label"]), seed=seed)

    def batch_of(data):
        def pixels_and_labels(at):
            images = tf.cast(tf.gather(data["image"], at), "float32") / 255.0
            return tf.reshape(images, (-1, 784)), tf.gather(data["label"], at)

        return pixels_and_labels

    return (
        order.batch(batch_size, drop_remainder=True).map(batch_of(train)).prefetch(tf.data.AUTOTUNE),
        tf.data.Dataset.range(len(test["label"])).batch(1000).map(batch_of(test)).cache(),
    )


def fetch(name, data_dir):
    """The train and test splits of a TFDS data set, each a dict of whole arrays."""
    import tensorflow_datasets as tfds

    folder = data_dir or "~/tensorflow_datasets"
    if not tfds.builder(name, data_dir=data_dir).is_prepared():
        print(f"{name} is not in {folder}; downloading it (without a network, that fails in some minutes)")
    try:
        return tfds.load(name, split=["train", "test"], data_dir=data_dir, batch_size=-1)
    except Exception as error:  # TFDS raises whatever its download met.
        raise SystemExit(
            f"The data set {name!r} could be neither found in {folder} nor downloaded. With a network, run "
            f"python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\" once. Without one, copy "
            f"from a machine that has it the folder that TFDS made there, and pass as --data-dir the folder "
            f"with {name}/<version>/ in it. Received: --data-dir {data_dir}; {type(error).__name__}: {error}"
        ) from error


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.mnist",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arm", choices=[*INTERFACES, "all"], default="all")
    parser.add_argument(
        "--iterations", type=runs.positive, default=25_000, help="rounded down to whole epochs"
    )
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/mnist"))
    parser.add_argument("--plot", type=pathlib.Path, metavar="FOLDER", help="only redraw FOLDER/accuracy.png")
    args = parser.parse_args(argv)

    title = "MNIST, 784 - 256 - 256 - 10"
    if args.plot:
        runs.plot(args.plot, title)
        return

    settings = {key: getattr(args, key) for key in ("iterations", "batch_size", "learning_rate", "seed")}
    for arm in INTERFACES if args.arm == "all" else [args.arm]:
        keras.utils.set_random_seed(args.seed)
        train, test = load(args.data_dir, args.batch_size, args.seed)
        steps = min(len(train), args.iterations)
        runs.train(
            build(arm, args.learning_rate),
            arm,
            train.take(steps),
            test,
            epochs=args.iterations // steps,
            settings=settings,
            output=args.output,
        )
    print("\n" + runs.table(args.output))
    runs.plot(args.output, title)


if __name__ == "__main__":
    main()
