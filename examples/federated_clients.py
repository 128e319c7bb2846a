"""What `examples.federated_split` trains: the network in its halves, its clients, and what they send.

A client is its data and its weights. The Keras models that it trains with belong to a `Bench`, which all
clients of a process share: whoever is at work puts the own weights in. That is exact, because nothing else of
a client outlives a round: modules descend by plain SGD, which keeps no state, and the optimizer of a critic
begins afresh whenever the critic is refitted. The server's half has Adam, whose state stays with it.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

import keras_sg
from examples import data

CUT = "client"
ARMS = {
    "fedavg": None,
    "splitfed": dict(interface=keras_sg.SyntheticGradient),  # which predicts nothing: its target is descended
    "local": dict(interface=keras_sg.LocalLoss),
    "sage": dict(interface=keras_sg.SyntheticLoss, sobolev=True),
    "sage-server": dict(interface=keras_sg.SyntheticLoss, sobolev=True),
}


class Message(NamedTuple):
    """What a client sends up of a batch."""

    sent: keras_sg.Sent
    labels: np.ndarray


def network(shape):
    """A small convolutional network, whose layers below the cut are one layer, named `CUT`."""

    def block(filters, size, strides):
        convolution = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)
        # Of groups of channels: statistics of batches would differ from client to client.
        return [convolution, keras.layers.GroupNormalization(8), keras.layers.ReLU()]

    return keras.Sequential(
        [
            keras.Input(shape),
            keras.Sequential([*block(32, 5, 2), *block(32, 3, 2)], name=CUT),
            *block(64, 3, 1),
            *block(64, 3, 2),
            *block(128, 3, 1),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(data.CLASSES, name="logits"),
        ],
        name="network",
    )


class Bench:
    """The Keras models of an arm, for whoever is at work.

    Attributes:
        whole: the network, not divided.
        client: the model that a client trains: the network, or its lower half.
        upper: the server's half, or None.
    """

    def __init__(self, arm, shape, options):
        self.options = options
        keras.utils.set_random_seed(options.seed)
        self.whole, self.upper, self.owner = network(shape), None, None
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.whole.compile(keras.optimizers.SGD(options.learning_rate), loss, metrics=["accuracy"])
        self.client = self.whole
        if arm == "fedavg":
            return
        critic = keras_sg.synthesizers.Critic(options.critic, batch_normalization=False)
        heads = {"splitfed": {}, "local": {"head": critic}}.get(arm, {"synthesizer": critic})
        cut = keras_sg.decouple(self.whole, CUT, num_classes=data.CLASSES, **ARMS[arm], **heads)
        self.client, self.upper = keras_sg.split(cut, CUT)
        self.upper.compile(keras.optimizers.Adam(options.server_learning_rate), loss)
        self.upper.optimizer.build(self.upper.trainable_variables)
        sgd = keras.optimizers.SGD(options.learning_rate)
        if arm == "splitfed":
            (x,) = self.whole.inputs
            self.client = keras.Model(x, self.whole.get_layer(CUT)(x))
            self.client.compile(sgd, _descends)
        elif arm == "local":
            self.client.compile(sgd)  # of which the head has a copy
        else:
            refitting = keras.optimizers.Adam(options.refit_learning_rate)
            self.client.compile(keras_sg.decoupled_optimizer(sgd, refitting))
        self.client.optimizer.build(self.client.trainable_variables)
        if arm != "splitfed":
            *_, kernel, _ = self.client.cut.synthesizer.trainable_variables
            kernel.assign(np.zeros(kernel.shape))  # nothing comes from a critic that has learned nothing
        self.fresh = _values(refitting.variables) if arm.startswith("sage") else None

    def refit(self, messages, targets, epochs):
        """Have the critic learn from targets, its optimizer anew at its first step; the rest stays."""
        for variable, value in zip(self.client.optimizer.optimizers[0].variables, self.fresh, strict=True):
            variable.assign(value)
        pairs = keras_sg.Pairs(self.options.batch_size, seed=self.options.seed)
        for (sent, y), target in zip(messages, targets, strict=True):
            pairs.add(sent, y, target)
        self.client.fit(pairs, epochs=epochs, shuffle=False, verbose=0)

    def server_state(self):
        """The weights of the server's half, and the state of its optimizer."""
        return [] if self.upper is None else _values(self._server_variables())

    def restore(self, client, server):
        """Put weights of clients in, and a state of the server."""
        self.owner = None
        self.client.set_weights(client)
        for variable, value in zip(self._server_variables() if server else [], server, strict=True):
            variable.assign(value)

    def _server_variables(self):
        return [*self.upper.variables, *self.upper.optimizer.variables]


