"""CIFAR-10 with synthetic gradients: r2rt's convolutional experiment, trained in seven ways.

    python -m examples.cifar10 --arm all
    python -m examples.cifar10 --arm sg --iterations 1950
    python -m examples.cifar10 --data cifar10.npz
    python -m examples.cifar10 --plot runs/cifar10

The network is two blocks of a 5 x 5 convolution to 128 channels, BatchNormalization, ReLU and
pooling, and a Dense read-out; two interfaces, behind the blocks, cut it into three modules. The
arms differ in nothing but what stands at the interfaces:

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

import keras

import keras_sg
from examples import images, runs

INTERFACES = {
    "backprop": lambda module, **_: module,
    "no-backprop": lambda module, **_: module,
    "sg": lambda module, **options: keras_sg.SyntheticGradient(module, "conv", **options),
    "sg-conditional": lambda module, **options: keras_sg.SyntheticGradient(
        module, "conv", num_classes=10, **options
    ),
    "critic": lambda module, **options: keras_sg.SyntheticLoss(module, "critic", num_classes=10, **options),
    "critic-sobolev": lambda module, **options: keras_sg.SyntheticLoss(
        module, "critic", num_classes=10, sobolev=True, **options
    ),
    "local": lambda module, **_: keras_sg.LocalLoss(module, "critic", num_classes=10),
}
PARSER = images.parser("cifar10", __doc__, INTERFACES)
PARSER.add_argument("--filters", type=runs.positive, default=128, help="channels of the two blocks")


def build(arm, args=None):
    """The network of one arm, compiled; with the default arguments, r2rt's."""
    args = args or PARSER.parse_args([])
    inputs = hidden = keras.Input((32, 32, 3))
    for name in ("block1", "block2"):
        module = images.convolution(args.filters, name, first=name == "block1")
        hidden = INTERFACES[arm](module, **images.options(args))(hidden)
    logits = keras.layers.Dense(10, name="logits", dtype="float32")(keras.layers.Flatten()(hidden))
    model = keras_sg.DecoupledModel(inputs, logits)
    return images.compile(model, arm, args)


def main(argv=None):
    args = PARSER.parse_args(argv)
    title = f"CIFAR-10, two convolutional blocks of {args.filters}"
    images.main(args, "cifar10", (32, 32, 3), INTERFACES, build, title, zoom=0.2)


if __name__ == "__main__":
    main()
