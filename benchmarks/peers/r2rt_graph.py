"""R2rt's MNIST network with synthetic gradients as a graph in the style of TensorFlow 1.

Written anew from the write-up: `Graph`, `Session`, `feed_dict`, one `tf.gradients` for each module
with the synthesizer's prediction as `grad_ys`, batch normalization with update operations, and one
Adam for everything.
"""

import tensorflow as tf

v1 = tf.compat.v1


class R2rtGraph:
    """784 - 256 - 256 - 10 with two interfaces, whose synthesizers have two hidden layers.

    Args:
        features: width of the inputs.
        width: of the network's two hidden layers.
        hidden: width of the hidden layers of the synthesizers.
        classes: how many there are.
        learning_rate, epsilon: of Adam.
    """

    def __init__(self, features=784, width=256, hidden=1024, classes=10, learning_rate=3e-5, epsilon=1e-8):
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.x = v1.placeholder("float32", (None, features))
            self.y = v1.placeholder("int64", (None,))
            self._build(width, hidden, classes, v1.train.AdamOptimizer(learning_rate, epsilon=epsilon))
            initialize = v1.global_variables_initializer()
        self.session = v1.Session(graph=self.graph)
        self.session.run(initialize)

    def _build(self, width, hidden, classes, optimizer):
        h1, module1 = _recorded("module1", lambda: _block(self.x, width))
        synthetic1, synthesizer1 = _recorded("synthesizer1", lambda: _synthesizer(h1, hidden, width))
        h2, module2 = _recorded("module2", lambda: _block(h1, width))
        synthetic2, synthesizer2 = _recorded("synthesizer2", lambda: _synthesizer(h2, hidden, width))
        logits, module3 = _recorded("module3", lambda: _dense(h2, classes))
        self._variables = [*module1, *synthesizer1, *module2, *synthesizer2, *module3]

        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.y, logits)
        right = tf.equal(tf.argmax(logits, axis=1), self.y)
        self.loss, self.accuracy = tf.reduce_mean(losses), tf.reduce_mean(tf.cast(right, "float32"))

        # Synthetic gradients and targets are those of single examples; what trains is the mean.
        examples = tf.cast(tf.shape(self.x)[0], "float32")
        *by_module3, arrived2 = tf.gradients(self.loss, [*module3, h2])
        *by_module2, arrived1 = tf.gradients(h2, [*module2, h1], grad_ys=synthetic2 / examples)
        by_module1 = tf.gradients(h1, module1, grad_ys=synthetic1 / examples)
        by_synthesizer1 = _regression(synthetic1, arrived1 * examples, synthesizer1)
        by_synthesizer2 = _regression(synthetic2, arrived2 * examples, synthesizer2)
        gradients = [*by_module1, *by_synthesizer1, *by_module2, *by_synthesizer2, *by_module3]

        with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            self.train = optimizer.apply_gradients(zip(gradients, self._variables))

    def step(self, x, y):
        _, loss, accuracy = self.session.run([self.train, self.loss, self.accuracy], {self.x: x, self.y: y})
        return loss, accuracy

    @property
    def weights(self):
        return self.session.run(self._variables)

    @weights.setter
    def weights(self, values):
        with self.graph.as_default():
            initial = [variable.initial_value for variable in self._variables]
            initialize = [variable.initializer for variable in self._variables]
        self.session.run(initialize, dict(zip(initial, values, strict=True)))


def _recorded(scope, make):
    """What `make()` returns in a variable scope, and the trainable variables that it made."""
    with v1.variable_scope(scope):
        made = make()
    return made, v1.trainable_variables(f"{scope}/")


def _block(x, width, name="block"):
    with v1.variable_scope(name):
        return tf.nn.relu(_batch_normalization(_dense(x, width)))


def _synthesizer(h, hidden, width):
    body = _block(_block(h, hidden, "block1"), hidden, "block2")
    return _dense(body, width, v1.zeros_initializer())


def _dense(x, width, initializer=None):
    kernel = v1.get_variable(
        "kernel", (x.shape[-1], width), initializer=initializer or v1.glorot_uniform_initializer()
    )
    return tf.nn.bias_add(x @ kernel, v1.get_variable("bias", (width,), initializer=v1.zeros_initializer()))


def _batch_normalization(x, momentum=0.99, epsilon=1e-3):
    def variable(name, initializer, trainable=True):
        return v1.get_variable(name, (x.shape[-1],), initializer=initializer(), trainable=trainable)

    scale, offset = variable("scale", v1.ones_initializer), variable("offset", v1.zeros_initializer)
    moments = tf.nn.moments(x, axes=[0])
    averages = (
        variable("mean", v1.zeros_initializer, trainable=False),
        variable("variance", v1.ones_initializer, trainable=False),
    )
    for average, moment in zip(averages, moments):
        update = v1.assign_sub(average, (1.0 - momentum) * (average - moment))
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)
    return tf.nn.batch_normalization(x, *moments, offset, scale, epsilon)


def _regression(prediction, target, variables):
    loss = tf.reduce_mean(tf.square(prediction - tf.stop_gradient(target)))
    return tf.gradients(loss, variables)