def _values(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


def _descends(gradient, h):
    """A loss whose gradient at `h` is the one given, of each example."""
    return ops.sum(ops.reshape(gradient * h, (ops.shape(h)[0], -1)), axis=-1)


class Client:
    """A client: some of the examples, and what is done with them. It runs here, or as an actor of Ray.

    Args:
        number: integer, which of the clients it is.
        x, y: its examples.
        arm: one of `ARMS`.
        options: what was asked for on the command line.
        bench: `Bench`, or None to make one.
    """

    def __init__(self, number, x, y, arm, options, bench=None):
        self.number, self.x, self.y, self.arm, self.options = number, x, y, arm, options
        self.bench = bench or Bench(arm, x.shape[1:], options)
        self.weights: Any = None

    def begin(self, weights, number):
        """Take the weights that came down, and draw the batches of a round."""
        self.weights, self.messages = weights, []
        if self.bench.owner is self:
            self.bench.owner = None
        rng = np.random.default_rng((self.options.seed, self.number, number))
        needed, count = self.options.batches * self.options.batch_size, len(self.y)
        order = np.concatenate([rng.permutation(count) for _ in range(-(-needed // count))])[:needed]
        self.rows = order.reshape(self.options.batches, -1)

    def alone(self):
        """Train on all batches of the round, waiting for nobody; returns the messages for the server."""
        self._sit_down()
        for index, rows in enumerate(self.rows):
            x, y = self.x[rows], self.y[rows]
            if self.arm == "fedavg":
                self.bench.client.train_on_batch(x, y)
                continue
            sent = self.bench.client.advance(x, y)
            if index % self.options.send_every == 0:
                self.messages.append(Message(sent, y))
        return self.messages

    def refit(self, targets):
        """Have the critic learn from the targets that came for this round's messages."""
        self._sit_down()
        self.bench.refit(self.messages, targets, self.options.refit_epochs)

    def forward(self, index):
        """SplitFed: run one batch up to the cut; returns the message, for which a target must come."""
        self._sit_down()
        rows = self.rows[index]
        return Message(keras_sg.Sent(self.bench.client.predict_on_batch(self.x[rows])), self.y[rows])

    def backward(self, index, target):
        """SplitFed: descend the gradient that came for a batch."""
        self._sit_down()
        self.bench.client.train_on_batch(self.x[self.rows[index]], target.gradient)

    def finish(self):
        """The weights that go up."""
        self._sit_down()
        return self.bench.client.get_weights()

    def _sit_down(self):
        """Put the own weights into the models, unless they are there."""
        bench = self.bench
        if bench.owner is not self:
            if bench.owner is not None:
                bench.owner.weights = bench.client.get_weights()
            bench.client.set_weights(self.weights)
            bench.owner = self


def part(labels, clients, alpha, seed):
    """Which examples each client has: of every class, shares drawn from a Dirichlet distribution.

    Raises:
        SystemExit: some client has none, in each of a hundred draws.
    """
    rng = np.random.default_rng((seed, clients))
    for _ in range(100):
        rows: list[list] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            of_class = rng.permutation(np.flatnonzero(labels == label))
            edges = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(of_class)).astype(int)
            for own, found in zip(rows, np.split(of_class, edges)):
                own.extend(found)
        if all(rows):
            return [np.sort(own) for own in rows]
    raise SystemExit(
        "In each of a hundred draws some client had no example. Raise --alpha, or have fewer clients or more "
        f"examples. Received: --alpha {alpha}, --clients {clients} and {len(labels)} examples."
    )
