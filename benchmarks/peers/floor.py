"""The arithmetic of a step alone: its matrix products, and one pass of fused Adam.

With synthetic gradients a step of r2rt's network has 24 matrix products:

    the network      3 forward, 3 for the weights' gradients, 2 for those of h1 and h2
    a synthesizer    3 forward, 3 for the weights' gradients, 2 for those of its hidden layers

and two synthesizers. (Nothing goes back to a synthesizer's input, nor to the pictures.) They depend
on one another here as they do there; activations, normalization and losses are left out.
"""

import keras
import tensorflow as tf


class Floor:
    """The products of a step of 784 - 256 - 256 - 10 with two interfaces, and Adam.

    Args:
        features: width of the inputs.
        width: of the network's two hidden layers.
        hidden: width of the hidden layers of the synthesizers.
        classes: how many there are.
        jit_compile: whether XLA compiles them, or TensorFlow's own kernels run.
    """

    def __init__(self, features=784, width=256, hidden=1024, classes=10, jit_compile=False):
        synthesizer = [(width, hidden), (hidden, hidden), (hidden, width)]
        self.network = _kernels([(features, width), (width, width), (width, classes)])
        self.synthesizers = [_kernels(synthesizer) for _ in range(2)]
        self.kernels = [*self.network, *self.synthesizers[0], *self.synthesizers[1]]
        # Bias, scale and offset of hidden layers; the bias of the last.
        self.vectors = [
            tf.Variable(tf.zeros(kernel.shape[1]))
            for *hidden, last in (self.network, *self.synthesizers)
            for kernel in [*hidden, *hidden, *hidden, last]
        ]
        self.trained = [*self.kernels, *self.vectors]
        self.moments = [[tf.Variable(tf.zeros(v.shape)) for _ in range(2)] for v in self.trained]
        self._step = tf.function(self._products_and_adam, jit_compile=jit_compile)
        self._rate = tf.constant(0.0)  # an argument, so that no compiler sees that nothing changes

    def step(self, x, y):
        self._step(x, self._rate).numpy()

    def _products_and_adam(self, x, rate):
        h1, h2, logits = _forward(x, self.network)  # 3
        synthetic1, gradients1 = self._synthesizer(0, h1)
        synthetic2, gradients2 = self._synthesizer(1, h2)
        arrived2 = _back(logits, self.network[2])  # 1
        arrived1 = _back(synthetic2, self.network[1])  # 1
        gradients = [
            *(_weights(x, synthetic1), _weights(h1, synthetic2), _weights(h2, logits)),  # 3
            *gradients1(arrived1),
            *gradients2(arrived2),
            *self.vectors,
        ]
        for variable, moments, gradient in zip(self.trained, self.moments, gradients):
            _adam(variable, *moments, rate, gradient)
        return logits[0, 0]

    def _synthesizer(self, number, h):
        """Its prediction, and a function from what arrives to the gradients of its kernels."""
        kernels = self.synthesizers[number]
        hidden1, hidden2, prediction = _forward(h, kernels)  # 3

        def gradients(target):
            at2 = _back(target, kernels[2])  # 1
            at1 = _back(at2, kernels[1])  # 1
            return _weights(h, at1), _weights(hidden1, at2), _weights(hidden2, target)  # 3

        return prediction, gradients


def _kernels(shapes):
    return [tf.Variable(keras.initializers.GlorotUniform()(shape)) for shape in shapes]


def _forward(x, kernels):
    outputs = []
    for kernel in kernels:
        x = x @ kernel
        outputs.append(x)
    return outputs


def _back(arrived, kernel):
    return tf.matmul(arrived, kernel, transpose_b=True)


def _weights(inputs, arrived):
    return tf.matmul(inputs, arrived, transpose_a=True)


def _adam(variable, momentum, velocity, rate, gradient):
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.handle,
        v=velocity.handle,
        beta1_power=0.9,
        beta2_power=0.999,
        lr=rate,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        grad=gradient,
    )
