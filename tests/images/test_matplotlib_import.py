"""Figures are drawn whatever `MPLBACKEND` names; a backend that matplotlib has is respected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_INSTALLED = "module://a_notebook_of_another_environment.backend_inline"

DRAW = """
import os
from ptycho_backends.images.figures import save_history_figure
from ptycho_backends.values import EpochRecord
records = [EpochRecord(epoch, 2.0 / epoch, None, 1e-3, 0.1) for epoch in (1, 2)]
save_history_figure(records, "history.png")
import matplotlib, sys
print(os.environ["MPLBACKEND"], matplotlib.rcParams._get("backend"), sep="\\n")
assert "matplotlib.pyplot" not in sys.modules
"""


def run(code: str, backend: str, folder: Path) -> str:
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("backend", [NOT_INSTALLED, "no such backend"])
def test_a_backend_that_matplotlib_lacks_is_ignored(backend: str, tmp_path: Path) -> None:
    assert run(DRAW, backend, tmp_path).splitlines()[0] == backend
    assert (tmp_path / "history.png").stat().st_size > 0


def test_a_backend_that_matplotlib_has_is_kept(tmp_path: Path) -> None:
    assert run(DRAW, "svg", tmp_path).splitlines()[1] == "svg"


def test_matplotlib_imported_earlier_is_left_alone(tmp_path: Path) -> None:
    code = """
import matplotlib
matplotlib.use("pdf")
from ptycho_backends.images.matplotlib_import import import_matplotlib
import_matplotlib()
print(matplotlib.get_backend())
"""
    assert run(code, "svg", tmp_path) == "pdf"
