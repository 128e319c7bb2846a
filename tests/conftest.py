"""Two logical CPUs for the strategies, a clean Keras for every test."""

import gc
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Two devices for JAX; and programs that run for a moment are not worth optimizing for seconds. The older
# emitters compile in a third of the time, and what is compiled in one piece in two thirds of that.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
# JAX compiles a program once, not in every test and process that has it.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".pytest_cache/jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import pytest
import thorough

HERE = pathlib.Path(__file__).parent
BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


if BACKEND == "torch":
    import torch

    torch.set_num_threads(1)  # several make tiny networks many times slower on a busy machine


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    seen = set()
    for item in items:
        file = item.path.relative_to(HERE).as_posix()
        if thorough.left(file, item.nodeid.rpartition("::")[2].partition("[")[0], seen):
            item.add_marker("thorough")
        if "two_devices" in item.fixturenames:
            item.add_marker("tensorflow")
        if item.get_closest_marker("tensorflow") and BACKEND != "tensorflow":
            item.add_marker(pytest.mark.skip(reason=f"needs the TensorFlow backend, not {BACKEND}"))


@pytest.fixture(autouse=True)
def clean_keras():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    clear_session()


def clear_session():
    """Forget all models. What is left is not searched again: that takes longer than most tests."""
    keras.backend.clear_session()
    gc.freeze()


@pytest.fixture
def from_the_root(monkeypatch):
    """The examples and the benchmarks can be imported, as in the root of the repository."""
    monkeypatch.syspath_prepend(str(HERE.parent))


@pytest.fixture
def eager(monkeypatch):
    """Models that run eagerly: compiling them would take most of the time."""
    import keras_sg

    compile = keras_sg.DecoupledModel.compile

    def eagerly(model, *args, **options):
        eager = {"run_eagerly": True, "jit_compile": False, "steps_per_execution": 1}
        compile(model, *args, **(options | eager))

    monkeypatch.setattr(keras_sg.DecoupledModel, "compile", eagerly)


@pytest.fixture(scope="session")
def two_devices():
    """A MirroredStrategy over two logical CPUs.

    One for the whole session: TensorFlow numbers the collective operations of every strategy
    from the same start, and those of a second one meet what is left of the first.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def data_parallel():
    """Batches spread over two CPU devices of JAX."""
    if BACKEND != "jax":
        pytest.skip(f"keras.distribution needs the JAX backend, not {BACKEND}")
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    yield
    keras.distribution.set_distribution(None)
