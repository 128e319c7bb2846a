"""The notebook runs, from anywhere, and its figures come out."""

import base64
import pathlib

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.tensorflow
ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "walkthrough.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert NOTEBOOK.stat().st_size < 20_000


def test_it_runs(notebook, tmp_path, monkeypatch):
    # The kernel is a process of its own; it finds this keras_sg wherever it starts.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    figures = [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    assert len(figures) == 3 and all(f.startswith(b"\x89PNG") and len(f) > 5000 for f in figures)
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    accuracy = float(printed.rsplit("test accuracy ", 1)[1].split()[0])
    assert accuracy > 0.9 and (tmp_path / "digits.keras").exists()
