"""A step of r2rt's MNIST network with synthetic gradients, against the same written by others.

    python -m benchmarks.step

784 - 256 - 256 - 10, two synthesizers of 1024 - 1024, Adam 3e-5, batch 256. The models are those of
`examples.mnist`, in bursts of `DecoupledModel.fit` over prepared batches; the time of a step is that of
a burst, with what one call of `fit` costs besides, divided by its steps.

    sg                       an MLP predicts the gradient
    sg, not compiled         the same without XLA, as Keras does by itself on a CPU
    sg, bfloat16             sg under mixed_bfloat16, where the processor has a unit for it
    sg-linear-conditional    a linear synthesizer that sees the label
    backprop                 no interfaces
    r2rt graph               sg as a graph in the style of TensorFlow 1, with feed_dict
    PyTorch                  sg with a custom autograd.Function and fused Adam
    floor, TensorFlow        the matrix products of sg alone, and fused Adam; TensorFlow's kernels
    floor, XLA               the same, compiled

The arms take turns, each with all cores, and the machine should have nothing else to do: PyTorch's
threads wait for one another by spinning, and lose far more than TensorFlow's to other work. Prints
medians and spreads in milliseconds, ratios last; writes them to --output.
"""

import importlib

from benchmarks import arms, machine, timing
from benchmarks.peers.floor import Floor
from benchmarks.peers.r2rt_graph import R2rtGraph
from examples import mnist, runs

PAIRS = [
    ("sg", "backprop"),
    ("sg-linear-conditional", "backprop"),
    ("sg", "r2rt graph"),
    ("sg, not compiled", "r2rt graph"),
    ("sg, bfloat16", "r2rt graph"),
    ("sg", "PyTorch"),
    ("sg", "floor, TensorFlow"),
    ("sg", "floor, XLA"),
]


def candidates():
    """The models, the peers, and why others are missing: three dictionaries by the names of arms."""
    models = {
        "sg": mnist.build("sg"),
        "sg, not compiled": arms.not_compiled("sg"),
        "sg-linear-conditional": arms.cut(synthesizer="linear", num_classes=10),
        "backprop": mnist.build("backprop"),
    }
    peers = {
        "r2rt graph": R2rtGraph(),
        "floor, TensorFlow": Floor(),
        "floor, XLA": Floor(jit_compile=True),
    }
    not_run = {}
    if machine.has_bfloat16_unit():
        models["sg, bfloat16"] = arms.in_bfloat16(lambda: mnist.build("sg"))
    else:
        not_run["sg, bfloat16"] = "this processor has no matrix unit for bfloat16 (no amx_bf16)"
    try:
        peers["PyTorch"] = importlib.import_module("benchmarks.peers.pytorch").PyTorch()
    except ImportError as error:
        not_run["PyTorch"] = f"it is not installed ({error}): pip install torch"
    return models, peers, not_run


def main(argv=None):
    parser = timing.parser("step", __doc__)
    timing.add_options(parser, "step", steps=78, rounds=6)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    args = parser.parse_args(argv)

    models, peers, not_run = candidates()
    data = arms.batches(args.batch_size)
    bursts = {name: arms.fitting(model, data, args.steps) for name, model in models.items()}
    bursts |= {name: arms.stepping(peer, data, args.steps) for name, peer in peers.items()}
    times = timing.alternate(bursts, args.rounds, args.steps)
    timing.write(args.output, timing.report(times, PAIRS, not_run))


if __name__ == "__main__":
    main()
