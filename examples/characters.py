"""A character model of Tiny Shakespeare: bits per character, over data and over seconds.

    KERAS_BACKEND=jax python -m examples.characters --text tinyshakespeare.txt
    KERAS_BACKEND=jax python -m examples.characters --text tinyshakespeare.txt --arm truncated --steps 20
    KERAS_BACKEND=jax python -m examples.characters --text tinyshakespeare.txt --generate 500

The text (1.1 MB; the file "input.txt" of github.com/karpathy/char-rnn, in data/tinyshakespeare) is read in
--batch-size streams, in windows of --steps characters; an epoch is one pass. The last tenth of it is not
trained on: bits per character there, in pieces of 500, are measured after every pass.

    truncated      truncated backpropagation: the state is handed on, nothing comes back
    sg             what comes after a window is predicted by a linear synthesizer that sees all states
    sg-auxiliary   by one hidden layer, from which a second read-out predicts what will be said a window later
    no-time        no gradient through time at all: windows of one step, and RMSprop

All arms of a seed begin with the same weights and read the same text. Writes results.json and bits.png into
--output, a folder a seed, and each trained network into NAME.keras; a run that was stopped goes on after its
last pass. `--generate` writes text with the network of the first arm and seed.
"""

import argparse
import math
import pathlib
import time

import keras
import numpy as np

import keras_sg
from examples import runs
from examples.needs import needs

SERIES = ("train_bits", "test_bits", "updates", "epoch_seconds")
PIECE = 500
ARMS = {
    "truncated": dict(mix=0.0),
    "sg": dict(mix=0.3),
    "sg-auxiliary": dict(
        mix=0.3, auxiliary=True, synthesizer=keras_sg.synthesizers.MLP((128,), batch_normalization=False)
    ),
    "no-time": dict(mix=0.0),
}


def load(path):
    """The characters that there are, and the text as their numbers: what is trained on, and the rest."""
    try:
        text = path.read_text()
    except OSError as error:
        raise SystemExit(
            f"There is no text to read at {path} ({type(error).__name__}). Give --text a file: any long one, "
            "or data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn."
        ) from error
    characters = sorted(set(text))
    tokens = np.searchsorted(characters, list(text)).astype("int32")
    begin = len(tokens) * 9 // 10
    return characters, tokens[:begin], tokens[begin:]


def build(arm, characters, units, batch_size, learning_rate):
    """The network of one arm, compiled."""
    tokens, ends = keras.Input((None,), dtype="int32"), keras.Input(())
    x = keras.layers.Embedding(characters, 64, name="embedding")(tokens)
    lstm = keras.layers.LSTM(units, return_sequences=True, name="lstm")
    h = keras_sg.RecurrentSyntheticGradient(lstm, batch_size=batch_size, **ARMS[arm])(x, ends=ends)
    model = keras_sg.DecoupledModel([tokens, ends], keras.layers.Dense(characters, name="logits")(h))
    optimizer = keras.optimizers.RMSprop if arm == "no-time" else keras.optimizers.Adam
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(learning_rate), loss, steps_per_execution=runs.at_once(100))
    return model


class Recorder(keras.callbacks.Callback):
    """Writes an arm's record after every pass. Seconds are of training, without evaluation."""

    def __init__(self, results, record, updates):
        super().__init__()
        self.results, self.record, self.updates = results, record, updates

    def on_epoch_begin(self, epoch, logs=None):
        # A run that resumes repeats the pass that it was stopped in.
        for series in SERIES:
            del self.record[series][epoch:]
        self._began, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = self._trained or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.record["train_bits"].append(logs["loss"] / math.log(2))
        self.record["test_bits"].append(logs["val_loss"] / math.log(2))
        self.record["updates"].append((epoch + 1) * self.updates)
        self.record["epoch_seconds"].append((self._trained or time.perf_counter()) - self._began)
        self.record["seconds"] = sum(self.record["epoch_seconds"])
        self.results.write(self.record)
        print(f"{self.record['arm']}, pass {epoch + 1}: {self.record['test_bits'][-1]:.3f} bits", flush=True)


class Backup(runs.Backup):
    """Kept at the end of a run, which may go on with more passes."""

    def __init__(self, folder, batches):
        super().__init__(folder, batches)
        self.delete_checkpoint = False


