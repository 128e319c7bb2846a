"""Binary addition: the experiment of the post "Deep Learning without Backpropagation".

    python -m examples.binary_addition
    python -m examples.binary_addition --arm sg --passes 1000

A sigmoid network, 16 - 64 - 32 - 8, is trained on 100 sums of two numbers below 128, with plain SGD
in batches of 10. Interfaces behind both hidden layers cut it into three modules:

    baseline         the post's: 128 - 64 - 8 without biases, by backpropagation
    backprop         the same network as the arms below, without interfaces
    sg               linear synthesizers predict the gradient
    sg-conditional   linear synthesizers that see the eight bits of the sum predict the gradient
    critic-sobolev   linear maps predict the bits, and with them the loss and its gradient

Measures all arms alike, every 100 passes, on the 100 sums that they are trained on (so: whether they know
these, not whether they can add others): mean |output - bit|, the share of right bits, and the share of
sums with all bits right. Next to them stand the sums that the post logs (of |output - bit| for
its synthetic gradients; of |(output - bit) * sigmoid'| for its baseline). Prints a table; writes
results.json and error.png into --output.
"""

import argparse
import pathlib

import keras
import numpy as np
from keras import ops

import keras_sg
from examples import runs
from examples.data import prefetched
from examples.needs import needs
from keras_sg import plotting

with needs("tensorflow,examples"):
    import tensorflow as tf

BITS, EXAMPLES, BATCH = 8, 100, 10
PASSES_PER_RECORD = 100
MEASURES = ("passes", "mean_error", "bit_accuracy", "exact_sums", "post_sum")
ARMS = {
    "baseline": lambda module: module,
    "backprop": lambda module: module,
    "sg": lambda module: keras_sg.SyntheticGradient(module, "linear"),
    "sg-conditional": lambda module: keras_sg.SyntheticGradient(module, "linear", label_size=BITS),
    "critic-sobolev": lambda module: keras_sg.SyntheticLoss(
        module, keras_sg.synthesizers.Critic(widths=()), label_size=BITS, sobolev=True
    ),
}

# Learning rates (SGD, for mean squared errors) of the modules and the synthesizers of each arm. In
# the post's units, for sums over batch and bits, 4.0 is its 0.1 and 0.4 is its 0.01.
RATES = {
    "baseline": (4.0, None),
    "backprop": (4.0, None),
    "sg": (0.4, 1.6),
    "sg-conditional": (4.0, 1.6),
    "critic-sobolev": (4.0, 1.0),
}


def load(seed=1):
    """Bits of the summands, `(100, 16)`, and of their sums, `(100, 8)`; float32."""
    numbers = np.random.default_rng(seed).integers(0, 2 ** (BITS - 1), (EXAMPLES, 2))
    bits = lambda n: (n[..., None] >> np.arange(BITS)[::-1]) & 1
    x = bits(numbers).reshape(EXAMPLES, 2 * BITS)
    return x.astype("float32"), bits(numbers.sum(axis=1)).astype("float32")


def exact(bits, outputs):
    """Share of the sums with all bits right."""
    right = ops.equal(ops.round(outputs), bits)
    return ops.mean(ops.cast(ops.all(right, axis=-1), "float32"))


def post_sum(bits, outputs):
    """The post's sum for its baseline, per bit: |(output - bit) * sigmoid'|."""
    return ops.mean(ops.absolute((outputs - bits) * outputs * (1.0 - outputs)), axis=-1)


