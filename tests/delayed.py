"""Modules side by side, in NumPy and float64: targets that come late, with no autodiff and no promises.

Who has what is a dictionary of what each module wrote for which batch, and in which tick. Module `k` runs
batch `b` in tick `b + k T`, and its synthesizer learns from the target of batch `b` in tick `b + (k + 2) T`;
both from the weights before the tick. What has nothing to do in a tick rests: no update, no step counted.

The network is that of `oracle`: tanh modules, a linear one on top, linear synthesizers, mean squared error.
"""

import numpy as np


class Descent:
    """Plain gradient descent of a list of arrays."""

    def __init__(self, arrays, rate):
        self.arrays, self.rate = [np.array(a, "float64") for a in arrays], rate

    def update(self, gradients):
        self.arrays = [a - self.rate * g for a, g in zip(self.arrays, gradients)]


class Adam(Descent):
    """Adam as Keras has it, with a count of steps of its own."""

    def __init__(self, arrays, rate):
        super().__init__(arrays, rate)
        self.steps = 0
        self.moments = [(np.zeros_like(a), np.zeros_like(a)) for a in self.arrays]

    def update(self, gradients, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
        self.steps += 1
        rate = self.rate * np.sqrt(1 - beta_2**self.steps) / (1 - beta_1**self.steps)
        self.moments = [
            (m + (g - m) * (1 - beta_1), v + (g**2 - v) * (1 - beta_2))
            for (m, v), g in zip(self.moments, gradients)
        ]
        self.arrays = [a - rate * m / (np.sqrt(v) + epsilon) for a, (m, v) in zip(self.arrays, self.moments)]


class Delayed:
    """One MLP whose modules work side by side.

    Args:
        weights, synthesizers: as for `oracle.Oracle`.
        descent: `Descent` or `Adam`, and the two learning rates.
        slack: how many ticks more than one a message travels.
        update_period: in which steps synthesizers learn.
    """

    def __init__(self, weights, synthesizers, descent, rate, synthesizer_rate, slack=0, update_period=1):
        self._modules = [descent(pair, rate) for pair in weights]
        self._synthesizers = [descent(pair, synthesizer_rate) for pair in synthesizers]
        self._travel, self._period = 1 + slack, update_period
        self._steps = 0

    @property
    def weights(self):
        return [tuple(module.arrays) for module in self._modules]

    @property
    def synthesizers(self):
        return [tuple(synthesizer.arrays) for synthesizer in self._synthesizers]

    def epoch(self, batches):
        """Fill, and drain. `batches` is a list of `(x, y, labels or None, weights)`."""
        last, travel = len(self._modules) - 1, self._travel
        above, below, kept = {}, {}, {}  # by module and batch
        for tick in range(len(batches) + last * travel + travel):
            updates = []
            for k in range(last + 1):
                b = tick - k * travel
                if 0 <= b < len(batches):
                    taken = batches[b][0] if k == 0 else above[k - 1, b]
                    h, target, gradients = self._run(k, taken, batches[b])
                    above[k, b], below[k - 1, b], kept[k, b] = h, target, h
                    updates.append((self._modules[k], gradients))
                b = tick - (k + 2) * travel
                if k < last and 0 <= b < len(batches) and (self._steps + b) % self._period == 0:
                    gradients = self._learn(k, kept[k, b], below[k, b], batches[b])
                    updates.append((self._synthesizers[k], gradients))
            for owner, gradients in updates:
                owner.update(gradients)
        self._steps += len(batches)

    def _seen(self, h, batch):
        return h if batch[2] is None else np.concatenate([h, batch[2]], axis=1)

    def _run(self, k, x, batch):
        """What a module passes up, the target below it, and the gradients of its weights."""
        kernel, bias = self._modules[k].arrays
        x, y, _, weight = np.asarray(x, "float64"), *batch[1:]
        weight = weight.reshape(-1, 1)
        h = x @ kernel + bias
        if k == len(self._modules) - 1:
            signal = weight * 2 * (h - y) / y.shape[1]
        else:
            h = np.tanh(h)
            synthesizer, offset = self._synthesizers[k].arrays
            signal = weight * (self._seen(h, batch) @ synthesizer + offset) * (1 - h**2)
        return h, signal @ kernel.T, [x.T @ signal / len(x), signal.sum(axis=0) / len(x)]

    def _learn(self, k, h, target, batch):
        """The gradients of a synthesizer's weights."""
        kernel, bias = self._synthesizers[k].arrays
        weight, seen = batch[3].reshape(-1, 1), self._seen(h, batch)
        error = weight * 2 * (weight * (seen @ kernel + bias) - target)
        error /= np.count_nonzero(weight) * h.shape[1]
        return [seen.T @ error, error.sum(axis=0)]
