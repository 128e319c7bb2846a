"""Sweeps with keras-tuner: learning rates, synthesizers, and where to cut.

A sweep takes a function that builds a plain network. `DecoupledHyperModel` cuts it anew for every
trial; any tuner of keras-tuner can search its space. `import keras_sg` does not import this package:

    from keras_sg import tuning

It needs keras-tuner: `pip install "/path/to/keras_sg[tune]"`, with the path to the clone.
"""

try:
    import keras_tuner as _keras_tuner  # noqa: F401
except ImportError as error:
    raise ImportError(
        'keras_sg.tuning needs keras-tuner: pip install "/path/to/keras_sg[tune]", with the path to the clone'
    ) from error

from keras_sg.tuning.hypermodel import DecoupledHyperModel as DecoupledHyperModel
from keras_sg.tuning.objectives import objective as objective
from keras_sg.tuning.space import Choice as Choice
from keras_sg.tuning.space import LogRange as LogRange
