"""Everything once, from top to bottom: data, network, interfaces, optimizers, training, monitoring, files.

    python -m examples.whole

A small network learns handwritten digits: by backpropagation, and cut into three modules. It needs Keras,
on any backend, and scikit-learn for the pictures. Writes into runs/whole.
"""

import pathlib

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sg

OUTPUT = pathlib.Path("runs/whole")
OUTPUT.mkdir(parents=True, exist_ok=True)

# Data: 1,797 pictures of 8 x 8, as rows of 64 numbers in [0, 1], and the digit that each of them shows.
digits = load_digits()
x_train, x_test, y_train, y_test = train_test_split(
    digits.data.astype("float32") / 16, digits.target, test_size=0.25, random_state=0
)


def network():
    """Two hidden blocks and a read-out: a plain Keras model, with the same weights each time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))], name="digits")
    for name in ("block1", "block2"):
        layers = [keras.layers.Dense(64), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        model.add(keras.Sequential(layers, name=name))
    model.add(keras.layers.Dense(10, name="logits"))
    return model


loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
options = dict(batch_size=32, epochs=10, validation_data=(x_test, y_test), verbose=0)

# By backpropagation, to compare with.
plain = network()
plain.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
backprop = plain.fit(x_train, y_train, **options).history

# Interfaces: a linear synthesizer behind each block, which also sees the label. No gradient crosses them.
model = keras_sg.decouple(network(), after=["block1", "block2"], num_classes=10)

# Optimizers: one for the modules, and a faster one for the synthesizers, which have to follow them.
optimizer = keras_sg.decoupled_optimizer(keras.optimizers.Adam(1e-3), synthesizer=keras.optimizers.Adam(3e-3))
model.compile(optimizer, loss, metrics=["accuracy"])

# Training; and monitoring: how far the predicted gradients point where the true ones do, on 256 pictures.
alignment = keras_sg.callbacks.GradientAlignment(x_train[:256], y_train[:256])
decoupled = model.fit(x_train, y_train, callbacks=[alignment], **options).history

print("      |      test accuracy      | cosine to the true gradient")
print("epoch | backprop    decoupled   | block1   block2")
cosines = [decoupled[f"{name}_alignment_cosine"] for name in ("block1", "block2")]
rows = zip(backprop["val_accuracy"], decoupled["val_accuracy"], *cosines)
for epoch, (one, other, first, second) in enumerate(rows, start=1):
    print(f"{epoch:5} | {one:<11.4f} {other:<11.4f} | {first:<8.2f} {second:.2f}")

# Files: the model with its interfaces, to go on with it, and the plain network, to use it.
model.save(OUTPUT / "decoupled.keras")
keras_sg.strip(model).save(OUTPUT / "plain.keras")

again = keras.models.load_model(OUTPUT / "decoupled.keras")
again.fit(x_train, y_train, batch_size=32, verbose=0)  # the eleventh epoch
used = keras.models.load_model(OUTPUT / "plain.keras")  # which would load without keras_sg, too
right = (used.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean()
print(f"The plain network, loaded from {OUTPUT / 'plain.keras'}: test accuracy {right:.4f}")
