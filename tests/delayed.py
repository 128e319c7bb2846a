"""Modules side by side, and updated at random, in NumPy and float64, with no autodiff and no promises.

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
                    above[k, b], below[k - 1, b], kept[k, b] = self._enters(k, h, batches[b]), target, h
                    updates.append((self._modules[k], gradients))
                b = tick - (k + 2) * travel
                if k < last and 0 <= b < len(batches) and (self._steps + b) % self._period == 0:
                    updates += self._lessons(k, kept[k, b], below[k, b], batches[b])
            for owner, gradients in updates:
                owner.update(gradients)
        self._steps += len(batches)

    def _enters(self, k, h, batch):
        """What enters the module above."""
        return h

    def _lessons(self, k, h, target, batch):
        """What learns at an interface, and the gradients of its weights."""
        return [(self._synthesizers[k], self._learn(k, h, target, batch))]

    @property
    def _taught(self):
        return self._synthesizers

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


class AtRandom(Delayed):
    """Every module takes a batch in the same step; those that rest only pass it on."""

    def train(self, batches, descending):
        """`descending(steps, modules)` says which do not; `batches` as for `epoch`."""
        for batch in batches:
            descends = descending(self._steps, len(self._modules))
            learns = self._steps % self._period == 0
            taken, kept, found = batch[0], None, []
            for k, module in enumerate(self._modules):
                h, target, gradients = self._run(k, taken, batch)
                if descends[k]:
                    found.append((module, gradients))
                    if k and learns:
                        found += self._lessons(k - 1, kept, target, batch)
                if k < len(self._modules) - 1:
                    taken, kept = self._enters(k, h, batch), h
            updated = [id(owner) for owner, _ in found]
            for owner, gradients in found:
                owner.update(gradients)
            for owner in self._modules + (self._taught if learns else []):
                if id(owner) not in updated and isinstance(owner, Adam):
                    owner.steps += 1  # the optimizer counts every step
            self._steps += 1
