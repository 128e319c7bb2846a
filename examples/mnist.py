"""MNIST with synthetic gradients: r2rt's experiment, eight ways to train one network.

    python -m examples.mnist --arm all
    python -m examples.mnist --arm sg-conditional --iterations 2340 --learning-rate 1e-3
    python -m examples.mnist --recipe fast
    python -m examples.mnist --data mnist.npz
    python -m examples.mnist --plot runs/mnist

The network is 784 - 256 - 256 - 10 with BatchNormalization; two interfaces cut it into three
modules. The arms differ in nothing but what stands at the interfaces:

    backprop         nothing
    no-backprop      nothing, and only the last layer learns
    synthetic-loss   an MLP predicts the loss
    sg               an MLP predicts the gradient
    sg-conditional   an MLP that also sees the label predicts the gradient
    sg-linear        a linear layer that also sees the label predicts the gradient
    critic           a small MLP predicts the class, and with the label the loss
    critic-sobolev   the same, and it fits the gradient of that loss, too

With --data, an .npz file with the arrays x_train, y_train, x_test and y_test (images as uint8, or floats in
[0, 1]) takes the place of TFDS; backends other than TensorFlow then do without it.

Writes results.json (after every epoch) and accuracy.png into --output. A run that was stopped
goes on after its last whole epoch when the same command is given again.
"""

import keras

import keras_sg
from examples import images

INTERFACES = {
    "backprop": lambda module, **_: module,
    "no-backprop": lambda module, **_: module,
    "synthetic-loss": lambda module, **options: keras_sg.SyntheticLoss(module, "value", **options),
    "sg": lambda module, **options: keras_sg.SyntheticGradient(module, "mlp", **options),
    "sg-conditional": lambda module, **options: keras_sg.SyntheticGradient(
        module, "mlp", num_classes=10, **options
    ),
    "sg-linear": lambda module, **options: keras_sg.SyntheticGradient(
        module, "linear", num_classes=10, **options
    ),
    "critic": lambda module, **options: keras_sg.SyntheticLoss(module, "critic", num_classes=10, **options),
    "critic-sobolev": lambda module, **options: keras_sg.SyntheticLoss(
        module, "critic", num_classes=10, sobolev=True, **options
    ),
}
# "fast": of what was tried, the least work that takes r2rt's network to the accuracy of r2rt's `sg`.
# "critic": synthetic losses that lose nothing.
RECIPES = {
    "critic": "--arm critic --iterations 4680 --learning-rate 1e-3 --regression mse",
    "fast": "--arm sg-linear --iterations 1872 --batch-size 128 --learning-rate 2e-3 --decay cosine",
}


PARSER = images.parser("mnist", __doc__, INTERFACES)
images.add_recipes(PARSER, RECIPES)


def build(arm, args=None):
    """The network of one arm, compiled; with the default arguments, r2rt's."""
    args = args or PARSER.parse_args([])
    inputs = hidden = keras.Input((784,))
    for name in ("block1", "block2"):
        hidden = INTERFACES[arm](images.dense(256, name), **images.options(args))(hidden)
    logits = keras.layers.Dense(10, name="logits", dtype="float32")(hidden)
    model = keras_sg.DecoupledModel(inputs, logits)
    return images.compile(model, arm, args, **images.speed())


def main(argv=None):
    args = PARSER.parse_args(argv)
    images.main(args, "mnist", (784,), INTERFACES, build, "MNIST, 784 - 256 - 256 - 10")


if __name__ == "__main__":
    main()
