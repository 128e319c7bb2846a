"""Sparse updates on MNIST: the synthesizers learn in every tenth step only.

    python -m examples.sparse_updates
    python -m examples.sparse_updates --update-period 1

784 - 100 - 10 with ReLU and plain SGD, batch 10, 1,000 iterations: the setting of the gist "MNIST
classifier using synthetic gradients". An interface behind the hidden layer and one behind the
logits cut off both weight matrices, so that every weight is updated with a synthetic gradient. (The
gist predicts the gradients of the weights; here, as in the paper, those of the layers' outputs.)

    backprop         no interfaces
    sg-conditional   a linear synthesizer that sees the label predicts the gradient
    critic-sobolev   a linear classifier predicts the label, and with it the loss and its gradient

Writes into --output:

    results.json     losses of every step, accuracies every 500, the settings
    loss.png         the smoothed training loss of all arms
    gradients.png    the true and the synthetic gradient of the second weight matrix (last arm)
    digits.png       six test digits with the labels that the last arm predicts
"""

import argparse
import pathlib

import keras
import numpy as np

import keras_sg
from examples import data, runs
from examples.needs import needs
from keras_sg import plotting

with needs("tensorflow,examples"):
    from matplotlib.figure import Figure


def conditional(module, period):
    return keras_sg.SyntheticGradient(module, "linear", num_classes=10, update_period=period)


def sobolev(module, period):
    critic = keras_sg.synthesizers.Critic(widths=())
    return keras_sg.SyntheticLoss(
        module, critic, num_classes=10, loss="mae", sobolev=True, update_period=period
    )


# The interfaces of each arm, and the learning rate (Adam) of its synthesizers.
ARMS = {
    "backprop": (lambda module, period: module, None),
    "sg-conditional": (conditional, 1e-3),
    "critic-sobolev": (sobolev, 3e-2),
}


def build(arm, learning_rate=2e-2, update_period=10):
    """The network of one arm, compiled."""
    cut, synthesizer_rate = ARMS[arm]
    inputs = keras.Input((784,))
    hidden = cut(keras.layers.Dense(100, activation="relu", name="hidden"), update_period)(inputs)
    logits = cut(keras.layers.Dense(10, name="logits"), update_period)(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Softmax(name="probabilities")(logits))
    optimizer = keras.optimizers.SGD(learning_rate)
    if synthesizer_rate is not None:
        optimizer = keras_sg.decoupled_optimizer(optimizer, keras.optimizers.Adam(synthesizer_rate))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def accuracy(model, test):
    return float(model.evaluate(*test, batch_size=1000, verbose=0, return_dict=True)["accuracy"])


def train(model, batches, test, iterations, arm, settings):
    """Train step by step; returns the record that goes into results.json."""
    record = {"arm": arm, "settings": settings, "loss": [], "sg_loss": [], "test_accuracy": {}}
    for step, (x, y) in enumerate(batches.take(iterations), start=1):
        model.reset_metrics()  # Keras would report means since the last reset
        logs = model.train_on_batch(x, y, return_dict=True)
        for key in {"loss", "sg_loss"} & logs.keys():
            record[key].append(float(logs[key]))
        if step % 100 == 0 or step == iterations:
            line = f"{arm} {step}: smoothed loss {smooth(record['loss'])[-1]:.3f}"
            if record["sg_loss"]:
                line += f", synthesizer loss {smooth(record['sg_loss'])[-1]:.4f}"
            if step % 500 == 0 or step == iterations:
                record["test_accuracy"][step] = accuracy(model, test)
                line += f", test accuracy {record['test_accuracy'][step]:.4f}"
            print(line, flush=True)
    return record


def smooth(values, factor=0.95):
    """The exponential moving average of a series, begun at its first value."""
    smoothed = [values[0]]
    for value in values[1:]:
        smoothed.append(factor * smoothed[-1] + (1 - factor) * value)
    return smoothed


def weight_gradients(model, x, y):
    """Synthetic and true gradient of the second weight matrix, `(100, 10)`, on one batch.

    That of the weights follows from that of the layer's output: inputs, transposed, times it.
    """
    hidden = keras.ops.convert_to_numpy(model.get_layer("hidden")(x))
    pair = model.interface_gradients(x, y)["logits"]
    return [hidden.T @ gradient / len(hidden) for gradient in pair]


def draw(output, records, gradients, digits, predicted):
    """loss.png, gradients.png and digits.png."""
    smoothed = {arm: smooth(record["loss"]) for arm, record in records.items()}
    figure = plotting.curves(smoothed, list(smoothed))
    figure.axes[0].set(xlabel="iteration", ylabel="training loss, smoothed")
    figure.savefig(output / "loss.png", dpi=120)

    figure = plotting.gradients(*gradients, title="gradient of the second weight matrix")
    figure.axes[0].set(ylabel="hidden unit", xlabel="class")
    figure.savefig(output / "gradients.png", dpi=120)

    figure = Figure(figsize=(7.2, 1.7), layout="constrained")
    for axes, digit, label in zip(figure.subplots(1, len(digits)), digits, predicted):
        axes.imshow(digit.reshape(28, 28), cmap="gray_r")
        axes.set(title=f"predicted: {label}", xticks=[], yticks=[])
    figure.savefig(output / "digits.png", dpi=120)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.sparse_updates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--iterations", type=runs.positive, default=1000)
    parser.add_argument("--batch-size", type=runs.positive, default=10)
    parser.add_argument("--learning-rate", type=float, default=2e-2)
    parser.add_argument("--update-period", type=runs.positive, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/sparse_updates"))
    args = parser.parse_args(argv)

    results = runs.Results(args.output, series=("loss", "sg_loss", "test_accuracy"))
    splits = data.fetch("mnist", args.data_dir)
    train_batches, test_batches = data.batches(splits, (784,), args.batch_size, args.seed)
    test = [np.concatenate(parts) for parts in zip(*test_batches)]
    settings = {key: value for key, value in vars(args).items() if key not in ("data_dir", "output")}
    for arm in ARMS:
        keras.utils.set_random_seed(args.seed)
        model = build(arm, args.learning_rate, args.update_period)
        results.write(train(model, train_batches, test, args.iterations, arm, settings))

    records = results.records
    digits = test[0][:6]
    predicted = np.argmax(model.predict(digits, verbose=0), axis=1)
    draw(args.output, records, weight_gradients(model, test[0][:1000], test[1][:1000]), digits, predicted)
    print("\n| arm | test accuracy |\n|---|---|")
    for arm, record in records.items():
        print(f"| {arm} | {list(record['test_accuracy'].values())[-1]:.4f} |")
    print(f"figures: {args.output / 'loss.png'}, gradients.png, digits.png")


if __name__ == "__main__":
    main()
