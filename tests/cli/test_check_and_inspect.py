"""The commands `check` and `inspect`: findings, cures, and every file that the program writes."""

import dataclasses

import numpy as np
import pytest
from oracle_backend import OracleBackend
from typer.testing import CliRunner

from ptycho_backends import workflows
from ptycho_backends.cli.commands import app
from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.scans.product import save_product
from ptycho_backends.scans.product_scan import product_from_scan
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.scan_faults import FAULTS


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 40)


def ptycho(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_check_finds_writes_and_draws(tmp_path, scan):
    bad = save_scan(FAULTS["hot pixel"].spoil(FAULTS["unshifted"].spoil(scan)), tmp_path / "bad.npz")
    said = ptycho("check", bad, "--quick", "--picture", tmp_path / "bad.png", code=1)
    assert "error: the zero frequency is in the corner" in said
    assert "evidence: " in said
    assert f"ptycho-backends run {bad} --mask {tmp_path / 'bad_mask.npy'} --shift" in said.replace("\n", "")
    assert (tmp_path / "bad.png").is_file()
    ptycho("check", bad, "--quick", "--fix")
    fixed = load_scan(tmp_path / "bad_fixed.npz")
    assert not np.load(tmp_path / "bad_mask.npy").all()
    assert fixed.valid_pixels is not None
    assert "nothing found" in ptycho("check", tmp_path / "bad_fixed.npz", "--quick")
    # the options that were proposed do the same
    options = ("--mask", tmp_path / "bad_mask.npy", "--shift")
    assert "nothing found" in ptycho("check", bad, "--quick", *options)


def test_cures_are_options_of_reading(tmp_path, scan):
    path = save_scan(FAULTS["one stray"].spoil(scan), tmp_path / "scan.npz")
    assert "--leave-out 13" in ptycho("check", path, "--quick")
    assert "nothing found" in ptycho("check", path, "--quick", "--leave-out", 13)
    assert "39 of 64 x 64" in ptycho("inspect", path, "--leave-out", 13)
    assert "leave_out: got" in ptycho("inspect", path, "--leave-out", "x", code=2)
    assert "scale_positions: got" in ptycho("inspect", path, "--scale-positions", -1, code=2)


def test_inspect_opens_all_that_is_written(tmp_path, scan):
    known = dataclasses.replace(scan, pixel_size_m=1e-8, photon_energy_eV=8000.0, detector_distance_m=2.0)
    config = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), nepochs=1)
    backend, how = OracleBackend(), ExecutionConfig(enable_progress_bar=False)
    result = workflows.run(
        known, config, tmp_path / "run", backend=backend, execution=how, refine=RefinementConfig(passes=2),
        product=tmp_path / "product.h5",
    )  # fmt: skip
    save_product(product_from_scan(known), tmp_path / "known.h5")
    np.save(tmp_path / "mask.npy", np.ones((4, 4), bool))
    for path in (*result.files.values(), tmp_path / "known.h5", tmp_path / "mask.npy", result.output_dir):
        if path.suffix != ".png":
            assert ptycho("inspect", path).strip(), path
    said = ptycho("inspect", result.output_dir)
    assert "1 epochs" in said
    assert "resumes" in said
    assert "2 passes" in ptycho("inspect", result.files["reconstruction"])
    for name in ("reconstruction", "history"):
        ptycho("inspect", result.files[name], "--picture", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").is_file()
    ptycho("inspect", tmp_path / "mask.npy", "--picture", tmp_path / "mask.png", code=2)


def test_inspect_draws_a_scan(tmp_path, scan):
    path = save_scan(scan, tmp_path / "scan.npz")
    ptycho("inspect", path, "--picture", tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 10_000


def test_a_scan_that_is_certainly_wrong_is_not_trained_on(tmp_path, scan):
    path = save_scan(FAULTS["unshifted"].spoil(scan), tmp_path / "bad.npz")
    assert "--no-check" in ptycho("train", path, "-o", tmp_path / "run", "-e", 1, "--filters", 1, code=2)
    assert not (tmp_path / "run").exists()
