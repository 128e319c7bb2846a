"""Train Keras models with synthetic gradients (Decoupled Neural Interfaces)."""

from keras_sg import callbacks as callbacks
from keras_sg import gradients as gradients
from keras_sg import histories as histories
from keras_sg import plotting as plotting
from keras_sg import schedules as schedules
from keras_sg import synthesizers as synthesizers
from keras_sg.halves import LowerModel as LowerModel
from keras_sg.halves import Pairs as Pairs
from keras_sg.halves import Sent as Sent
from keras_sg.halves import Target as Target
from keras_sg.halves import UpperModel as UpperModel
from keras_sg.halves import join as join
from keras_sg.halves import split as split
from keras_sg.layers import SyntheticGradient as SyntheticGradient
from keras_sg.layers import SyntheticLoss as SyntheticLoss
from keras_sg.local_loss import LocalLoss as LocalLoss
from keras_sg.models import DecoupledModel as DecoupledModel
from keras_sg.optimizers import decoupled_optimizer as decoupled_optimizer
from keras_sg.placement import balance as balance
from keras_sg.plain import strip as strip
from keras_sg.recurrent import RecurrentSyntheticGradient as RecurrentSyntheticGradient
from keras_sg.recurrent import Windows as Windows
from keras_sg.surgery import decouple as decouple
from keras_sg.version import __version__ as __version__
