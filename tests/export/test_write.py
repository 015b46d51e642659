"""Formats that need no framework, each opened by its program in `examples/`; the choice and refusal of formats."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import EXAMPLES, TOLERANCE, example
from oracle_backend import OracleBackend

from ptycho_backends import builtin_backends
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, ExportError
from ptycho_backends.export import checking, formats
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import Reconstruction, TrainedModel


@pytest.fixture(scope="module")
def scan() -> Scan:
    bare = simulate_star(16, 40, seed=1)
    return dataclasses.replace(bare, pixel_size_m=12e-9, photon_energy_eV=8800.0, detector_distance_m=1.9)


@pytest.fixture(scope="module")
def model(scan: Scan) -> TrainedModel:
    config = TrainingConfig(model=ModelConfig(N=16, architecture="unrolled", gridsize=1), nepochs=1)
    return plan_training(scan, config, "torch").start


@pytest.fixture(scope="module")
def image(scan: Scan, model: TrainedModel) -> Reconstruction:
    return OracleBackend().infer(model, scan, stitching_size=8)


def covered(image: Reconstruction) -> Any:
    return image.coverage > 0


def test_every_format_has_a_consumer_of_at_most_thirty_lines() -> None:
    for one in formats.FORMATS.values():
        assert len((EXAMPLES / one.consumer).read_text().splitlines()) <= 30, one.consumer


@pytest.mark.parametrize("name", ["image.cxi", "image.nxs"])
def test_cxi(name: str, scan: Scan, image: Reconstruction, model: TrainedModel, tmp_path: Path) -> None:
    origin = {
        "config": model.config,
        "intensity_scale": 12.5,
        "settings": {"refinement.yaml": "passes: 3\n"},
    }
    written = OracleBackend().export(image, tmp_path / name, scan=scan, licence="CC-BY-4.0", origin=origin)
    found, mask, pixel_m, metadata = example("open_cxi.py").open_image(written)
    np.testing.assert_allclose(found, image.object, atol=TOLERANCE)
    np.testing.assert_array_equal(mask, covered(image))
    assert pixel_m == scan.pixel_size_m
    assert metadata["licence"] == "CC-BY-4.0"
    assert metadata["intensity_scale"] == 12.5
    assert metadata["config"]["model"]["architecture"] == "unrolled"
    assert metadata["settings"] == origin["settings"]


def test_nxcxi_ptycho_is_nexus_with_axes_in_metres(scan: Scan, image: Reconstruction, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(OracleBackend().export(image, tmp_path / "image.nxs", scan=scan)) as file:
        entry = file["entry_1"]
        assert entry["definition"].asstr()[()] == "NXcxi_ptycho"
        assert entry["object"].attrs["NX_class"] == "NXdata"
        assert entry["object"].attrs["signal"] == "phase"
        np.testing.assert_allclose(np.diff(entry["object/x"]), scan.pixel_size_m)
        assert entry["instrument_1/source_1/energy"][()] == scan.photon_energy_eV
        np.testing.assert_allclose(
            entry["sample_1/geometry_1/translation"][:, :2], image.group_centres_px * 12e-9, atol=1e-12
        )


def test_tiff(image: Reconstruction, tmp_path: Path) -> None:
    written = OracleBackend().export(image, tmp_path / "image.tif", licence="CC0")
    found, pixel_m, metadata = example("open_tiff.py").open_image(written)
    np.testing.assert_allclose(found[covered(image)], image.object[covered(image)], atol=TOLERANCE)
    assert np.isnan(found[~covered(image)]).all()
    assert pixel_m == pytest.approx(image.pixel_size_m, rel=1e-6)
    assert metadata["licence"] == "CC0"


def test_png(image: Reconstruction, tmp_path: Path) -> None:
    written = OracleBackend().export(image, tmp_path / "image.png")
    both = {"phase": (written, np.angle), "amplitude": (tmp_path / "image_amplitude.png", np.abs)}
    for page, (path, part) in both.items():
        found, pixel_m, metadata = example("open_png.py").open_image(path)
        want = part(image.object[covered(image)])
        np.testing.assert_allclose(found[covered(image)], want, atol=TOLERANCE * np.ptp(want))
        assert metadata["page"] == page
        assert pixel_m == image.pixel_size_m


def test_product(scan: Scan, image: Reconstruction, tmp_path: Path) -> None:
    written = OracleBackend().export(image, tmp_path / "image.h5", scan=scan)
    found, pixel_m, probe, metadata = example("open_product.py").open_image(written)
    here = found[covered(image)] if found.shape == image.object.shape else found
    assert pixel_m == scan.pixel_size_m
    assert metadata["kind"] == "image"
    assert probe.shape[-2:] == (16, 16)
    np.testing.assert_allclose(
        np.sort(np.abs(here[here != 1])), np.sort(np.abs(image.object[covered(image)])), atol=TOLERANCE
    )


def test_product_without_a_scan_is_refused(image: Reconstruction, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--scan"):
        OracleBackend().export(image, tmp_path / "image.h5")
    assert not list(tmp_path.iterdir())


def test_training_data(scan: Scan, tmp_path: Path) -> None:
    written = OracleBackend().export(scan, tmp_path / "scan.npz", licence="CC0")
    patterns, positions, probe, metadata = example("open_training.py").open_scan(written)
    np.testing.assert_allclose(patterns, scan.patterns, atol=TOLERANCE)
    np.testing.assert_allclose(positions, scan.scan_positions_px, atol=TOLERANCE)
    np.testing.assert_allclose(probe, scan.probe_guess, atol=TOLERANCE)
    assert metadata["licence"] == "CC0"


@pytest.mark.parametrize(
    ("path", "source", "format"),
    [
        ("a.onnx", "model", "onnx"),
        ("a.physics.onnx", "model", "onnx-physics"),
        ("wts.h5.zip", "model", "ptychopinn"),
        ("a.TIF", "image", "tiff"),
        ("a.h5", "image", "product"),
        ("a.npz", None, "training"),
    ],
)
def test_the_ending_names_the_format(path: str, source: str | None, format: str) -> None:
    assert formats.format_of(path, source).name == format


def test_refusals_name_what_is_wanted(image: Reconstruction, model: TrainedModel, tmp_path: Path) -> None:
    backend = OracleBackend()
    with pytest.raises(ExportError, match=r"--format.*\.onnx \(onnx\)"):
        backend.export(model, tmp_path / "model.bin")
    with pytest.raises(ExportError, match="'tiff' is written from an image, got a model"):
        backend.export(model, tmp_path / "a.tif", "tiff")
    with pytest.raises(ExportError, match="got 'jpeg', want one of onnx"):
        backend.export(image, tmp_path / "a.jpeg", "jpeg")


def test_a_missing_framework_is_refused_with_the_command(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = builtin_backends.BUILT_IN["tensorflow"]
    # importing a module that is None in sys.modules fails as a missing one does
    for name in [name for name in sys.modules if name.startswith("ptycho_backends.tensorflow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(BackendUnavailableError) as caught:
        OracleBackend().export(model, tmp_path / "m", "saved-model")
    assert entry.install in str(caught.value)
    assert "ptycho-backends export wts.h5.zip m --format saved-model" in str(caught.value)


def test_a_missing_module_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "is_importable", lambda module: module != "onnxruntime")
    with pytest.raises(ExportError, match=r"onnxruntime not installed; run: pip install '.*\[export\]'"):
        formats.FORMATS["onnx"].require_modules()


def test_a_file_that_computes_other_numbers_is_refused() -> None:
    want = {"phase": np.linspace(-3, 3, 9)}
    checking.require_agreement("ONNX", {"phase": want["phase"] + 2e-5}, want)
    # rounding of the model itself is no fault of the file
    checking.require_agreement("ONNX", {"phase": want["phase"] + 4e-5}, want, {"phase": want["phase"] + 1e-5})
    for wrong in (want["phase"] + 4e-5, np.full(9, np.nan)):
        with pytest.raises(ExportError, match="ONNX: phase of the exported file differs"):
            checking.require_agreement("ONNX", {"phase": wrong}, want)
