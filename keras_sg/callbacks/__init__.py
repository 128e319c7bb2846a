"""Callbacks that watch synthetic gradients, or turn their knobs. None is needed for a right result.

All they observe goes into the `logs` of the epoch, under flat keys, for whatever reads them: History and the
progress bar, CSVLogger, TensorBoard, EarlyStopping, ... Keras hands the logs from one callback to the
next, so the order in `fit(callbacks=[...])` is: observers, then loggers and whatever else reads them. (The
two that Keras adds itself, History and the progress bar, come last.)
"""

from keras_sg.callbacks.alignment import GradientAlignment as GradientAlignment
from keras_sg.callbacks.mix import MixSchedule as MixSchedule
from keras_sg.callbacks.update_size import UpdateSize as UpdateSize
