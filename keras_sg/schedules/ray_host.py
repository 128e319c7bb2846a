"""A module in an actor: what Ray runs in another process. Nothing here needs Ray."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._modules import Common, Module, Program
from keras_sg._types import Config, Nested
from keras_sg.schedules.worker import ModuleWorker


class Site(NamedTuple):
    """What an actor makes a module's program of, in another process."""

    network: Config
    interfaces: list[str]
    needed: tuple[bool, ...]
    shares: tuple[float, ...]
    ignored: tuple[int, ...]
    reached: list[list[int]]
    fits_losses: bool
    compilation: Config  # of the last module
    jit_compile: bool
    run_eagerly: bool
    optimizers: list[Any]
    custom_objects: dict[str, Any]
    cores: Sequence[int] | None
    floatx: str


class Host:
    """An actor: one module, in a process of its own."""

    def __init__(self, site: Site) -> None:
        if site.cores is not None:
            os.sched_setaffinity(0, site.cores)
        keras.config.set_floatx(site.floatx)
        with keras.saving.custom_object_scope(site.custom_objects):
            network = keras.saving.deserialize_keras_object(site.network)
            _keras.register_step(network)
            if not site.interfaces:
                network.compile(optimizer=None, **keras.saving.deserialize_keras_object(site.compilation))
        network.jit_compile, network.run_eagerly = site.jit_compile, site.run_eagerly
        interfaces = tuple(network.get_layer(name) for name in site.interfaces)
        reached = {id(interface): outputs for interface, outputs in zip(interfaces, site.reached)}
        common = Common(site.shares, site.ignored, reached, site.fits_losses)
        head = None if interfaces else network
        program = Program(Module(network, (), (), interfaces), site.needed, common, head)
        self._network, self._worker = network, ModuleWorker(program, site.optimizers, network)

    def prepare(self, batch: tuple[Nested, ...]) -> None:
        """Make the metrics for batches like this one, of which shapes and dtypes are given."""
        _keras.make_metrics(self._network, *batch)

    def load(self, values: Any) -> None:
        self._worker.load(values)

    def values(self) -> Any:
        return arrays(self._worker.values())

    def run(self, number: int, below: Any, feed: Any) -> Any:
        """As `ModuleWorker.run`; promises are arguments of their own, which Ray fetches."""
        return tuple(map(arrays, self._worker.run(number, below, feed)))

    def learn(self, ran: Any, number: int, target: Any) -> Any:
        """As `ModuleWorker.learn`."""
        return arrays(self._worker.learn(ran, number, target))

    def answers(self) -> bool:
        return True


def arrays(found: Nested) -> Nested:
    """The same in NumPy arrays, which travel between processes."""
    return keras.tree.map_structure(
        lambda leaf: ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else leaf, found
    )
