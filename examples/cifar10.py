"""CIFAR-10 with synthetic gradients: r2rt's convolutional experiment and a deeper one, trained in seven ways.

    python -m examples.cifar10 --arm all
    python -m examples.cifar10 --arm sg --iterations 1950
    python -m examples.cifar10 --network deep --arm critic-sobolev
    python -m examples.cifar10 --recipe local
    python -m examples.cifar10 --data cifar10.npz
    python -m examples.cifar10 --plot runs/cifar10

There are two networks, with an interface behind every block but the last:

    r2rt    two blocks of a 5 x 5 convolution to 128 channels, BatchNormalization, ReLU and pooling, and a
            Dense read-out; two interfaces
    deep    four blocks of two 3 x 3 convolutions, each with BatchNormalization and ReLU, to 16, 32, 64 and
            64 channels, with pooling behind each block, and a Dense read-out; three interfaces

The arms differ in nothing but what stands at the interfaces:

    backprop         nothing
    no-backprop      nothing, and only the last layer learns
    sg               convolutions predict the gradient
    sg-conditional   convolutions that also see the label, as channel masks, predict the gradient
    critic           a small convolutional net predicts the class, and with the label the loss
    critic-sobolev   the same, and it fits the gradient of that loss, too
    local            the same net learns from the label itself; nothing comes from the modules above

With --data, an .npz file with the arrays x_train, y_train, x_test and y_test (images as uint8, or floats in
[0, 1]) takes the place of TFDS; backends other than TensorFlow then do without it.

Writes results.json (after every epoch) and accuracy.png into --output. A run that was stopped
goes on after its last whole epoch when the same command is given again.
"""

import argparse
import json

import keras

import keras_sg
from examples import data, images, runs
from keras_sg.synthesizers import Conv, Critic

# From a module, the recipe of what predicts behind it and the arguments of an interface to the two in one.
INTERFACES = {
    "backprop": lambda module, *_, **__: module,
    "no-backprop": lambda module, *_, **__: module,
    "sg": lambda module, recipe, **options: keras_sg.SyntheticGradient(module, recipe, **options),
    "sg-conditional": lambda module, recipe, **options: keras_sg.SyntheticGradient(
        module, recipe, num_classes=data.CLASSES, **options
    ),
    "critic": lambda module, recipe, **options: keras_sg.SyntheticLoss(
        module, recipe, num_classes=data.CLASSES, **options
    ),
    "critic-sobolev": lambda module, recipe, **options: keras_sg.SyntheticLoss(
        module, recipe, num_classes=data.CLASSES, sobolev=True, **options
    ),
    "local": lambda module, recipe, **_: keras_sg.LocalLoss(module, recipe, num_classes=data.CLASSES),
}


def r2rt(filters, momentum):
    """The modules that end at an interface, and the layers above them, below the read-out."""
    cut = [images.convolution(filters, f"block{number}", number == 1, momentum) for number in (1, 2)]
    return cut, keras.layers.Flatten()


def deep(filters, momentum):
    """As `r2rt`: four blocks of two convolutions, of which the last ends at no interface."""
    pools = [keras.layers.MaxPooling2D() for _ in range(3)] + [keras.layers.GlobalAveragePooling2D()]
    widths = (filters, 2 * filters, 4 * filters, 4 * filters)
    blocks = [
        images.block(width, pool, f"block{number}", momentum)
        for number, (width, pool) in enumerate(zip(widths, pools, strict=True), start=1)
    ]
    return blocks[:-1], blocks[-1]


NETWORKS, FILTERS = {"r2rt": r2rt, "deep": deep}, {"r2rt": 128, "deep": 16}


