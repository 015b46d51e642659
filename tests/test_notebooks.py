"""The notebooks of the documentation run from top to bottom, and are committed without outputs."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path: Path) -> None:
    for cell in code_cells(path):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = ["".join(cell["source"]) for cell in code_cells(path)]
    for framework in ("torch", "tensorflow"):
        if any(f'"{framework}"' in source for source in sources):
            pytest.importorskip(framework)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(sources, 1):
        exec(compile(source, f"{path.name}, code cell {number}", "exec"), names)
    for number in plt.get_fignums():
        # drawn as Jupyter would: what can only fail then fails here
        plt.figure(number).savefig(tmp_path / f"figure{number}.png")
    plt.close("all")
