"""What the image experiments share: the command line, and the loop over the arms."""

import argparse
import pathlib
import shlex

import keras

import keras_sg
from examples import data, runs

MOMENTUM = 0.99  # of the moving averages of BatchNormalization: Keras's

SCHEDULES = {
    "together": lambda: "together",
    "in_turn": lambda: "in_turn",
    "side_by_side": lambda: keras_sg.schedules.SideBySide(),
}


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
        "--decay",
        choices=["cosine"],
        help="of all rates, to zero over the iterations; by default none",
    )
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
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="together",
        help="when and where modules run; side_by_side is for JAX with a device for each module "
        "(XLA_FLAGS=--xla_force_host_platform_device_count=3 makes three of a CPU)",
    )
    parser.add_argument("--dtype-policy", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--validation",
        action="store_true",
        help="train on five sixths of the training images, and measure on the other sixth of them",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    source.add_argument(
        "--data",
        type=pathlib.Path,
        metavar="FILE.npz",
        help="arrays x_train, y_train, x_test and y_test, instead of TFDS (which needs TensorFlow)",
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs") / name)
    parser.add_argument("--overwrite", action="store_true", help="drop the results that are there")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FOLDER", help="only redraw FOLDER/accuracy.png")
    return parser


def add_recipes(parser, recipes):
    """Give a command line the option --recipe.

    Args:
        parser: what parses it.
        recipes: by name, the options that one stands for, as they would be typed; those that are given
            behind it win.
    """

    class Recipe(argparse.Action):
        def __call__(self, parser, namespace, value, option_string=None):
            parser.parse_args(shlex.split(recipes[value]), namespace)

    parser.add_argument(
        "--recipe",
        action=Recipe,
        choices=recipes,
        default=argparse.SUPPRESS,
        help="; ".join(f"{name} stands for {options}" for name, options in recipes.items())
        + "; give others after",
    )


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
    runs.can_draw()
    runs.Results(args.output)
    keras.config.set_dtype_policy(args.dtype_policy)
    splits = data.read(args.data, shape) if args.data else data.fetch(dataset, args.data_dir)
    if args.validation:
        splits = data.held_out(splits)
    for arm in arms if args.arm == "all" else [args.arm]:
        train(arm, args, splits, shape, build)
    print("\n" + runs.table(args.output))
    runs.plot(args.output, title, zoom)


def train(arm, args, splits, shape, build, settings=None, callbacks=(), **options):
    """Train one arm; the results go into `args.output`.

    Args:
        arm: its name.
        args: what `parser` parsed.
        splits: training and test split, see `examples.data`.
        shape: shape of an input.
        build: function from an arm and `args` to a compiled model.
        settings: dictionary of what the results depend on besides `args`.
        callbacks: for `fit`.
        **options: of `runs.train`.
    """
    keras.utils.set_random_seed(args.seed)
    batches, test = data.batches(splits, shape, args.batch_size, args.seed)
    steps = min(len(batches), args.iterations)
    model = build(arm, args)
    if args.warm_up and model.interfaces:
        warm_up = keras_sg.callbacks.MixSchedule(lambda epoch: float(epoch >= args.warm_up))
        callbacks = [warm_up, *callbacks]
    runs.train(
        model,
        arm,
        batches.take(steps),
        test,
        epochs=args.iterations // steps,
        settings=settings_of(args) | (settings or {}),
        output=args.output,
        resume=not args.overwrite,
        callbacks=callbacks,
        **options,
    )


def settings_of(args):
    """What the results depend on. Of a file with data, that is its content, not its name."""
    settings = {key: value for key, value in vars(args).items() if key not in (*NOT_SETTINGS, "data")}
    return settings | ({"data": data.digest(args.data)} if args.data else {})


def options(args):
    """The arguments of an interface that the command line sets."""
    return {} if args.regression is None else {"loss": args.regression}


def dense(units, name):
    """A module: a dense layer, BatchNormalization and ReLU."""
    layers = [keras.layers.Dense(units), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    return keras.Sequential(layers, name=name)


def convolution(filters, name, first, momentum=MOMENTUM):
    """A module: a 5 x 5 convolution, BatchNormalization, ReLU and pooling (in the first, by the maximum)."""
    pool = keras.layers.MaxPooling2D if first else keras.layers.AveragePooling2D
    layers = [
        keras.layers.Conv2D(filters, 5, padding="same"),
        keras.layers.BatchNormalization(momentum=momentum),
        keras.layers.ReLU(),
        pool(3, 3),
    ]
    return keras.Sequential(layers, name=name)


def block(filters, pool, name, momentum=MOMENTUM):
    """A module: twice a 3 x 3 convolution, BatchNormalization and ReLU; then a pooling layer."""
    layers = []
    for _ in range(2):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same"),
            keras.layers.BatchNormalization(momentum=momentum),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, pool], name=name)


def speed():
    """What `compile` is told for a network of dense layers, whose steps are short."""
    # Keras on PyTorch compiles no steps that synthetic gradients take part in, and executes one at a time.
    compiled = keras.backend.backend() != "torch"
    return {"jit_compile": True, "steps_per_execution": 26} if compiled else {}


def adam(rate, args):
    """Adam at a rate, which falls where the settings say so: as a cosine, to zero, or twice, to a tenth."""
    if args.decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, args.iterations)
    elif args.decay == "steps":
        at = [args.iterations * 3 // 5, args.iterations * 4 // 5]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(at, [rate, rate / 10, rate / 100])
    return keras.optimizers.Adam(rate, epsilon=1e-8)


def compile(model, arm, args, **kwargs):
    """Compile the model of one arm; `no-backprop` leaves only the last layer to learn."""
    if arm == "no-backprop":
        for variable in model.trainable_variables[:-2]:  # all but kernel and bias of the last layer
            variable.trainable = False
    optimizer = adam(args.learning_rate, args)
    if args.synthesizer_learning_rate is not None and model.interfaces:
        synthesizer = adam(args.synthesizer_learning_rate, args)
        optimizer = keras_sg.decoupled_optimizer(optimizer, synthesizer)
    if model.interfaces:
        kwargs.setdefault("schedule", SCHEDULES[getattr(args, "schedule", "together")]())
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return model