def arguments(text):
    """An `argparse` type: a JSON object, or a list of them."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    each = found if isinstance(found, list) and found else [found]
    if not all(isinstance(one, dict) for one in each):
        raise argparse.ArgumentTypeError(
            f"expected a JSON object, such as '{{\"kernel_size\": 3}}', or a list of them, received {text}"
        )
    return found


PARSER = images.parser("cifar10", __doc__, INTERFACES)
PARSER.add_argument("--network", choices=NETWORKS, default="r2rt")
PARSER.add_argument(
    "--filters",
    type=runs.positive,
    help="channels of r2rt's two blocks (by default 128), or of the first of the deep network's (16)",
)
PARSER.add_argument(
    "--momentum",
    type=runs.share,
    default=images.MOMENTUM,
    help="of the moving averages of BatchNormalization, by which a network is measured; nothing trains by "
    "them (default: %(default)s)",
)
PARSER.add_argument(
    "--synthesizer",
    type=arguments,
    default={},
    metavar="JSON",
    help="arguments of what predicts, in the arms sg* of keras_sg.synthesizers.Conv, else of Critic; or a "
    "list of them, one an interface",
)


POOLED = '[{"widths": 64, "pool_size": 4}, {"widths": 64, "pool_size": 2}, {"widths": 64, "pool_size": 4}]'
AS_ABOVE = '[{"widths": 64, "kernel_size": 5, "pool_size": 3}, {"widths": []}]'
NARROW = '[{"filters": 32}, {}]'
R2RT = "--iterations 2145 --synthesizer-learning-rate 1e-3 --momentum 0.9"
# "critic": critics that are built as what is above them. "sg": synthesizers quicker than the modules.
# "local": local losses with heads that pool. "warm": critics behind an epoch of true gradients, for longer.
# All were chosen on held-out images.
DEEP = f"--network deep --batch-size 128 --learning-rate 1e-3 --decay cosine --synthesizer '{POOLED}'"
RECIPES = {
    "critic": f"--arm critic-sobolev {R2RT} --synthesizer '{AS_ABOVE}'",
    "sg": f"--arm sg {R2RT} --synthesizer '{NARROW}'",
    "local": f"--arm local {DEEP} --iterations 1170 --synthesizer-learning-rate 1e-3",
    "warm": f"--arm critic-sobolev {DEEP} --iterations 3900 --synthesizer-learning-rate 1e-3 --warm-up 1 "
    "--regression mae",
}
images.add_recipes(PARSER, RECIPES)


def recipes(arm, args, count):
    """The recipes of what predicts in an arm, at each of so many interfaces."""
    kind = Conv if arm.startswith("sg") else Critic
    each = args.synthesizer if isinstance(args.synthesizer, list) else [args.synthesizer] * count
    if len(each) != count:
        raise SystemExit(
            f"--synthesizer must have an entry for each interface, {count}, or be one for all. Received: "
            f"{len(each)} entries"
        )
    try:
        return [kind(**options) for options in each]
    except (TypeError, ValueError) as error:
        raise SystemExit(
            f"--synthesizer must have arguments of keras_sg.synthesizers.{kind.__name__} for arm {arm!r}. "
            f"Received: {json.dumps(args.synthesizer)}; {error}"
        ) from error


def build(arm, args=None):
    """The network of one arm, compiled; with the default arguments, r2rt's."""
    args = args or PARSER.parse_args([])
    cut, above = NETWORKS[args.network](args.filters or FILTERS[args.network], args.momentum)
    inputs = hidden = keras.Input((32, 32, 3))
    for module, recipe in zip(cut, recipes(arm, args, len(cut))):
        hidden = INTERFACES[arm](module, recipe, **images.options(args))(hidden)
    logits = keras.layers.Dense(data.CLASSES, name="logits", dtype="float32")(above(hidden))
    model = keras_sg.DecoupledModel(inputs, logits)
    return images.compile(model, arm, args)


def main(argv=None):
    args = PARSER.parse_args(argv)
    args.filters = args.filters or FILTERS[args.network]
    cut, _ = NETWORKS[args.network](args.filters, args.momentum)
    for arm in INTERFACES if args.arm == "all" else [args.arm]:
        recipes(arm, args, len(cut))  # What it refuses, it refuses before anything is trained.
    blocks = {"r2rt": "two convolutional blocks of", "deep": "eight convolutions, the first of"}
    title = f"CIFAR-10, {blocks[args.network]} {args.filters}"
    images.main(args, "cifar10", (32, 32, 3), INTERFACES, build, title, zoom=0.2)


if __name__ == "__main__":
    main()
