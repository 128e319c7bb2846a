"""A model in two halves, with a link between them: each trains by itself, and messages are all that crosses.

    x -> lower -> h  ......  h -> upper -> loss      forward: h, of every batch that the upper half is to see
                  t  ......  t                       backward: the target, whenever the upper half sends one

The module below the cut descends what its synthesizer predicts, batch after batch, whether targets come or
not; the synthesizer learns from those that do. Unlike `keras_sg.schedules`, nothing here runs by itself: when
which half works, and what is sent, is up to whoever calls.

References: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2; Nair et al. 2025, FSL-SAGE,
https://arxiv.org/abs/2505.23182 (clients that train against a model of the server's gradient).
"""

from keras_sg._halves.lower import LowerModel as LowerModel
from keras_sg._halves.messages import Pairs as Pairs
from keras_sg._halves.messages import Sent as Sent
from keras_sg._halves.messages import Target as Target
from keras_sg._halves.upper import UpperModel as UpperModel
from keras_sg._halves.verbs import join as join
from keras_sg._halves.verbs import split as split
