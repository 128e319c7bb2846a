"""What the image experiments share: the command line, the data, and the loop over the arms."""

import argparse
import functools
import pathlib

import keras
import tensorflow as tf

import keras_sg
from examples import runs


def parser(name, description, arms):
    """The command line of an image experiment."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arm", choices=[*arms, "all"], default="all")
    parser.add_argument(
        "--iterations", type=runs.positive, default=25_000, help="rounded down to whole epochs"
    )
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument(
        "--synthesizer-learning-rate", type=float, help="by default that of the modules, in one optimizer"
    )
    parser.add_argument(
        "--regression", choices=sorted(keras_sg.gradients.REGRESSIONS), help="by default the interface's own"
    )
    parser.add_argument(
        "--warm-up",
        type=runs.whole,
        default=0,
        metavar="EPOCHS",
        help="of true gradients, before synthetic ones",
    )
    parser.add_argument("--dtype-policy", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs") / name)
    parser.add_argument("--overwrite", action="store_true", help="drop the results that are there")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FOLDER", help="only redraw FOLDER/accuracy.png")
    return parser


# What the command line says that does not change a result.
NOT_SETTINGS = ("arm", "data_dir", "output", "overwrite", "plot")


def main(args, dataset, shape, arms, build, title, zoom=0.05):
    """Train the arms that `args` asks for; write the results, a table and a figure.

    Args:
        args: what `parser` parsed.
        dataset: name of the TFDS data set.
        shape: shape of an input.
        arms: the names of all arms.
        build: function from an arm and `args` to a compiled model.
        title: of the figure.
        zoom: how much of the top the figure's second panel shows.
    """
    if args.plot:
        runs.plot(args.plot, title, zoom)
        return
    keras.config.set_dtype_policy(args.dtype_policy)
    for arm in arms if args.arm == "all" else [args.arm]:
        keras.utils.set_random_seed(args.seed)
        train, test = load(dataset, shape, args)
        steps = min(len(train), args.iterations)
        model = build(arm, args)
        warm_up = keras_sg.callbacks.MixSchedule(lambda epoch: float(epoch >= args.warm_up))
        runs.train(
            model,
            arm,
            train.take(steps),
            test,
            epochs=args.iterations // steps,
            settings={key: value for key, value in vars(args).items() if key not in NOT_SETTINGS},
            output=args.output,
            resume=not args.overwrite,
            callbacks=[warm_up] if args.warm_up and model.interfaces else [],
        )
    print("\n" + runs.table(args.output))
    runs.plot(args.output, title, zoom)


def options(args):
    """The arguments of an interface that the command line sets."""
    return {} if args.regression is None else {"loss": args.regression}


def compile(model, arm, args, **kwargs):
    """Compile the model of one arm; `no-backprop` leaves only the last layer to learn."""
    if arm == "no-backprop":
        for variable in model.trainable_variables[:-2]:  # all but kernel and bias of the last layer
            variable.trainable = False
    optimizer = keras.optimizers.Adam(args.learning_rate, epsilon=1e-8)
    if args.synthesizer_learning_rate is not None and model.interfaces:
        synthesizer = keras.optimizers.Adam(args.synthesizer_learning_rate, epsilon=1e-8)
        optimizer = keras_sg.decoupled_optimizer(optimizer, synthesizer)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return model


def load(dataset, shape, args):
    """Training batches, reshuffled every epoch and without the last short one; test batches."""
    train, test = fetch(dataset, args.data_dir)
    count = len(train["label"])
    if args.batch_size > count:
        raise SystemExit(f"--batch-size is at most {count}. Received: {args.batch_size}")

    def batch_of(data):
        def pixels_and_labels(at):
            images = tf.cast(tf.gather(data["image"], at), "float32") / 255.0
            return tf.reshape(images, (-1, *shape)), tf.gather(data["label"], at)

        return pixels_and_labels

    order = tf.data.Dataset.range(count).shuffle(count, seed=args.seed)
    return (
        order.batch(args.batch_size, drop_remainder=True).map(batch_of(train)).prefetch(tf.data.AUTOTUNE),
        tf.data.Dataset.range(len(test["label"])).batch(1000).map(batch_of(test)).cache(),
    )


@functools.lru_cache(maxsize=1)
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
