"""What an interface says of itself in files, and how it is made again from that."""

from typing import Any, Self

import keras

from keras_sg import _keras, synthesizers
from keras_sg._interfaces import label_sources
from keras_sg._types import Config, Mixin
from keras_sg._version import __version__, check_readable


class InFiles(Mixin):
    """Mixed into `Interface`: its configuration, and what it was built for."""

    def get_config(self) -> Config:
        parts = self._trainable_parts
        if self.synthesizer is not None:
            parts = tuple(part.trainable for part in _keras.with_sublayers(self.synthesizer))
        source = self.labels_from
        return {
            **super().get_config(),
            **({} if source is None else {"labels_from": label_sources.serialize(source)}),
            **self._serialized_input(),
            "keras_sg_version": __version__,
            "synthesizer": self._serialized_synthesizer(),
            "synthesizer_trainable": parts and list(parts),
            "num_classes": self.num_classes,
            "label_size": self.label_size,
            "loss": self.loss,
            "mix": self.mix,
            "update_period": self.update_period,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: dict[str, Any] | None = None) -> Self:
        config = dict(config)
        check_readable(config.pop("keras_sg_version", None))
        config.pop("trainable", None)  # the layer's configuration says it, of each layer inside it
        parts = config.pop("synthesizer_trainable", None)
        parts_of_input = config.pop("synthetic_input_trainable", [])
        if "labels_from" in config:
            config["labels_from"] = label_sources.deserialize(config["labels_from"])
        interface = super().from_config(config, custom_objects=custom_objects)
        interface._trainable_parts = None if parts is None else tuple(parts)
        if interface.synthetic_input is not None:
            interface.synthetic_input.trainable_parts = parts_of_input
        return interface

    def get_build_config(self) -> Config | None:
        config = super().get_build_config()
        predicted = self.synthetic_input
        given = {} if predicted is None or not predicted.built else {"network_input": predicted.given}
        return config and {**config, "input_dtypes": self._input_dtypes, **given}

    def build_from_config(self, config: Config | None) -> None:
        self._input_dtypes = (config or {}).get("input_dtypes")
        super().build_from_config(config)
        given = (config or {}).get("network_input")
        if given is not None and self.synthetic_input is not None and not self.synthetic_input.built:
            self.synthetic_input.build(tuple(given), self._shape)

    def save_own_variables(self, store: Any) -> None:
        """Nothing: layer and synthesizer save theirs, and `mix` is in the configuration."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing; see `save_own_variables`."""

    def _serialized_input(self) -> Config:
        if self.synthetic_input is None:
            return {}
        made = self.synthetic_input
        return {
            "synthetic_input": self._serialized(made.recipe, "synthetic_input", made.predictor),
            "synthetic_input_trainable": made.trainable_parts,
        }

    def _serialized_synthesizer(self) -> Any:
        return self._serialized(self._recipe, "synthesizer", self.synthesizer)

    def _serialized(self, recipe: Any, role: str, made: keras.Layer) -> Any:
        try:
            return synthesizers.serialize(recipe)
        except (NotImplementedError, TypeError, ValueError) as error:
            source = getattr(recipe, "layer", recipe)  # a layer that stands for itself
            raise ValueError(
                f"The {role} of interface {self.name!r} cannot be written to a file. Give its class a "
                "get_config() and decorate it with @keras.saving.register_keras_serializable(). Received: a "
                f"{role} of type {type(source).__name__} ({made!r})."
            ) from error
