"""The command line in one of several processes."""

import pytest
from oracle_backend import FIGURES_OF_A_RUN, installed_alone
from typer.testing import CliRunner

from ptycho_backends.cli.commands import app
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    installed_alone(monkeypatch, *FIGURES_OF_A_RUN)


def run(npz, folder):
    """What `run` prints, one epoch of a small network."""
    options = ["-e", "1", "--filters", "1", "--set", "execution.strategy=ddp"]
    result = CliRunner().invoke(app, ["run", str(npz), "-o", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_of_several_processes_the_first_reports(tmp_path, monkeypatch):
    npz = save_scan(simulate_star(64, 40), tmp_path / "scan.npz")
    slurm = {
        "JOB_ID": 1, "NODEID": 0, "PROCID": 1, "LOCALID": 1, "STEP_ID": 0, "STEP_NUM_TASKS": 2,
        "STEP_TASKS_PER_NODE": 2, "STEP_NODELIST": "node1",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    said = run(npz, tmp_path / "second")
    assert not any(word in said for word in ("trained", "written", "correlation"))
    assert not any(path.is_file() for path in tmp_path.joinpath("second").rglob("*"))
    for name in ("PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    said = run(npz, tmp_path / "first")
    assert all(word in said for word in ("trained 1 epochs", "written to", "correlation"))
