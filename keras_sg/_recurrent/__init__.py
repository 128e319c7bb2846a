"""Recurrent networks: gradients from the future, and sequences as windows."""

from keras_sg._recurrent.layer import RecurrentSyntheticGradient as RecurrentSyntheticGradient
from keras_sg._recurrent.windows import Windows as Windows