def build(arm, learning_rate, synthesizer_learning_rate):
    """The network of one arm, compiled."""
    widths, biases = ((128, 64), False) if arm == "baseline" else ((64, 32), True)
    inputs = hidden = keras.Input((2 * BITS,))
    for number, width in enumerate(widths, start=1):
        module = keras.layers.Dense(width, activation="sigmoid", use_bias=biases, name=f"block{number}")
        hidden = ARMS[arm](module)(hidden)
    outputs = keras.layers.Dense(BITS, activation="sigmoid", use_bias=biases, name="sum")(hidden)
    model = keras_sg.DecoupledModel(inputs, outputs)
    optimizer = keras.optimizers.SGD(learning_rate)
    if model.interfaces:
        synthesizers = keras.optimizers.SGD(synthesizer_learning_rate)
        optimizer = keras_sg.decoupled_optimizer(optimizer, synthesizers)
    model.compile(
        optimizer=optimizer,
        loss="mse",
        metrics=["mae", "binary_accuracy", exact, post_sum],
        jit_compile=True,
        steps_per_execution=PASSES_PER_RECORD * EXAMPLES // BATCH,
    )
    return model


class Recorder(keras.callbacks.Callback):
    """Measures the network on the sums that it is trained on, every so many passes."""

    def __init__(self, x, y, results, record):
        super().__init__()
        self.x, self.y, self.results, self.record = x, y, results, record

    def on_epoch_end(self, epoch, logs=None):
        found = self.model.evaluate(self.x, self.y, batch_size=EXAMPLES, verbose=0, return_dict=True)
        outputs = EXAMPLES * BITS
        measures = {
            "passes": (epoch + 1) * PASSES_PER_RECORD,
            "mean_error": found["mae"],
            "bit_accuracy": found["binary_accuracy"],
            "exact_sums": found["exact"],
            "post_sum": outputs * (found["post_sum"] if self.record["arm"] == "baseline" else found["mae"]),
        }
        for key, value in measures.items():
            self.record.setdefault(key, []).append(value)
        self.results.write(self.record)
        if (epoch + 1) % 10 == 0:
            print(self.record["arm"], {key: round(value, 4) for key, value in measures.items()}, flush=True)


def table(records):
    """The results as a Markdown table."""
    rows = [
        f"On the {EXAMPLES} sums that the networks are trained on:\n",
        "| arm | passes | mean error | bit accuracy | exact sums | first all exact after | the post's sum |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, record in records.items():
        whole = [passes for passes, share in zip(record["passes"], record["exact_sums"]) if share == 1.0]
        rows.append(
            f"| {arm} | {record['passes'][-1]} | {record['mean_error'][-1]:.4f} "
            f"| {record['bit_accuracy'][-1]:.4f} | {record['exact_sums'][-1]:.2f} "
            f"| {whole[0] if whole else 'never'} | {record['post_sum'][-1]:.3f} |"
        )
    return "\n".join(rows)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.binary_addition",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arm", choices=[*ARMS, "all"], default="all")
    parser.add_argument(
        "--passes", type=runs.positive, default=10_000, help=f"in whole {PASSES_PER_RECORD}s, rounded up"
    )
    parser.add_argument(
        "--learning-rate", type=float, help="of the modules, for the mean squared error (default: by arm)"
    )
    parser.add_argument("--synthesizer-learning-rate", type=float, help="default: by arm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/binary_addition"))
    args = parser.parse_args(argv)

    runs.can_draw()
    results = runs.Results(args.output, MEASURES)
    x, y = load(args.seed)
    batches = prefetched(tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).repeat(PASSES_PER_RECORD))
    for arm in ARMS if args.arm == "all" else [args.arm]:
        keras.utils.set_random_seed(args.seed)
        rates = [
            default if given is None else given
            for given, default in zip((args.learning_rate, args.synthesizer_learning_rate), RATES[arm])
        ]
        record = {"arm": arm, "settings": {"seed": args.seed, "learning_rates": rates}}
        build(arm, *rates).fit(
            batches,
            epochs=-(-args.passes // PASSES_PER_RECORD),
            shuffle=False,
            verbose=0,
            callbacks=[Recorder(x, y, results, record)],
        )
    figure = plotting.curves(results.path, "mean_error")
    figure.axes[0].set(xlabel=f"{PASSES_PER_RECORD} passes", ylabel="mean |output - bit|", yscale="log")
    figure.savefig(args.output / "error.png", dpi=120)
    print("\n" + table(results.records))


if __name__ == "__main__":
    main()
