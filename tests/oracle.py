"""The mathematics of synthetic gradients for MLPs, in NumPy and float64, with no autodiff.

A network of tanh modules with a linear module on top, a linear synthesizer behind every hidden
module, mean squared error (mean over the outputs, mean over the batch), plain SGD. The tests
hold every way of training the Keras models against it.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Oracle:
    """One MLP with interfaces, and its training step.

    weights: list of (kernel, bias), one a module; the last module is linear.
    synthesizers: list of (kernel, bias), one a hidden module; rows of the kernel beyond the
        module's width belong to the one-hot label. (Of an `ErrorOracle`: see there.)
    knows_weights: whether interfaces know what weight an example has in the loss.
    """

    weights: list
    synthesizers: list
    learning_rate: float
    synthesizer_learning_rate: float
    mix: float = 1.0
    loss: str = "mse"
    update_period: int = 1
    knows_weights: bool = True
    steps: int = 0

    def __post_init__(self):
        as_float64 = lambda pairs: [tuple(np.array(a, "float64") for a in pair) for pair in pairs]
        self.weights, self.synthesizers = as_float64(self.weights), as_float64(self.synthesizers)

    def step(self, x, y, labels=None, sample_weight=None, mask=None):
        """Update all weights once; return [(prediction, target)] per interface, per example.

        Examples may be sequences, `(batch, steps, features)`, whose steps run through the network one by
        one; then labels and weights are given for an example or for every step. Steps at which the mask,
        `(batch, steps)`, is False are not there: neither in the loss nor at the interfaces.
        """
        batch, shape = len(x), x.shape[:-1]
        weight = np.ones(batch) if sample_weight is None else np.asarray(sample_weight, "float64")
        weight = np.broadcast_to(weight.reshape(*weight.shape, *[1] * (len(shape) - weight.ndim)), shape)
        there = np.ones(shape) if mask is None else np.asarray(mask, "float64")
        # The loss is the mean over what is there. Per example: times the size of the batch.
        share = (weight * there * batch / there.sum()).reshape(-1, 1)
        known = (there * weight if self.knows_weights else there).reshape(-1, 1)
        counted = np.count_nonzero(known)
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if labels is not None:
            each = labels if labels.ndim == len(shape) + 1 else np.expand_dims(labels, 1)
            labels = np.broadcast_to(each, (*shape, labels.shape[-1])).reshape(len(x), -1)

        hidden = [np.asarray(x, "float64")]
        for kernel, bias in self.weights[:-1]:
            hidden.append(np.tanh(hidden[-1] @ kernel + bias))
        kernel, bias = self.weights[-1]
        output = hidden[-1] @ kernel + bias

        # Of an example that counts once, times what it counts.
        predicted = [known * self.predict(h, labels, s) for h, s in zip(hidden[1:], self.synthesizers)]

        # Gradients per example: of share * mean over outputs of (output - y)^2.
        signal = share * 2 * (output - y) / y.shape[1]
        module_steps = [self._gradients(hidden[-1], signal, batch)]
        pairs = []
        for i in reversed(range(len(self.synthesizers))):
            target = signal @ self.weights[i + 1][0].T
            pairs.insert(0, (predicted[i], target))
            received = self.mix * predicted[i] + (1 - self.mix) * target
            signal = received * (1 - hidden[i + 1] ** 2)
            module_steps.insert(0, self._gradients(hidden[i], signal, batch))

        synthesizer_steps = [
            self.regress(h, labels, s, known * self._derivative(p, t) / (counted * p.shape[1]))
            for h, s, (p, t) in zip(hidden[1:], self.synthesizers, pairs)
        ]
        self.weights = self._descend(self.weights, module_steps, self.learning_rate)
        if self.steps % self.update_period == 0:
            self.synthesizers = self._descend(
                self.synthesizers, synthesizer_steps, self.synthesizer_learning_rate
            )
        self.steps += 1
        return pairs

    def predict(self, h, labels, synthesizer):
        """What a synthesizer says of an interface and (or None) the labels."""
        kernel, bias = synthesizer
        return self._seen(h, labels) @ kernel + bias

    def regress(self, h, labels, synthesizer, signal):
        """The gradients of its weights, where `signal` is that of what it says."""
        return self._gradients(self._seen(h, labels), signal, 1)

    @staticmethod
    def _seen(h, labels):
        return h if labels is None else np.concatenate([h, labels], axis=1)

    def _derivative(self, prediction, target):
        """Elementwise derivative of the regression loss, before the averaging."""
        error = prediction - target
        return {"mse": 2 * error, "mae": np.sign(error), "huber": np.clip(error, -1, 1)}[self.loss]

    @staticmethod
    def _gradients(inputs, signal, count):
        return inputs.T @ signal / count, signal.sum(axis=0) / count

    @staticmethod
    def _descend(pairs, steps, rate):
        return [tuple(a - rate * g for a, g in zip(pair, step)) for pair, step in zip(pairs, steps)]


@dataclasses.dataclass
class ErrorOracle(Oracle):
    """As `Oracle`, with synthesizers `(p - y) B` behind a softmax, a sigmoid or nothing.

    synthesizers: list of (B, kernel, bias): `p` is made of `h kernel + bias`.
    activation: behind that, `"softmax"`, `"sigmoid"` or `"linear"`.
    """

    activation: str = "softmax"

    def predict(self, h, labels, synthesizer):
        return (self._p(h, synthesizer) - labels) @ synthesizer[0]

    def regress(self, h, labels, synthesizer, signal):
        p = self._p(h, synthesizer)
        arrives = signal @ synthesizer[0].T
        z = {
            "softmax": p * (arrives - np.sum(p * arrives, axis=1, keepdims=True)),
            "sigmoid": p * (1 - p) * arrives,
            "linear": arrives,
        }[self.activation]
        return (p - labels).T @ signal, *self._gradients(h, z, 1)

    def _p(self, h, synthesizer):
        z = h @ synthesizer[1] + synthesizer[2]
        if self.activation == "softmax":
            powers = np.exp(z - z.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        return 1 / (1 + np.exp(-z)) if self.activation == "sigmoid" else z
