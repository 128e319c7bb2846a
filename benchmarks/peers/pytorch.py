"""R2rt's MNIST network with synthetic gradients in PyTorch, as implementations there have it.

A module is trained as soon as it has run: its synthesizer predicts, and `backward` starts from
the prediction. The cut is an `autograd.Function`: for its regression the synthesizer runs a
second time, and meets in `backward` the gradient that arrives. Eager, with fused Adam.
"""

import torch
from torch import nn


class Cut(torch.autograd.Function):
    """`h` as it is; going back, the gradient that arrives is what `predicted` should have been."""

    @staticmethod
    def forward(ctx, h, predicted):
        ctx.save_for_backward(predicted)
        return h.view_as(h)

    @staticmethod
    def backward(ctx, arrived):
        (predicted,) = ctx.saved_tensors
        target = arrived * len(arrived)  # per example
        return None, 2.0 / predicted.numel() * (predicted - target)  # of the mean squared error


class PyTorch:
    """784 - 256 - 256 - 10 with two interfaces, whose synthesizers have two hidden layers.

    Args:
        features: width of the inputs.
        width: of the network's two hidden layers.
        hidden: width of the hidden layers of the synthesizers.
        classes: how many there are.
        learning_rate, epsilon: of Adam.
    """

    def __init__(self, features=784, width=256, hidden=1024, classes=10, learning_rate=3e-5, epsilon=1e-8):
        self.blocks = [nn.Sequential(*_block(inputs, width)) for inputs in (features, width)]
        self.synthesizers = [
            nn.Sequential(*_block(width, hidden), *_block(hidden, hidden), _dense(hidden, width, zero=True))
            for _ in self.blocks
        ]
        self.logits = _dense(width, classes)
        pairs = zip(self.blocks, self.synthesizers)
        parts = [*(part for pair in pairs for part in pair), self.logits]
        self.parameters = list(nn.ModuleList(parts).parameters())
        self.optimizer = torch.optim.Adam(self.parameters, learning_rate, eps=epsilon, fused=True)

    def step(self, x, y):
        h, labels = torch.from_numpy(x), torch.from_numpy(y)
        self.optimizer.zero_grad()
        for block, synthesizer in zip(self.blocks, self.synthesizers):
            h = block(h)
            with torch.no_grad():
                synthetic = synthesizer(h)
            h.backward(synthetic / len(h))
            h = h.detach()
            h = Cut.apply(h, synthesizer(h))
        logits = self.logits(h)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item(), (logits.argmax(1) == labels).float().mean().item()

    @property
    def weights(self):
        return [parameter.detach().numpy().T.copy() for parameter in self.parameters]

    @weights.setter
    def weights(self, values):
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(torch.from_numpy(value.T.copy()))


def _block(inputs, width):
    return [_dense(inputs, width), nn.BatchNorm1d(width, eps=1e-3, momentum=0.01), nn.ReLU()]


def _dense(inputs, width, zero=False):
    dense = nn.Linear(inputs, width)
    nn.init.zeros_(dense.bias)
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(dense.weight)
    return dense
