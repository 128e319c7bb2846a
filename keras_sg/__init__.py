"""Train Keras models with synthetic gradients (Decoupled Neural Interfaces)."""

from keras_sg import callbacks as callbacks
from keras_sg import gradients as gradients
from keras_sg import histories as histories
from keras_sg import labels as labels
from keras_sg import plotting as plotting
from keras_sg import schedules as schedules
from keras_sg import synthesizers as synthesizers
from keras_sg._graphs.plain import strip as strip
from keras_sg._halves import LowerModel as LowerModel
from keras_sg._halves import Pairs as Pairs
from keras_sg._halves import Sent as Sent
from keras_sg._halves import Target as Target
from keras_sg._halves import UpperModel as UpperModel
from keras_sg._halves import join as join
from keras_sg._halves import split as split
from keras_sg._interfaces.local_loss import LocalLoss as LocalLoss
from keras_sg._interfaces.predicted_loss import SyntheticLoss as SyntheticLoss
from keras_sg._interfaces.synthetic_gradient import SyntheticGradient as SyntheticGradient
from keras_sg._model import DecoupledModel as DecoupledModel
from keras_sg._optimizers.decoupled import decoupled_optimizer as decoupled_optimizer
from keras_sg._recurrent import RecurrentSyntheticGradient as RecurrentSyntheticGradient
from keras_sg._recurrent import Windows as Windows
from keras_sg._surgery.balance import balance as balance
from keras_sg._surgery.decouple import decouple as decouple
from keras_sg._version import __version__ as __version__
