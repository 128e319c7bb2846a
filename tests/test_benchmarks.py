"""The benchmarks run and write what they measured; how fast anything is, is not tested."""

import importlib
import json
import pathlib

import pytest

pytestmark = pytest.mark.tensorflow


def test_update_period(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent))
    module = importlib.import_module("benchmarks.update_period")
    module.main(["--steps", "2", "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["medians_ms"]) == {"learning", "resting", "backprop"}
    ratio = found["medians_ms"]["resting"] / found["medians_ms"]["learning"]
    assert found["ratios"]["resting / learning"] == pytest.approx(ratio)
    with pytest.raises(SystemExit):
        module.main(["--steps", "1"])
    assert "--steps must be at least 2. Received: 1" in capsys.readouterr().err
