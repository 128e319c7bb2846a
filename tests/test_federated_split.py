"""Training across a link: each arm runs, what crosses is counted to the byte, and a stopped run goes on."""

import importlib
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_sg

pytestmark = pytest.mark.usefixtures("from_the_root")
ROOT = pathlib.Path(__file__).parent.parent
ARMS = ("fedavg", "splitfed", "local", "sage", "sage-server")
SMALL = ["--clients", "2", "--batches", "3", "--batch-size", "4", "--send-every", "2", "--refit-every", "2"]
SMALL += ["--refit-epochs", "1", "--critic", "4", "--validation", "10", "--alpha", "2", "--seed", "3"]

# By hand, for images of 8 x 8 x 1: below the cut, a head of 4 channels, above the cut.
H = 2 * 2 * 32
BELOW = 32 * (25 + 2) + 32 * (9 * 32 + 2)
HEAD = 4 * (9 * 32 + 1) + 10 * (2 * 2 * 4 + 1)
ABOVE = 64 * (9 * 32 + 2) + 64 * (9 * 64 + 2) + 128 * (9 * 64 + 2) + 10 * (128 + 1)
EXAMPLES = {"fedavg": 0, "splitfed": 2 * 3 * 4}  # that go up in a round
SENT = {"fedavg": BELOW + ABOVE, "splitfed": BELOW}


@pytest.fixture
def example():
    return importlib.import_module("examples.federated_split")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Scikit-learn's, 200 to train on and 50 to test on."""
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    x, y = (found.images / 16).astype("float32")[:250], found.target[:250]
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    return str(path)