def train(arm, steps, seed, args, characters, text, rest):
    """Train one arm on one seed, recording it; return the file of the network."""
    folder = args.output / f"seed{seed}"
    results = runs.Results(folder, SERIES)
    name = f"{arm}, T={steps}, {args.units} units"
    path = folder / f"{name.replace(', ', '-')}.keras"
    settings = {key: getattr(args, key) for key in ("units", "batch_size", "learning_rate")}
    settings |= {"seed": seed, "steps": steps, "characters": len(text)}
    record = results.begin(name, settings, resume=True)
    if len(record["test_bits"]) >= args.passes and path.exists():
        return path
    keras.utils.set_random_seed(seed)
    model = build(arm, len(characters), args.units, args.batch_size, args.learning_rate)
    windows = keras_sg.Windows.from_text(text, steps, args.batch_size)
    pieces = (len(rest) - 1) // PIECE
    x, y = (rest[i : i + pieces * PIECE].reshape(pieces, PIECE) for i in (0, 1))
    backup = Backup(folder / "backup" / path.stem, windows)
    model.fit(
        windows,
        validation_data=([x, np.zeros(pieces)], y),
        validation_batch_size=pieces,
        epochs=args.passes,
        shuffle=False,
        verbose=0,
        callbacks=[backup, Recorder(results, record, len(windows))],
    )
    model.save(path)
    return path


def generate(path, characters, count, rng=None):
    """Text from a trained network, so many characters of it, each drawn after those before it."""
    plain = keras_sg.strip(keras.models.load_model(path, compile=False))
    embedding, lstm, logits = (plain.get_layer(name) for name in ("embedding", "lstm", "logits"))
    # The same layer, that takes its state and hands it back.
    step = keras.layers.LSTM.from_config({**lstm.get_config(), "return_state": True})
    tokens, *states = keras.Input((1,)), keras.Input((lstm.units,)), keras.Input((lstm.units,))
    h, *left = step(embedding(tokens), initial_state=states)
    model = keras.Model([tokens, *states], [logits(h), *left])
    step.set_weights(lstm.get_weights())
    rng, states = rng or np.random.default_rng(0), [np.zeros((1, lstm.units), "float32")] * 2
    written = [characters.index("\n")]
    for _ in range(count):
        said, *states = model.predict_on_batch([np.array([[written[-1]]], "float32"), *states])
        likely = np.exp(np.asarray(said, "float64")[0, -1])
        written.append(rng.choice(len(characters), p=likely / likely.sum()))
    return "".join(characters[token] for token in written[1:])


def collect(output):
    """By the name of an arm, a dictionary from seeds to records."""
    found = {}
    for folder in sorted(output.glob("seed*"), key=lambda folder: int(folder.name[4:])):
        for name, record in runs.Results(folder, SERIES).records.items():
            found.setdefault(name, {})[int(folder.name[4:])] = record
    return found


def table(found):
    """The results as a Markdown table."""
    rows = [
        "| arm | seeds | characters | updates | test bits per character | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, records in found.items():
        first = next(iter(records.values()))
        passes, read = len(first["test_bits"]), first["settings"]["characters"]
        bits = ", ".join(f"{record['test_bits'][-1]:.3f}" for record in records.values())
        seconds = ", ".join(f"{record['seconds']:.0f}" for record in records.values())
        rows.append(
            f"| {name} | {', '.join(map(str, records))} | {passes * read / 1e6:.1f} M "
            f"| {first['updates'][-1]} | {bits} | {seconds} |"
        )
    return "\n".join(rows)


def plot(found, path):
    """Draw test bits per character over characters read, over updates and over seconds."""
    with needs("examples"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for number, (name, records) in enumerate(found.items()):
        for i, record in enumerate(records.values()):
            passes = np.arange(1, len(record["test_bits"]) + 1)
            across = (
                passes * record["settings"]["characters"] / 1e6,
                np.array(record["updates"]) / 1e3,
                np.cumsum(record["epoch_seconds"]),
            )
            for axes, x in zip(panels, across):
                label = name if i == 0 else None
                axes.plot(x, record["test_bits"], color=f"C{number}", marker=".", linewidth=1, label=label)
    for axes, label in zip(panels, ("million characters read", "thousand updates", "seconds of training")):
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test bits per character")
    panels[-1].legend(fontsize="small")
    figure.savefig(path, dpi=100)
    print(f"figure: {path}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.characters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", type=pathlib.Path, required=True, help="a file")
    parser.add_argument("--arm", choices=ARMS, nargs="+", default=["truncated", "sg"])
    parser.add_argument("--steps", type=runs.positive, default=5, help="length of a window")
    parser.add_argument("--units", type=runs.positive, default=128)
    parser.add_argument("--passes", type=runs.positive, default=4)
    parser.add_argument("--batch-size", type=runs.positive, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=runs.whole, nargs="+", default=[1])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/characters"))
    parser.add_argument("--generate", type=runs.whole, default=0, help="so many characters")
    args = parser.parse_args(argv)

    runs.can_draw()
    characters, text, rest = load(args.text)
    paths = [
        train(arm, 1 if arm == "no-time" else args.steps, seed, args, characters, text, rest)
        for seed in args.seed
        for arm in args.arm
    ]
    found = collect(args.output)
    plot(found, args.output / "bits.png")
    print("\n" + table(found))
    if args.generate:
        print("\n" + generate(paths[0], characters, args.generate))


if __name__ == "__main__":
    main()
