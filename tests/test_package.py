"""What is installed, and what importing it costs."""

import ast
import email
import graphlib
import importlib.util
import os
import pathlib
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile

import pytest
import thorough

import keras_sg

ROOT = pathlib.Path(__file__).parent.parent
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
NEEDED_TO_BUILD = ["hatchling", "hatch_fancy_pypi_readme"]
LINK = re.compile(r"(!?)\[[^]]*\]\(([^)]*)\)")


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skip_unless_it_can_be_built():
    missing = [name for name in NEEDED_TO_BUILD if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"what builds the package is not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    skip_unless_it_can_be_built()
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--wheel-dir", folder, *OFFLINE)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Its path."""
    skip_unless_it_can_be_built()
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (path,) = folder.iterdir()
    return path


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


def test_what_an_index_shows_has_links_that_lead_into_the_repository(wheel):
    """Those of README.md, at this version, with the address from one place; the rest is README.md."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    head, _, shown = wheel.read(name).decode().partition("\n\n")
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f"\nProject-URL: Repository, {address}\n" in head
    assert "\nDescription-Content-Type: text/markdown" in head

    readme = (ROOT / "README.md").read_text()
    links = LINK.findall(readme)
    assert {picture for picture, _ in links} == {"", "!"}
    for (picture, target), (_, absolute) in zip(links, LINK.findall(shown), strict=True):
        if not target.startswith(("https://", "#")):
            assert (ROOT / target.partition("#")[0]).is_file()
            target = f"{address}/{'raw' if picture else 'blob'}/v{keras_sg.__version__}/{target}"
        assert absolute == target
    assert LINK.sub("", shown) == f"{LINK.sub('', readme)}\nRepository: {address}"


def test_the_sdist_holds_what_its_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        held = {pathlib.PurePath(*pathlib.PurePath(name).parts[1:]) for name in archive.getnames()}
    folders = [".ci", "benchmarks", "docs", "examples", "keras_sg", "tests"]
    wanted = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    wanted |= {path for path in ROOT.glob("*.*") if path.suffix in {".cff", ".md", ".toml", ".yaml"}}
    wanted |= {ROOT / "LICENSE", ROOT / "Makefile"}
    missing = {path for path in wanted if path.relative_to(ROOT) not in held}
    assert not {path for path in missing if "__pycache__" not in path.parts}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_from_a_file(kind, request, tmp_path):
    """Into an environment of its own, which borrows from this one what the package needs."""
    given = request.getfixturevalue(kind)
    file = given.filename if kind == "wheel" else given
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    scheme = {"base": str(tmp_path), "platbase": str(tmp_path)}
    own = pathlib.Path(sysconfig.get_path("purelib", "venv", scheme))
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    python = pathlib.Path(sysconfig.get_path("scripts", "venv", scheme), pathlib.Path(sys.executable).name)
    run(sys.executable, "-m", "pip", "--python", python, "install", file, *OFFLINE)
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = run(python, ROOT / "tests" / "installed.py", cwd=tmp_path, env=elsewhere)
    assert said.strip().endswith(f"trained and saved by {own / 'keras_sg'}")


def test_files_that_name_the_version_agree():
    version = re.escape(keras_sg.__version__)
    changes, citation = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff"))
    (date,) = re.findall(rf"^## \[{version}\] - (\d{{4}}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)[:2] == ["Unreleased", keras_sg.__version__]
    assert f"\nversion: {keras_sg.__version__}\ndate-released: {date}\n" in citation


def test_what_may_be_released():
    problems = runpy.run_path(str(ROOT / ".ci" / "check_release.py"))["problems"]
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    tag = f"v{keras_sg.__version__}"
    assert problems(tag, address) == []
    (wrong_tag,) = problems(keras_sg.__version__, address)
    assert f"version.py, '{tag}'. Received: '{keras_sg.__version__}'." in wrong_tag
    (wrong_address,) = problems(tag, "https://elsewhere.example/keras_sg")
    said = rf"Repository in \[project.urls\].*'https://elsewhere.*Received: '{re.escape(address)}'"
    assert re.search(said, wrong_address)
    assert len(problems("", "")) == 2
    command = [sys.executable, ROOT / ".ci" / "check_release.py", tag]
    assert run(*command, address) == ""
    refused = subprocess.run([*command, address + "x"], capture_output=True, text=True)
    assert refused.returncode == 1 and "Repository in [project.urls]" in refused.stderr


def test_pre_commit_runs_the_linters_of_make_test():
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    linters = re.findall(r"^\t\$\(BIN\)/((?:ruff|mypy) .+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(hooks) == 3
    # pre-commit names the files, and what a formatter changes is not committed.
    assert hooks == [line.removesuffix(" .").replace(" --check", "") for line in linters]


def test_the_workflow_makes_what_ci_run_makes():
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    if not workflow.exists():
        pytest.skip("an sdist holds no workflows")
    script, lines = (path.read_text() for path in (ROOT / ".ci" / "run", workflow))
    targets = re.findall(r"^make .+$", script, re.MULTILINE)
    assert "make test" in targets
    assert targets == re.findall(r"- run: (make .+)", lines)


def test_importing_it_imports_nothing_that_is_asked_for_later():
    """Keras itself imports some of these where it finds them, so they are hidden, not looked for."""
    heavy = ["matplotlib", "keras_tuner", "tensorflow_datasets", "sklearn", "tensorboard"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy})); import keras_sg; print(keras_sg.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = run(sys.executable, "-c", code, env=environment)
    assert said.strip() == str(ROOT / "keras_sg" / "__init__.py")


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
