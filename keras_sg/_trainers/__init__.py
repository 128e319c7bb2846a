"""The training step that hands labels to interfaces and reads their targets: one folder a backend."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_sg._trainers.tensorflow.trainer import TensorFlowTrainer as Trainer
elif keras.backend.backend() == "jax":
    from keras_sg._trainers.jax.trainer import JaxTrainer as Trainer  # type: ignore[assignment]
elif keras.backend.backend() == "torch":
    from keras_sg._trainers.torch.trainer import TorchTrainer as Trainer  # type: ignore[assignment]
else:
    from keras_sg._trainers.missing import MissingTrainer as Trainer

__all__ = ["Trainer"]
