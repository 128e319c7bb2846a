"""Modules that wait for less and less: updated at random, and trained on predicted inputs (MNIST).

    KERAS_BACKEND=jax python -m examples.unlocked
    KERAS_BACKEND=jax python -m examples.unlocked --arm p=0.05
    KERAS_BACKEND=jax python -m examples.unlocked --arm complete --synthetic-input-width 512
    python -m examples.unlocked --plot runs/unlocked

The network of the paper's table 1 with four layers (--layers): dense layers of 256 units, each with
BatchNormalization and ReLU, and an interface with a linear synthesizer that sees the label behind each.

    p=1              every module is updated in every step
    p=0.5 ... 0.05   each with that probability, independently of the others; a module that rests runs
                     forward only
    complete         every module is updated in every step, and trains on a prediction of what the module
                     below puts out, made from the picture by one hidden layer: it waits for nothing

Writes results.json (after every epoch) and accuracy.png into --output. A run that was stopped goes on after
its last whole epoch when the same command is given again. --validation measures on a sixth of the training
images, held out.

Source: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343: sparse updates and complete unlock, with
details in appendix A.
"""

import keras

import keras_sg
from examples import data, images, runs
from examples.paper_cells import SHAPES, WIDTHS

NETWORK = "mnist", "fcn"
UPDATES = {f"p={p:g}": p for p in (1, 0.5, 0.2, 0.1, 0.05)}
ARMS = (*UPDATES, "complete")

PARSER = images.parser("unlocked", __doc__, ARMS)
PARSER.add_argument("--layers", type=runs.positive, default=4, help="the classifier counted")
PARSER.add_argument(
    "--synthetic-input-width",
    type=runs.positive,
    default=256,
    help="of the hidden layer that predicts inputs",
)
PARSER.set_defaults(iterations=23_400, batch_size=128, learning_rate=2e-3, decay="cosine")


def build(arm, args=None):
    """The network of one arm, compiled."""
    args = args or PARSER.parse_args([])
    options = images.options(args)
    if arm == "complete":
        options["synthetic_input"] = keras_sg.synthesizers.InputMLP((args.synthetic_input_width,))
    inputs = hidden = keras.Input(SHAPES[NETWORK])
    for number in range(1, args.layers):
        module = images.dense(WIDTHS[NETWORK], f"block{number}")
        hidden = keras_sg.SyntheticGradient(module, num_classes=data.CLASSES, **options)(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(data.CLASSES, name="logits")(hidden))
    compilation = images.speed()
    if UPDATES.get(arm, 1) < 1:
        compilation["schedule"] = keras_sg.schedules.InTurn(module_update=UPDATES[arm], seed=args.seed)
    return images.compile(model, arm, args, **compilation)


def main(argv=None):
    args = PARSER.parse_args(argv)
    if args.schedule != "together":
        raise SystemExit(
            "Which schedule trains it is part of an arm: in turn where modules are updated at random, else "
            f"together. Received: --schedule {args.schedule}"
        )
    if args.layers < 2:
        raise SystemExit(f"A network to cut has two layers at least. Received: --layers {args.layers}")
    title = f"MNIST, {args.layers} layers, modules that wait for less and less"
    images.main(args, "mnist", SHAPES[NETWORK], ARMS, build, title)


if __name__ == "__main__":
    main()
