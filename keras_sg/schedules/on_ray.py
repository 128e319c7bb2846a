"""Side by side in processes: every module in a Ray actor of its own, on one machine or a cluster."""

import asyncio
import functools
import json
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sg import _keras
from keras_sg._modules import Program, common_of, part
from keras_sg._types import Config, Nested
from keras_sg.schedules.pipeline import Engine, Pipeline, Pipelined
from keras_sg.schedules.ray_host import Host, Site, arrays
from keras_sg.schedules.schedule import Runner
from keras_sg.schedules.ticks import Told

# Seconds after which a module that does not answer counts as dead, once something has failed.
ANSWERS_WITHIN = 5.0


class OnRay(Pipelined):
    """Every module in a Ray actor of its own, each at work on its own batch; on any backend.

    What is computed is what `keras_sg.schedules.SideBySide` computes. Ray places the actors, carries what
    passes between them and notices when one dies. Where Ray is not running, it is started on this machine; to
    use a cluster, call `ray.init(address=...)` first. Needs the extra `keras_sg[ray]`.

    Args:
        slack: integer of at least 0: messages travel `1 + slack` ticks, which hides a slow link.
        max_delay: None, or an integer of at least `2 (1 + slack)`: how many ticks after a module ran a target
            may be late. A target that is not there when it is due is not waited for then, and later ones than
            that are dropped.
        options: dictionary of what Ray is asked for each actor (`num_cpus`, `num_gpus`, `resources`, ...; by
            default nothing), or a list of them, one a module.
        cores: None, or a list with, for each module, the list of CPU cores that its process keeps to.
        delay: float, seconds for which every message between modules is held back: to try out on one machine
            what a slow link does, and which slack hides it.

    Attributes:
        actors: list of Ray's handles of the actors, one a module; empty until training begins.

    Raises:
        ValueError: an argument is not as described. Or, in `compile`: the model's modules cannot work side by
            side, or in other processes.
        ModuleNotFoundError: Ray is not installed.

    Example:

    ```python
    import keras, keras_sg

    schedule = keras_sg.schedules.OnRay(slack=1, options=[{"num_gpus": 1}, {"num_gpus": 1}])
    # model.compile("adam", "mse", schedule=schedule), and fit as ever
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2 (update unlocking); Moritz et al.
        2018, Ray, https://arxiv.org/abs/1712.05889.
    """

    name = "on_ray"

    def __init__(
        self,
        slack: int = 0,
        max_delay: int | None = None,
        options: Config | Sequence[Config] | None = None,
        cores: Sequence[Sequence[int]] | None = None,
        delay: float = 0.0,
    ) -> None:
        super().__init__(slack, max_delay)
        each = options if isinstance(options, (list, tuple)) else [options or {}]
        if not all(isinstance(one, dict) for one in each):
            raise ValueError(
                "`options` is a dictionary of what Ray is asked for each actor, or a list of them, one a "
                f"module. Received: options={options!r}."
            )
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or delay < 0:
            raise ValueError(
                "`delay` is for how many seconds a message is held back, a number of at least 0. Received: "
                f"delay={delay!r} (of type {type(delay).__name__})."
            )
        _ray()
        self.options, self.cores, self.delay = options, cores, float(delay)
        self.actors: list[Any] = []

    def check(self, model: keras.Model) -> None:
        super().check(model)
        modules = len(part(model))  # several interfaces may lie at one boundary
        for what, given in (("options", self.options), ("cores", self.cores)):
            if isinstance(given, (list, tuple)) and len(given) != modules:
                raise ValueError(
                    f"Model {model.name!r} parts into {modules} modules; give `{what}` one entry for each. "
                    f"Received: {len(given)} entries."
                )
        own = [
            name
            for name in ("compute_loss", "compute_metrics")
            if getattr(type(model), name) is not getattr(keras.Model, name)
        ]
        if own:
            raise ValueError(
                f"Model {model.name!r} (of type {type(model).__name__}) has {own} of its own, which "
                "the process of its last module does not know. Compile it with losses and metrics, or train "
                f"with schedule='in_turn'. Received: schedule={self.name!r} and {own}."
            )

    def start(self, model: keras.Model) -> Runner:
        self.check(model)
        ray = _ray()
        if not ray.is_initialized():
            with warnings.catch_warnings():
                # JAX, of every process that is started.
                warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
                ray.init(include_dashboard=False, log_to_driver=False)
        return Pipeline(model, self, _Actors(self).engine)


