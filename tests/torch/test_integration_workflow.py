"""The commands of the port as users run them: train, save, load, reconstruct, each a process of its own."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.legacy.raw_data import RawData
from ptycho_backends.scans.scan_files import load_scan

SETTINGS = (
    "data: {C: 1, grid_size: [1, 1], n_subsample: 1}\n"
    "model: {C_model: 1, C_forward: 1, decoder_last_amp_channels: 1, n_filters_scale: 1}\n"
    "training: {epochs: 1, batch_size: 8, num_workers: 0, device: cpu}\n"
)


def python(*arguments, code=0):
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    return result


@pytest.mark.shared
def test_train_then_reconstruct(shared, tmp_path):
    real = load_scan(shared / "data" / "siemens_star_64.npz")
    scans = tmp_path / "scans"
    scans.mkdir()
    RawData(
        real.xcoords[:24], real.ycoords[:24], None, None, real.patterns[:24], real.probe_guess,
        measurement=real.measurement,
    ).to_file(scans / "scan.npz")  # fmt: skip
    settings = tmp_path / "settings.yaml"
    settings.write_text(SETTINGS)
    said = python(
        "ptycho_torch.train", "--ptycho_dir", scans, "--config", settings, "--disable_mlflow"
    ).stdout
    best = Path(said.splitlines()[-1])
    assert best.is_file()
    out = tmp_path / "out"
    python("ptycho_torch.inference", "--model_path", best, "--infer_dir", scans, "--output_dir", out)
    image = load_reconstruction(out / "reconstruction.npz").object
    assert np.isfinite(image).all()
    assert image.std() > 0
    assert (out / "reconstruction.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["ptycho_torch.train"], "required: --ptycho_dir"),
        (["ptycho_torch.train", "--ptycho_dir", "nowhere", "--disable_mlflow"], "error: nowhere"),
        (["ptycho_torch.inference"], "required: --output_dir"),
        (
            ["ptycho_torch.inference", "--output_dir", "x", "--test_data", "y"],
            "--model_path --run_id is required",
        ),
        (
            ["ptycho_torch.inference", "--model_path", "none.ckpt", "--test_data", "y", "--output_dir", "x"],
            "error: none.ckpt",
        ),
        (["ptycho_backends", "train"], "want a scan to train on"),
    ],
)
def test_what_is_missing_is_an_error(arguments, error, monkeypatch, capsys):
    module, *rest = arguments
    monkeypatch.setattr(sys, "argv", [module, *rest])
    monkeypatch.delitem(sys.modules, module, raising=False)  # another test may have imported it
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_the_library_itself_is_a_command():
    assert "train" in python("ptycho_backends", "--help").stdout