def records(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """The folder of a run of all arms that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        example = importlib.import_module("examples.federated_split")
        example.main([*SMALL, "--all", "--rounds", "3", "--data", digits, "--output", str(folder)])
    return folder


def test_every_arm_is_counted_to_the_byte(whole):
    found = records(whole)
    assert tuple(found) == ARMS
    for arm, record in found.items():
        up, weights = EXAMPLES.get(arm, 2 * 2 * 4), 4 * 2 * SENT.get(arm, BELOW + HEAD)
        # sage is sent gradients and losses in rounds 0 and 2, splitfed gradients in all.
        targets = {"splitfed": 3 * up * H, "sage": 2 * up * (H + 1)}.get(arm, 0)
        assert record["counted"][-1] == {
            "activations": 4 * 3 * up * H,
            "labels": 4 * 3 * up,
            "targets": 4 * targets,
            "weights up": 3 * weights,
            "weights down": 3 * weights,
        }
        assert record["bytes"] == [sum(counted.values()) for counted in record["counted"]]
        assert len(record["validation_accuracy"]) == 3 and 0 <= record["test_accuracy"] <= 1


def test_table_and_figure(example, whole):
    said = example.table(records(whole))
    assert "| sage | 3 |" in said and "(splitfed, its best less 2 points)" in said
    figure = whole / "accuracy.png"
    figure.unlink()
    example.main(["--plot", str(whole)])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_stopped_run_goes_on(example, digits, whole, tmp_path, monkeypatch):
    """Killed while it records its second round, it ends with the numbers of a whole one."""
    command = [*SMALL, "--arm", "sage", "--rounds", "3", "--data", digits, "--output", str(tmp_path)]
    write = example.runs.Results.write

    def killed(self, record):
        if len(record["bytes"]) == 2:  # which is in the backup, and not yet in the results
            raise KeyboardInterrupt
        write(self, record)

    monkeypatch.setattr(example.runs.Results, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        example.main(command)
    monkeypatch.setattr(example.runs.Results, "write", write)
    assert len(records(tmp_path)["sage"]["bytes"]) == 1
    example.main(command)

    one, other = (records(folder)["sage"] for folder in (whole, tmp_path))
    for series in ("bytes", "counted", "validation_accuracy", "test_accuracy"):
        assert one[series] == other[series]
    states = [np.load(folder / "backup/sage.npz") for folder in (whole, tmp_path)]
    for key in set(states[0]) - {"record"}:
        np.testing.assert_allclose(states[0][key], states[1][key], rtol=1e-4, atol=1e-5)


def test_the_budget_ends_a_run_that_can_go_on(example, digits, tmp_path, capsys):
    command = [*SMALL, "--arm", "fedavg", "--data", digits, "--output", str(tmp_path), "--rounds"]
    example.main([*command, "9", "--budget-minutes", "1e-6"])
    done = len(records(tmp_path)["fedavg"]["bytes"])
    assert done < 9 and "the budget is used up" in capsys.readouterr().out
    assert "test_accuracy" not in records(tmp_path)["fedavg"]
    example.main([*command, str(done + 1)])
    record = records(tmp_path)["fedavg"]
    assert len(record["bytes"]) == done + 1 and "test_accuracy" in record


def options(example, *more):
    return example.parse([*SMALL, *more])


def random_examples(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 8, 8, 1), "float32"), rng.integers(0, 10, count).astype("int32")


def test_splitfed_descends_the_true_gradient(example):
    """With one client and plain SGD above as well, it is what the undivided network does."""
    args = options(example, "--clients", "1", "--learning-rate", "0.1", "--server-learning-rate", "0.1")
    x, y = random_examples(40)
    training = example.Training("splitfed", args, [(x, y)])
    training.bench.upper.compile(keras.optimizers.SGD(0.1), training.bench.whole.loss)
    training.bench.upper.optimizer.build(training.bench.upper.trainable_variables)
    undivided = example.Bench("fedavg", x.shape[1:], args).whole
    undivided.set_weights(training.bench.whole.get_weights())
    training.round(0)

    rows = training.clients.clients[0].rows
    for batch in rows:
        undivided.train_on_batch(x[batch], y[batch])
    for found, expected in zip(training.bench.whole.get_weights(), undivided.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_clients_that_share_the_models_keep_their_weights(example):
    """Taken in turn or one after the other, and whatever the others do, a client's weights are its own."""
    args = options(example, "--learning-rate", "0.1")
    bench = example.Bench("splitfed", (8, 8, 1), args)
    start, targets = bench.client.get_weights(), []
    for _ in range(args.batches):
        gradient = np.random.default_rng(len(targets)).normal(size=(args.batch_size, 2, 2, 32))
        targets.append(keras_sg.Target(gradient.astype("float32"), None))

    def run(order):
        clients = [example.Client(i, *random_examples(20, i), "splitfed", args, bench) for i in range(2)]
        for client in clients:
            client.begin(start, 0)
        for i, index in order:
            clients[i].forward(index)
            clients[i].backward(index, targets[index])
        return [client.finish() for client in clients]

    in_turn = run([(i, index) for index in range(args.batches) for i in range(2)])
    after_each_other = run([(i, index) for i in range(2) for index in range(args.batches)])
    for one, other in zip(in_turn, after_each_other):
        for found, expected in zip(one, other):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(in_turn[0][0], in_turn[1][0])


def test_a_refit_changes_the_critic_alone(example):
    args = options(example, "--batches", "4")
    client = example.Client(0, *random_examples(40), "sage", args)
    client.begin(client.bench.client.get_weights(), 0)
    messages = client.alone()
    assert [len(message.labels) for message in messages] == [4, 4]  # batches 0 and 2
    before = client.finish()
    client.refit([client.bench.upper.teach(*message) for message in messages])
    names = [variable.path for variable in client.bench.client.variables]
    moved = {name for name, old, new in zip(names, before, client.finish()) if not np.array_equal(old, new)}
    assert moved and moved == {name for name in names if "keras_sg_synthesizer" in name}
    assert client.bench.client.optimizer.optimizers[0].iterations == 2
    client.refit([client.bench.upper.teach(*message) for message in messages])
    assert client.bench.client.optimizer.optimizers[0].iterations == 2  # it began anew


def test_the_parts_of_the_clients(example):
    labels = np.repeat(np.arange(10), 100)
    even, uneven = (example.part(labels, 5, alpha, seed=0) for alpha in (1e4, 0.3))
    for parts in (even, uneven):
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    counts = lambda parts: np.array([np.bincount(labels[own], minlength=10) for own in parts])
    assert counts(even).min() >= 18 and counts(even).max() <= 22
    assert counts(uneven).max() > 60 and counts(uneven).min() == 0


def test_a_lucky_round_does_not_count():
    report = importlib.import_module("examples.federated_report")
    record = {"validation_accuracy": [0.1, 0.7, 0.1, 0.5, 0.6, 0.7], "bytes": [1, 2, 3, 4, 5, 6]}
    assert report.bytes_to(record, 0.55) == (6, 6)
    assert report.bytes_to(record, 0.61) is None


@pytest.mark.parametrize(
    "given, said",
    [
        (["--arm", "gossip"], "invalid choice: 'gossip'"),
        (["--clients", "0"], "expected an integer of at least 1, received 0"),
        (["--alpha", "0"], "expected a number above 0, received 0"),
        (["--alpha", "nan"], "expected a number above 0, received nan"),
        (["--learning-rate", "-1"], "expected a number above 0, received -1"),
        (["--arm", "sage", "--all"], "not allowed with argument"),
    ],
)
def test_bad_arguments(example, given, said, capsys):
    with pytest.raises(SystemExit):
        example.main(given)
    assert said in capsys.readouterr().err


def test_bad_data(example, digits, tmp_path):
    command = ["--output", str(tmp_path), "--data"]
    with pytest.raises(SystemExit, match=r"--data must be an \.npz file"):
        example.main([*command, str(tmp_path / "none.npz")])
    with pytest.raises(SystemExit, match=r"--validation must leave examples.*200.*Received: 200"):
        example.main([*command, digits, "--validation", "200"])
    with pytest.raises(SystemExit, match=r"some client had no example.*--alpha 0\.01, --clients 150"):
        example.main([*command, digits, "--validation", "10", "--alpha", "0.01", "--clients", "150"])


def test_other_settings_do_not_go_on(example, digits, tmp_path):
    command = [*SMALL, "--arm", "fedavg", "--data", digits, "--rounds", "1", "--output", str(tmp_path)]
    example.main(command)
    with pytest.raises(SystemExit, match=r"other settings: clients=2 there, 3 now.*--overwrite"):
        example.main([*command, "--clients", "3"])
    (tmp_path / "backup/fedavg.npz").write_bytes(b"cut short")
    with pytest.raises(SystemExit, match=r"can go on from\. Give --overwrite to begin anew"):
        example.main([*command, "--rounds", "2"])
    example.main([*command, "--rounds", "2", "--overwrite"])
    assert len(records(tmp_path)["fedavg"]["bytes"]) == 2


def test_clients_as_actors(example, digits, whole, tmp_path):
    """They are the same clients: bytes and accuracies are those of one process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install keras_sg[ray]")
    command = [*SMALL, "--arm", "splitfed", "--rounds", "3", "--data", digits, "--output", str(tmp_path)]
    try:
        example.main([*command, "--ray"])
    finally:
        ray.shutdown()
    states = [np.load(folder / "backup/splitfed.npz") for folder in (tmp_path, whole)]
    for key in set(states[0]) - {"record"}:
        np.testing.assert_allclose(states[0][key], states[1][key], rtol=1e-4, atol=1e-5)
    assert records(tmp_path)["splitfed"]["counted"] == records(whole)["splitfed"]["counted"]
