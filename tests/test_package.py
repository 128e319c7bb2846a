"""What is installed, and what importing it costs."""

import ast
import email
import graphlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest
import thorough

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--wheel-dir", str(folder)]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run([*command, *offline], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if not name.endswith("/")}
    package = {name for name in names if name.startswith("keras_sg/")}
    ours = {p for p in (ROOT / "keras_sg").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert package == {str(path.relative_to(ROOT)) for path in ours}
    assert "keras_sg/py.typed" in package
    (info,) = {name.split("/")[0] for name in names - package}
    assert info.startswith("keras_sg-") and info.endswith(".dist-info")
    licence = wheel.read(f"{info}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes() and b"Apache License" in licence


def test_the_wheel_needs_keras_and_numpy_only(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(needed) == ["keras>=3.15", "numpy"]
    assert metadata["Requires-Python"] == ">=3.11" and metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) >= {
        "tensorflow",
        "jax",
        "examples",
        "tune",
        "docs",
        "test",
    }


def test_importing_it_imports_nothing_that_is_asked_for_later():
    """Keras itself imports some of these where it finds them, so they are hidden, not looked for."""
    heavy = ["matplotlib", "keras_tuner", "tensorflow_datasets", "sklearn", "tensorboard"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy})); import keras_sg; print(keras_sg.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "keras_sg" / "__init__.py")


def imports(name, source, modules):
    """The modules that a module imports, also inside functions.

    Args:
        name: the module.
        source: its source.
        modules: names of all modules; what else is imported is left out.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative path"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & modules or {node.module}
    return found & modules


def circle(sources):
    """A circle in which modules import each other, None where there is none; from {name: source}."""
    graph = {name: imports(name, source, sources.keys()) for name, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]


@pytest.fixture(scope="module")
def sources():
    """The source of each module of the package, by its name."""
    paths = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "keras_sg").rglob("*.py")}
    return {
        ".".join(path.parts).removesuffix(".__init__"): (ROOT / path).with_suffix(".py").read_text()
        for path in paths
    }


def test_no_modules_import_each_other(sources):
    assert circle(sources) is None


def arrows(sources):
    """By room (what lies in the package itself), the other rooms that its modules import."""
    found = {}
    for name, source in sources.items():
        if "." in name:
            room = name.split(".")[1]
            others = {other.split(".")[1] for other in imports(name, source, sources.keys()) if "." in other}
            found.setdefault(room, set()).update(others - {room})
    return found


def drawn(text):
    """The map in a text: pairs of the rooms of a row and those that they import, from the ground up."""
    rows = re.findall(r"^\| (`.*?) \|.*\| (.*?) ?\|$", text, re.MULTILINE)
    return [tuple(re.findall(r"`(\w+)`", cell) for cell in row) for row in rows]


def test_the_map_is_the_house(sources):
    rows = drawn((ROOT / "CONTRIBUTING.md").read_text())
    allowed = {room: set(below) for rooms, below in rows for room in rooms}
    ground, built = set(list(allowed)[:3]), arrows(sources)
    assert {room: below - ground for room, below in built.items()} == allowed
    assert all(built[room] <= ground for room in ground)
    seen = set()
    for rooms, below in rows:
        seen |= set(rooms)
        assert set(below) <= seen, f"{rooms} import what lies above them"


def test_examples_and_benchmarks_import_what_is_public(sources):
    for path in [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        found = imports(path.name, path.read_text(), sources.keys())
        assert not [name for name in found if "._" in name], path


def test_what_a_map_is():
    text = "| room | imports |\n|---|---|\n| `a`, `b` | one and two | |\n| `c` | three | `a`, `b` |\n"
    assert drawn(text) == [(["a", "b"], []), (["c"], ["a", "b"])]
    houses = {
        "k": "",
        "k.a": "import k.b.x",
        "k.b": "",
        "k.b.x": "from k import c",
        "k.c": "from k.c import d",
    }
    assert arrows(houses) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_what_a_circle_is():
    below = {"a": "import b", "b": "from c import d, e", "c": "", "c.d": "", "c.e": "import os"}
    assert circle(below) is None
    for closing in ("import a", "def f():\n    from b import x", "if f:\n    from a import x"):
        assert {"a", "b"} & set(circle(below | {"c.e": closing}))


def test_what_is_left_to_the_thorough_run_exists():
    functions = {
        path.relative_to(ROOT / "tests").as_posix(): {
            node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
        }
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    left = {f"{file}::{name}" for file, names in thorough.SLOW.items() for name in names}
    known = {f"{file}::{name}" for file, names in functions.items() for name in names}
    assert left - known == set()
    assert thorough.EVERY_CASE - known - set(functions) == set()


def test_the_first_case_of_what_is_not_slow_stays():
    seen = set()
    assert not thorough.left("test_a.py", "test_b", seen)
    assert thorough.left("test_a.py", "test_b", seen)
    assert not any(thorough.left("test_errors.py", "test_arguments", seen) for _ in range(2))
    assert thorough.left("test_examples.py", "test_a_killed_process_goes_on", set())
