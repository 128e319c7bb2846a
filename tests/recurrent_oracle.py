"""Recurrent windows with synthetic gradients in NumPy and float64, with no autodiff.

A tanh cell, `h = tanh(x K + h' U + b)`, with a linear layer on every step's state, mean squared error, plain
SGD. Going backward, the leaving state receives what a linear synthesizer says of it, and the synthesizer at
the entering state learns what arrives there. The derivatives are written out by hand.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class RecurrentOracle:
    """A recurrent network, the state that it carries from window to window, and its training step.

    cell: (kernel, recurrent kernel, bias). read_out: (kernel, bias). synthesizer: (kernel, bias) of
        as many columns as the state has, or (auxiliary) of twice as many: behind those that say the gradient
        at a state are those that say what will be said a window later.
    says: in place of the linear synthesizer, a function from states to gradients; it does not learn.
    """

    cell: list
    read_out: list
    synthesizer: list
    learning_rate: float
    synthesizer_learning_rate: float
    mix: float = 0.3
    auxiliary: bool = False
    loss: str = "mse"
    says: object = None

    def __post_init__(self):
        as_float64 = lambda arrays: [np.array(a, "float64") for a in arrays]
        self.cell, self.read_out = as_float64(self.cell), as_float64(self.read_out)
        self.synthesizer = as_float64(self.synthesizer)
        self.units = len(self.cell[1])
        self.state, self.fresh = None, None

    def _said(self, state):
        if self.says is not None:
            return self.says(state)
        kernel, bias = self.synthesizer
        return state @ kernel + bias

    def _derivative(self, prediction, target):
        error = prediction - target
        return {"mse": 2 * error, "mae": np.sign(error), "huber": np.clip(error, -1, 1)}[self.loss]

    def gradients(self, x, y, ends, weight=None, mask=None):
        """What one window teaches; moves the state on, and no weight.

        Args:
            x: `(batch, steps, features)`. y: `(batch, steps, outputs)`. ends: `(batch,)`, of 0 and 1.
            weight: `(batch, steps)` or `(batch,)`. mask: `(batch, steps)`, False where there is no step.

        Returns:
            Dictionary: lists of gradients `cell`, `read_out`, `synthesizer`; `prediction` and `target` at
            the entering state, per example, of the rows that are not fresh; and `entering`, what arrives
            at the entering state of all rows, `dL / ds`.
        """
        batch, steps = x.shape[:2]
        kernel, recurrent, bias = self.cell
        out, out_bias = self.read_out
        there = np.ones((batch, steps)) if mask is None else np.asarray(mask, "float64")
        weight = np.ones(batch) if weight is None else np.asarray(weight, "float64")
        weight = np.broadcast_to(weight if weight.ndim == 2 else weight[:, None], (batch, steps))
        share = weight * there / there.sum()  # of each step in the loss

        if self.state is None:
            self.state, self.fresh = np.zeros((batch, self.units)), np.ones(batch)
        known = 1.0 - self.fresh[:, None]
        goes_on = 1.0 - np.asarray(ends, "float64")[:, None]
        carried = self.state
        entering = known * carried

        states = [entering]
        for i in range(steps):
            new = np.tanh(x[:, i] @ kernel + states[-1] @ recurrent + bias)
            states.append(np.where(there[:, i : i + 1] > 0, new, states[-1]))
        leaving = states[-1]

        at_entering, at_leaving = self._said(carried), self._said(leaving)
        said = goes_on * at_leaving[:, : self.units]

        d_kernel, d_recurrent, d_bias = (np.zeros_like(a) for a in self.cell)
        d_out, d_out_bias = np.zeros_like(out), np.zeros_like(out_bias)
        arriving = self.mix * said / batch
        for i in reversed(range(steps)):
            output = states[i + 1] @ out + out_bias
            error = share[:, i : i + 1] * 2 * (output - y[:, i]) / y.shape[-1]
            d_out, d_out_bias = d_out + states[i + 1].T @ error, d_out_bias + error.sum(axis=0)
            arriving = arriving + error @ out.T
            stepped = there[:, i : i + 1]
            inner = stepped * arriving * (1 - states[i + 1] ** 2)
            d_kernel, d_recurrent = d_kernel + x[:, i].T @ inner, d_recurrent + states[i].T @ inner
            d_bias = d_bias + inner.sum(axis=0)
            arriving = inner @ recurrent.T + (1 - stepped) * arriving

        prediction, target = known * at_entering[:, : self.units], batch * arriving
        signal = np.zeros_like(at_entering)
        size = known.sum() * self.units
        if size:
            signal[:, : self.units] = known * self._derivative(prediction, target) / size
        both = known * goes_on
        if self.auxiliary and both.sum():
            error = self._derivative(at_entering[:, self.units :], said)
            signal[:, self.units :] = both * error / (both.sum() * self.units)

        self.state, self.fresh = leaving, np.asarray(ends, "float64")
        rows = known[:, 0] > 0
        return {
            "cell": [d_kernel, d_recurrent, d_bias],
            "read_out": [d_out, d_out_bias],
            "synthesizer": [carried.T @ signal, signal.sum(axis=0)],
            "prediction": prediction[rows],
            "target": target[rows],
            "entering": arriving,
        }

    def step(self, *window, **options):
        """Train on one window; arguments and result as for `gradients`."""
        found = self.gradients(*window, **options)
        descend = lambda arrays, steps, rate: [a - rate * g for a, g in zip(arrays, steps)]
        self.cell = descend(self.cell, found["cell"], self.learning_rate)
        self.read_out = descend(self.read_out, found["read_out"], self.learning_rate)
        if self.says is None:
            self.synthesizer = descend(self.synthesizer, found["synthesizer"], self.synthesizer_learning_rate)
        return found
