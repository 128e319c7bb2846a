"""A model taken apart at its interfaces: its modules, and what each of them does with a batch."""

from keras_sg._modules.parting import Module as Module
from keras_sg._modules.parting import met_in as met_in
from keras_sg._modules.parting import part as part
from keras_sg._modules.parting import whole as whole
from keras_sg._modules.program import Batch as Batch
from keras_sg._modules.program import Common as Common
from keras_sg._modules.program import Entering as Entering
from keras_sg._modules.program import Given as Given
from keras_sg._modules.program import Held as Held
from keras_sg._modules.program import Passed as Passed
from keras_sg._modules.program import Program as Program
from keras_sg._modules.program import Ran as Ran
from keras_sg._modules.program import common_of as common_of
from keras_sg._modules.program import given as given
from keras_sg._modules.program import held_by as held_by
from keras_sg._modules.program import needed_of as needed_of
from keras_sg._modules.program import programs as programs