class _Actors:
    """The engine: actors as workers, Ray's object references as promises."""

    def __init__(self, schedule: OnRay) -> None:
        self._schedule, self._ray = schedule, _ray()
        self.engine = Engine(self._plan, self._fetch, self._is_there)

    def _plan(
        self, model: keras.Model, programs: list[Program], plans: list[Any]
    ) -> Callable[[], list["_Remote"]]:
        options: Any = self._schedule.options or {}
        cores = self._schedule.cores
        planned = []
        for k, (program, plan) in enumerate(zip(programs, plans)):
            own: Config = {**(options[k] if isinstance(options, (list, tuple)) else options)}
            kept = None if cores is None else list(cores[k])
            environment = {**own.pop("runtime_env", {})}
            environment["env_vars"] = {**_environment(kept), **environment.get("env_vars", {})}
            own = {"num_cpus": 0, "runtime_env": environment, **own}
            planned.append((own, _site(model, program, plan, kept)))
        return functools.partial(self._start, planned)

    def _start(self, planned: list[tuple[Config, Site]]) -> list["_Remote"]:
        ray, wire = self._ray, None
        if self._schedule.delay:
            wire = ray.remote(_Wire).options(num_cpus=0, max_concurrency=1000).remote(self._schedule.delay)
        self._schedule.actors = [
            ray.remote(Host).options(**options).remote(site) for options, site in planned
        ]
        return [
            _Remote(actor, wire, not site.interfaces)
            for actor, (_, site) in zip(self._schedule.actors, planned)
        ]

    def _is_there(self, promise: Any) -> bool:
        return bool(self._ray.wait([promise], timeout=0)[0])

    def _fetch(self, promise: Any) -> Any:
        try:
            return self._ray.get(promise)
        except self._ray.exceptions.RayError as error:
            dead = [k for k, actor in enumerate(self._schedule.actors) if self._is_dead(actor)]
            if not dead:
                raise
            raise RuntimeError(
                f"The process of module {' and '.join(map(str, dead))} of "
                f"{len(self._schedule.actors)} has died, and with it "
                "what the modules learned since the epoch began; the model has its weights from before. With "
                "keras.callbacks.BackupAndRestore, the same command goes on behind the last epoch. Received: "
                f"{error}"
            ) from error

    def _is_dead(self, actor: Any) -> bool:
        try:
            self._ray.get(actor.answers.remote(), timeout=ANSWERS_WITHIN)
        except self._ray.exceptions.RayActorError:
            return True
        except self._ray.exceptions.RayError:
            return False  # at work
        return False


class _Remote:
    """A worker that is an actor; see `keras_sg.schedules.ticks.Worker`."""

    def __init__(self, actor: Any, wire: Any, last: bool) -> None:
        self._actor, self._wire, self._last = actor, wire, last

    def prepare(self, batch: tuple[Nested, ...]) -> Any:
        if self._last:
            return self._actor.prepare.remote(
                keras.tree.map_structure(lambda x: None if x is None else _Like(x), tuple(batch))
            )
        return None

    def load(self, values: Any) -> Any:
        return self._actor.load.remote(arrays(values))

    def values(self) -> Any:
        return self._actor.values.remote()

    def tick(self, run: Any, learn: Any) -> Told:
        """In two calls: a batch is run, and told of, while the target may still be on its way."""
        told = Told(None, None, None)
        if run is not None:
            number, below, feed = run
            if feed.batch is not None:  # Keras's own losses and metrics, which these are, look at no inputs
                feed = feed._replace(batch=feed.batch._replace(x=None))
            told = Told(*self._actor.run.options(num_returns=3).remote(number, below, arrays(feed)))
            if self._wire is not None:
                above, target = map(self._wire.hold.remote, told[:2])
                told = Told(above, target, told.report)
        if learn is not None:
            told = told._replace(report=self._actor.learn.remote(told.report, *learn))
        return told


class _Wire:
    """Holds messages back, as a slow link does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def hold(self, message: Any) -> Any:
        await asyncio.sleep(self._seconds)
        return message


class _Like:
    """What has a tensor's shape and dtype."""

    def __init__(self, tensor: Any) -> None:
        self.shape, self.dtype = tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype)


def _environment(cores: list[int] | None) -> dict[str, str]:
    found = {"KERAS_BACKEND": keras.backend.backend()}
    if cores is not None:
        number = str(len(cores))
        found |= {"OMP_NUM_THREADS": number, "TF_NUM_INTRAOP_THREADS": number, "TF_NUM_INTEROP_THREADS": "1"}
        if len(cores) == 1:
            flags = os.environ.get("XLA_FLAGS", "")
            found["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return found


def _site(model: keras.Model, program: Program, plans: Any, cores: Sequence[int] | None) -> Site:
    common = common_of(model)
    compilation = dict(model.get_compile_config()) if program.last else {}
    kept = {
        name: compilation[name]
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics")
        if name in compilation
    }
    network = keras.saving.serialize_keras_object(program.network)
    return Site(
        network=network,
        interfaces=[interface.name for interface in program.module.interfaces],
        needed=program.needed,
        shares=common.shares,
        ignored=common.ignored,
        reached=[list(common.reached[id(interface)]) for interface in program.module.interfaces],
        fits_losses=common.fits_losses,
        compilation=kept,
        jit_compile=model.jit_compile,
        run_eagerly=model.run_eagerly,
        optimizers=plans,
        custom_objects=_custom_objects(program.network, network, kept),
        cores=cores,
        floatx=keras.config.floatx(),
    )


def _custom_objects(network: keras.Model, *configs: Any) -> dict[str, Any]:
    """What another process cannot know: what is registered and named in `configs`, and classes of layers."""
    text = json.dumps(configs)
    registered = {
        name: found
        for name, found in keras.saving.get_custom_objects().items()
        if not name.startswith("keras_sg>") and json.dumps(name) in text
    }
    classes = {type(layer) for layer in _keras.sublayers(network)}
    own = {
        found.__name__: found
        for found in classes
        if found.__module__.split(".")[0] not in ("keras", "keras_sg")
    }
    return registered | own


def _ray() -> Any:
    """Ray, which is an extra and takes a second to import."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "keras_sg.schedules.OnRay runs modules in actors of Ray, which is not installed: pip install "
            '"/path/to/keras_sg[ray]", with the path to the clone.'
        ) from error
    return ray
