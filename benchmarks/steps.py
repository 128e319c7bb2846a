"""How long a training step takes inside `fit` where data cost nothing: one batch, again and again."""

import time

import keras

from examples.data import prefetched


class Repeated(keras.utils.PyDataset):
    """An epoch of equal batches, which lie on the device already."""

    def __init__(self, batch, steps):
        super().__init__()
        self.batch, self.steps = tuple(keras.ops.convert_to_tensor(part) for part in batch), steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.batch


class Stopwatch(keras.callbacks.Callback):
    """Milliseconds a step, of every epoch."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.milliseconds = steps, []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        # The logs are numbers by now, so the device has done its work.
        self.milliseconds.append(1e3 * (time.perf_counter() - self.began) / self.steps)


def repeated(batch, steps):
    """An epoch of so many steps on one batch, as the backend takes it in fastest."""
    if keras.backend.backend() != "tensorflow":
        return Repeated(batch, steps)
    import tensorflow as tf

    return prefetched(tf.data.Dataset.from_tensors(batch).repeat(steps))


def milliseconds(model, batch, steps, epochs):
    """Milliseconds a step, one number for each epoch; an epoch before them, to compile, is left out."""
    stopwatch = Stopwatch(steps)
    model.fit(repeated(batch, steps), epochs=epochs + 1, shuffle=False, verbose=0, callbacks=[stopwatch])
    return stopwatch.milliseconds[1:]


def device():
    """The name of the device that models are trained on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else "cpu"
