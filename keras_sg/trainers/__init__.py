"""One file a backend: the training step that hands labels to interfaces and reads their targets."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_sg.trainers.tensorflow import TensorFlowTrainer as Trainer
elif keras.backend.backend() == "jax":
    from keras_sg.trainers.jax import JaxTrainer as Trainer
elif keras.backend.backend() == "torch":
    from keras_sg.trainers.torch import TorchTrainer as Trainer
else:
    from keras_sg.trainers.missing import MissingTrainer as Trainer

__all__ = ["Trainer"]
