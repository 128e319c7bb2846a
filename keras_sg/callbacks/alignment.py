"""`GradientAlignment`: how well synthetic gradients meet the true ones."""

from typing import Any

import keras
import numpy as np

from keras_sg._model import DecoupledModel
from keras_sg._trainers import batches
from keras_sg._trainers.reports import cosine
from keras_sg._types import Logs, Nested


class GradientAlignment(keras.callbacks.Callback):
    """Compares synthetic with true gradients on a probe batch after every epoch.

    The true gradient is that of backpropagation through the whole network above the interface, not
    the bootstrapped target that the synthesizer is taught with. With `g` the true and `g_hat` the
    synthetic gradient per example, for each interface, into `logs`:

        <name>_alignment_cosine   cosine between g_hat and g, each of the whole batch as one vector; 1 is
                                  perfect, 0 is what a synthesizer has that predicts nothing at all
        <name>_alignment_error    |g_hat - g| / |g|, norms over the whole batch; 0 is perfect, and a
                                  synthesizer that predicts nothing at all has 1
        <name>_alignment_sign     share of the elements in which the signs agree

    Put it before callbacks that read the logs (CSVLogger, TensorBoard, ...). Training is not
    affected: no weight, statistic or metric of the model changes. Examples of weight 0, and where a mask is
    False, are left out.

    Args:
        x: inputs of the probe batch, or a data set, the first batch of which it is; whatever `fit` takes.
        y: targets of the probe batch, as for `fit`; none where `x` has them.
        sample_weight: optional sample weights of the probe batch, as for `fit`.

    Raises:
        ValueError: the model is not a `DecoupledModel` or has no interfaces; or the probe does not
            fit it. Before training starts.

    Example:

    ```python
    import keras_sg
    import numpy as np
    probe = keras_sg.callbacks.GradientAlignment(np.ones((32, 8)), np.zeros(32, "int32"))
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, on the quality of synthetic
        gradients; Czarnecki et al. 2017, https://arxiv.org/abs/1703.00522.
    """

    def __init__(self, x: Any, y: Nested = None, sample_weight: Nested = None) -> None:
        super().__init__()
        self.probe = (x, y, sample_weight)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        found = [interface for interface in getattr(model, "interfaces", ()) if interface.between_layers]
        if not isinstance(model, DecoupledModel) or not found:
            raise ValueError(
                "GradientAlignment compares gradients at the interfaces between the layers of a "
                "keras_sg.DecoupledModel (what comes after a window is not there to compare with). "
                f"Received: model {model.name!r} (of type {type(model).__name__}) with {len(found)} of "
                "them."
            )
        self.probe = batches.read(model, *self.probe)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs.update(self.measure())

    def measure(self) -> dict[str, float]:
        """The measures of the model as it is, by their keys; floats."""
        found = {}
        for key, (synthetic, true, counts) in self.model.probe_gradients(*self.probe).items():
            for name, value in alignment(synthetic[counts], true[counts]).items():
                found[f"{key}_alignment_{name}"] = value
        return found


def alignment(synthetic: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Cosine, relative error and sign agreement between two gradients.

    Args:
        synthetic: array of any shape, the elements that count.
        true: array, the same shape.

    Returns:
        Dictionary of floats: `cosine`, `error`, `sign`; see `GradientAlignment`.

    Example:

    ```python
    import numpy as np
    from keras_sg.callbacks.alignment import alignment
    alignment(np.ones((2, 3)), np.ones((2, 3)))  # {"cosine": 1.0, "error": 0.0, "sign": 1.0}
    ```
    """
    synthetic, true = (np.ravel(a).astype("float64") for a in (synthetic, true))
    size = np.linalg.norm(true)
    return {
        "cosine": float(keras.ops.convert_to_numpy(cosine(synthetic, true))),
        "error": float(np.linalg.norm(synthetic - true) / size) if size else float("nan"),
        "sign": float(np.mean(np.sign(synthetic) == np.sign(true))) if true.size else float("nan"),
    }
