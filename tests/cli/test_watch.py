"""The command `watch`: options, lines and files."""

import numpy as np
import pytest
from oracle_backend import OracleBackend, installed_alone
from typer.testing import CliRunner

from ptycho_backends.cli.commands import app
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 30, measurement="intensity")


@pytest.fixture
def watched(tmp_path, scan, monkeypatch):
    """A model and a folder of frames."""
    installed_alone(
        monkeypatch,
        "images.save_reconstruction_figure",
    )
    plan = plan_training(scan, TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1)), "oracle")
    OracleBackend().save(plan.start, tmp_path / "model" / "wts.h5.zip")
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, frame in enumerate(np.asarray(scan.patterns)):
        np.save(frames / f"{number}.npy", frame.astype(np.uint16))
    np.savetxt(
        frames / "positions.csv", scan.scan_positions_px, delimiter=",", header="x_px,y_px", comments=""
    )
    return tmp_path / "model", frames


def ptycho(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_watch_ends_when_nothing_comes(tmp_path, watched):
    model, frames = watched
    result = ptycho("watch", frames, "-m", model, "-o", tmp_path / "live", "--idle", 0.1, "--port", 0)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("the image is shown at http://127.0.0.1:")
    assert any(line.startswith("30 frames, ") and "(p95)" in line for line in lines)
    written = {path.name for path in (tmp_path / "live").iterdir()}
    assert written >= {"inference.yaml", "reconstruction.npz", "reconstruction.png", "live.json", "live.npz"}
    assert result.stdout.rstrip().endswith("live.npz")
    again = ptycho("watch", frames, "-m", model, "-o", tmp_path / "live", "--idle", 0.1, "--no-page")
    assert again.exit_code == 2
    assert "an earlier image" in again.stderr


def test_watch_refuses_options_of_a_finished_scan(tmp_path, watched):
    model, frames = watched
    result = ptycho("watch", frames, "-m", model, "-o", tmp_path / "live", "--leave-out", "3")
    assert result.exit_code == 2
    assert "leave_out: given" in result.stderr
    assert not (tmp_path / "live").exists()
