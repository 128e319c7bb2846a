"""One network over two workers, as others train it: actors of Ray, with plain functions of JAX in them.

The network is a stack of dense layers with ReLU, and a last one of logits. A *part* of it is a list of its
weights, `[kernel, bias, kernel, bias, ...]`. Every way to train has the gradient of the mean loss of a batch,
and the optimizer is written down here for all of them; what differs is who waits for whom.
"""

import asyncio
import collections
import functools
import os

import jax
import numpy as np
from jax import numpy as jnp

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


def dense(weights, x, last):
    """The outputs of a part; the last layer of the `last` part has no ReLU."""
    for at in range(0, len(weights), 2):
        x = x @ weights[at] + weights[at + 1]
        if not last or at + 2 < len(weights):
            x = jax.nn.relu(x)
    return x


def kept(weights, x):
    """What goes into each layer of a part that is not the last, and what comes out of it in the end."""
    found = [x]
    for at in range(0, len(weights), 2):
        found.append(jax.nn.relu(found[-1] @ weights[at] + weights[at + 1]))
    return found


def back(weights, found, arrived):
    """The gradients of the weights of such a part; none for its inputs, which are data."""
    gradients = []
    for at in reversed(range(0, len(weights), 2)):
        arrived = arrived * (found[at // 2 + 1] > 0)
        gradients = [found[at // 2].T @ arrived, arrived.sum(0), *gradients]
        if at:
            arrived = arrived @ weights[at].T
    return gradients


def mean_loss(weights, x, y):
    logits = jax.nn.log_softmax(dense(weights, x, last=True))
    return -jnp.mean(jnp.take_along_axis(logits, y[:, None], 1))


def adam(rate, weights, state, gradients):
    """Adam as Keras has it; `state` is the number of steps, and two moments a weight."""
    steps, moments, velocities = state
    steps = steps + 1.0
    alpha = rate * jnp.sqrt(1 - BETA_2**steps) / (1 - BETA_1**steps)
    moments = [m + (g - m) * (1 - BETA_1) for m, g in zip(moments, gradients)]
    velocities = [v + (g * g - v) * (1 - BETA_2) for v, g in zip(velocities, gradients)]
    moved = [w - alpha * m / (jnp.sqrt(v) + EPSILON) for w, m, v in zip(weights, moments, velocities)]
    return moved, (steps, moments, velocities)


def sgd(rate, weights, state, gradients):
    return [w - rate * g for w, g in zip(weights, gradients)], state


OPTIMIZERS = {"adam": adam, "sgd": sgd}


class Part:
    """A part of the network, with its optimizer.

    Args:
        weights: list of arrays.
        last: whether it ends in logits.
        optimizer: a key of `OPTIMIZERS`.
        rate: learning rate.
        stashes: whether other batches are on their way while it is updated, whose backward pass needs the
            weights of their forward pass (PipeDream's stash). Else an update takes the weights' memory.
    """

    def __init__(self, weights, last, optimizer, rate, stashes=False):
        self.weights = [jnp.array(weight) for weight in weights]
        zeros = lambda: [jnp.zeros_like(weight) for weight in self.weights]
        self.state = (jnp.zeros(()), zeros(), zeros()) if optimizer == "adam" else ()
        self._stashes, self._kept, self._gradients, self._count = stashes, {}, None, 0
        self._forward, self._backward = jax.jit(kept), jax.jit(back)
        self._descend = jax.jit(jax.value_and_grad(mean_loss, argnums=(0, 1)))
        self._descend_weights = jax.jit(jax.value_and_grad(mean_loss))
        self._add = jax.jit(lambda a, b: [x + y for x, y in zip(a, b)], donate_argnums=0)
        move = functools.partial(OPTIMIZERS[optimizer], rate)
        donated = (1,) if stashes else (0, 1)
        self._update = jax.jit(
            lambda weights, state, gradients, count: move(weights, state, [g / count for g in gradients]),
            donate_argnums=donated,
        )
        self._backward_and_update = jax.jit(
            lambda weights, state, stash, found, arrived: move(
                weights, state, back(stash or weights, found, arrived)
            ),
            donate_argnums=donated,
        )

    def forward(self, batch, x):
        """The outputs; what the backward pass needs is kept until then."""
        found = self._forward(self.weights, x)
        self._kept[batch] = self.weights if self._stashes else None, found
        return np.asarray(found[-1])

    def backward(self, batch, arrived, update=True):
        """Back; and apply the mean of the gradients since the last update, in one program if it is one."""
        stash, found = self._kept.pop(batch)
        if update and self._count == 0:
            self.weights, self.state = self._backward_and_update(
                self.weights, self.state, stash, found, arrived
            )
            return
        self._collect(self._backward(stash or self.weights, found, arrived))
        if update:
            self.update()

    def loss(self, x, y):
        """The last part, forward and back; returns the gradient at `x`, and the loss."""
        loss, (gradients, arrived) = self._descend(self.weights, x, y)
        self._collect(gradients)
        return np.asarray(arrived), float(loss)

    def gradients(self, x, y):
        """The gradients of the whole network, and the loss."""
        loss, gradients = self._descend_weights(self.weights, x, y)
        self._collect(gradients)
        return [np.asarray(gradient) for gradient in gradients], float(loss)

    def meet(self, gradients):
        """Take in gradients of another worker."""
        self._collect(gradients)

    def _collect(self, gradients):
        self._gradients = gradients if self._gradients is None else self._add(self._gradients, gradients)
        self._count += 1

    def update(self):
        """Apply the mean of the gradients since the last update."""
        self.weights, self.state = self._update(self.weights, self.state, self._gradients, float(self._count))
        self._gradients, self._count = None, 0


class Worker:
    """An actor: a process that keeps to some cores, with one part of the network for every way to train."""

    def __init__(self, cores=None):
        if cores is not None:
            os.sched_setaffinity(0, cores)
        self._parts = {}

    def load(self, name, *part):
        self._parts[name] = Part(*part)

    def weights(self, name):
        return [np.asarray(weight) for weight in self._parts[name].weights]

    def forward(self, name, batch, x):
        return self._parts[name].forward(batch, x)

    def backward(self, name, batch, arrived, update=True):
        self._parts[name].backward(batch, arrived, update)

    def loss(self, name, x, y):
        return self._parts[name].loss(x, y)

    def update(self, name):
        self._parts[name].update()

    def gradients(self, name, x, y):
        return self._parts[name].gradients(x, y)

    def meet(self, name, gradients):
        self._parts[name].meet(gradients)
        self._parts[name].update()

    def step(self, name, x, y):
        """A step of a network that is whole and alone."""
        _, loss = self._parts[name].gradients(x, y)
        self._parts[name].update()
        return loss


class Wire:
    """An actor that holds messages back, as a slow link does."""

    async def hold(self, message, seconds):
        await asyncio.sleep(seconds)
        return message


def start(ray, cores):
    """Workers, each on its list of cores, and a wire."""
    actors = []
    for own in cores:
        flags = " --xla_cpu_multi_thread_eigen=false" if len(own) == 1 else ""
        environment = {
            "OMP_NUM_THREADS": str(len(own)),
            "XLA_FLAGS": (os.environ.get("XLA_FLAGS", "") + flags).strip(),
        }
        options = {"num_cpus": 0, "runtime_env": {"env_vars": environment}}
        actors.append(ray.remote(Worker).options(**options).remote(own))
    wire = ray.remote(Wire).options(num_cpus=0, max_concurrency=1000).remote()
    return actors, wire


# Ways to train. Each asks for what is to be done and yields, batch by batch, the promise of the loss: nothing
# here waits. `send` takes the promise of a message and returns that of its arrival.


def backprop(workers, send, batches, name="half", micro=1):
    """Backpropagation over two workers: forward below, forward and back above, back below.

    With `micro` batches in the place of one, a worker is at work on one while the other is at the next; the
    weights are updated when all are through (GPipe).
    """
    lower, upper = workers
    for x, y in batches:
        parts = list(zip(np.array_split(x, micro), np.array_split(y, micro)))
        sent = [send(lower.forward.remote(name, at, part)) for at, (part, _) in enumerate(parts)]
        told = [upper.loss.options(num_returns=2).remote(name, h, y) for h, (_, y) in zip(sent, parts)]
        upper.update.remote(name)
        for at, (arrived, _) in enumerate(told):
            lower.backward.remote(name, at, send(arrived), at + 1 == micro)
        yield told[-1][1]


gpipe = functools.partial(backprop, micro=4)


def stale(workers, send, batches, name="stale", delay=1):
    """The pipeline of PipeDream: what is below goes on with `delay` batches before a gradient has come back.

    A batch's backward pass has the weights of its forward pass, which are kept; what it finds is applied to
    those that have become of them.
    """
    lower, upper = workers
    waiting = collections.deque()
    for batch, (x, y) in enumerate(batches):
        h = send(lower.forward.remote(name, batch, x))
        arrived, loss = upper.loss.options(num_returns=2).remote(name, h, y)
        upper.update.remote(name)
        waiting.append((batch, send(arrived)))
        if len(waiting) > delay:
            lower.backward.remote(name, *waiting.popleft())
        yield loss
    for batch, arrived in waiting:
        lower.backward.remote(name, batch, arrived)


def data_parallel(workers, send, batches, name="whole"):
    """Each worker has the whole network and half of the batch; the gradients meet."""
    for x, y in batches:
        halves = zip(np.array_split(x, 2), np.array_split(y, 2))
        found = [
            worker.gradients.options(num_returns=2).remote(name, *half)
            for worker, half in zip(workers, halves)
        ]
        gradients = [send(own) for own, _ in found]
        for worker, other in zip(workers, reversed(gradients)):
            worker.meet.remote(name, other)
        yield found[0][1]


def undivided(workers, send, batches, name="whole"):
    """The whole network in one process."""
    (worker,) = workers
    for x, y in batches:
        yield worker.step.remote(name, x, y)


def loads(network, optimizer, rate):
    """What the two workers are to `load`: `{name: [part of the first, part of the second]}`.

    Args:
        network: the weights of the two halves, two lists.
        optimizer, rate: of all.
    """
    lower, upper = network
    whole = [*lower, *upper], True, optimizer, rate
    return {
        "half": [(lower, False, optimizer, rate), (upper, True, optimizer, rate)],
        "stale": [(lower, False, optimizer, rate, True), (upper, True, optimizer, rate)],
        "whole": [whole, whole],
    }
