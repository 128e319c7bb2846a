"""Callbacks that watch synthetic gradients, or turn their knobs. None is needed for a right result."""

from keras_sg.callbacks.alignment import GradientAlignment as GradientAlignment
from keras_sg.callbacks.mix import MixSchedule as MixSchedule
from keras_sg.callbacks.update_size import UpdateSize as UpdateSize
