"""Files exchanged with Ptychodus itself: what either writes the other reads, and both see the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ptychodus", reason="pip install ptychodus==1.7.0, to exchange files with it")

from ptychodus.api import io
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.diffraction import Polarization
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import LossValue, Product, ProductMetadata
from ptychodus.api.reconstruct import prepare_reconstruct_input
from ptychodus.plugins.training_data_file import (
    TrainingDataDiffractionFileReader,
    TrainingDataProductFileReader,
)

from ptycho_backends.scans import product as ours
from ptycho_backends.scans.product_scan import (
    product_from_reconstruction,
    product_from_scan,
    scan_from_product,
)
from ptycho_backends.scans.scan_files import export_training_data, load_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.values import Reconstruction

N = 64
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape) + 1j * RANDOM.normal(size=shape)


@pytest.fixture(scope="module")
def theirs() -> Product:
    """Everything that a product may have; indexes with a gap and a duplicate."""
    positions = [
        ProbePosition(index, 1e-6 + 1.3e-7 * n, -2e-6 - 0.7e-7 * n, probe_photon_count=100.0 + n)
        for n, index in enumerate([3, 4, 4, 6, 9])
    ]
    pixel = PixelGeometry(width_m=2e-8, height_m=2.5e-8)
    return Product(
        metadata=ProductMetadata(
            "näme", "comments", 1.5, 8000.0, 1e5, 0.1, 0.2, 0.3, 0.4, 0.5, Polarization.RIGHT_CIRCULAR, False
        ),
        probe_positions=ProbePositionSequence(positions),
        probes=ProbeSequence(normal(2, 3, N, N), RANDOM.normal(size=(5, 2)), pixel),
        object_=Object(normal(2, 90, 101), pixel, ObjectCenter(1.2e-6, -2.1e-6), [1e-6]),
        losses=[LossValue(0, 2.0), LossValue(1, 1.0)],
    )


@pytest.fixture(scope="module")
def patterns() -> AssembledDiffractionData:
    bad = np.zeros((N, N), bool)
    bad[10, 20:22] = bad[40, 5] = True
    counts = RANDOM.poisson(np.linspace(1, 90, N), (6, N, N)).astype(np.uint16)
    return AssembledDiffractionData(np.array([2, 3, 4, 5, 6, 9]), counts, PixelGeometry(75e-6, 75e-6), bad)


@pytest.fixture(scope="module")
def star():
    scan = simulate_star(N, 12)
    return dataclasses.replace(scan, pixel_size_m=2e-8, photon_energy_eV=8000.0, detector_distance_m=1.5)


def assert_alike(got: ours.Product, want: Product) -> None:
    """One product as either library has it."""
    for name in ("name", "comments", "photon_energy_eV", "probe_photon_count", "exposure_time_s",
                 "mass_attenuation_m2_per_kg", "tomography_angle_deg", "focus_object_distance_m",
                 "tilt_angle_deg", "polarization", "far_field"):  # fmt: skip
        assert getattr(got.metadata, name) == getattr(want.metadata, name), name
    assert got.metadata.detector_object_distance_m == want.metadata.detector_distance_m
    positions, geometry, probe = want.probe_positions, want.object_.get_geometry(), want.probes
    for one, other in (
        (got.position_indexes, positions.get_indexes()),
        (got.scan_positions_m[:, 0], positions.get_coordinates_x_m()),
        (got.scan_positions_m[:, 1], positions.get_coordinates_y_m()),
        (got.scan_positions_px[:, 0], geometry.map_probe_positions_to_object_x_px(positions)),
        (got.scan_positions_px[:, 1], geometry.map_probe_positions_to_object_y_px(positions)),
        (got.object, want.object_.get_array()),
        (got.object_centre_m, [geometry.center_x_m, geometry.center_y_m]),
        (got.object_pixel_size_m, [geometry.pixel_width_m, geometry.pixel_height_m]),
        (got.layer_spacing_m, want.object_.layer_spacing_m),
        (got.probe, probe.get_array()),
        (got.probe_pixel_size_m, [probe.get_pixel_geometry().width_m, probe.get_pixel_geometry().height_m]),
        (got.loss_epochs, [loss.epoch for loss in want.losses]),
        (got.loss_values, [loss.value for loss in want.losses]),
    ):
        np.testing.assert_array_equal(one, other)
    for one, other in (
        (got.opr_weights, probe.get_opr_weights_or_none()),
        (got.photon_counts, positions.get_probe_photon_counts()),
    ):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


def test_their_product_here_and_back(theirs, tmp_path):
    io.save_product(tmp_path / "theirs.h5", theirs)
    here = ours.load_product(tmp_path / "theirs.h5")
    assert_alike(here, theirs)
    assert_alike(here, io.load_product(ours.save_product(here, tmp_path / "ours.h5")))


def test_our_product_there(star, tmp_path):
    here = product_from_scan(star)
    there = io.load_product(ours.save_product(here, tmp_path / "ours.h5"))
    assert_alike(here, there)
    geometry = there.object_.get_geometry()
    x = geometry.map_probe_positions_to_object_x_px(there.probe_positions)
    np.testing.assert_allclose(x, star.xcoords, atol=1e-9)


def test_a_reconstruction_lies_where_ptychodus_puts_its_own(star, tmp_path):
    """Ptychodus centres its canvas on the middle of the positions; so is ours, in metres."""
    low, high = star.scan_positions_px.min(axis=0), star.scan_positions_px.max(axis=0)
    side = 80
    origin = (low + high) / 2 - side / 2
    image = np.full((side, side), 1j, np.complex64)
    reconstruction = Reconstruction(image, np.ones((side, side)), origin, star.scan_positions_px)
    here = product_from_reconstruction(reconstruction, star)
    there = io.load_product(ours.save_product(here, tmp_path / "ours.h5"))
    positions = there.probe_positions
    middle = [
        (values.min() + values.max()) / 2
        for values in (positions.get_coordinates_x_m(), positions.get_coordinates_y_m())
    ]
    centre = there.object_.get_center()
    np.testing.assert_allclose([centre.x_m, centre.y_m], middle, rtol=1e-12)
    np.testing.assert_array_equal(there.object_.get_layer(0), image)


def test_patterns_are_paired_and_filled_as_there(theirs, patterns, tmp_path):
    io.save_diffraction_data(tmp_path / "diffraction.h5", patterns)
    io.save_product(tmp_path / "product.h5", theirs)
    io.save_ptychopinn_training_data(tmp_path / "train.npz", prepare_reconstruct_input(patterns, theirs))
    scan = scan_from_product(ours.load_product(tmp_path / "product.h5"), tmp_path / "diffraction.h5")
    exported = load_scan(tmp_path / "train.npz")
    assert len(scan) == len(exported) == 5
    np.testing.assert_allclose(scan.scan_positions_px, exported.scan_positions_px, atol=1e-9)
    for name in ("patterns", "probe_guess", "object_guess"):
        np.testing.assert_array_equal(getattr(scan, name), getattr(exported, name))
    assert scan.patterns.dtype == np.uint16
    assert scan.measurement == exported.measurement == "intensity"


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32, np.float64])
def test_their_training_data_are_counts_whatever_the_dtype(theirs, patterns, dtype, tmp_path):
    given = dataclasses.replace(
        prepare_reconstruct_input(patterns, theirs),
        diffraction_patterns=prepare_reconstruct_input(patterns, theirs).diffraction_patterns.astype(dtype),
    )
    io.save_ptychopinn_training_data(tmp_path / "train.npz", given)
    io.save_training_data(tmp_path / "train.h5", given)
    npz, hdf5 = load_scan(tmp_path / "train.npz"), load_scan(tmp_path / "train.h5")
    for scan in (npz, hdf5):
        assert scan.measurement == "intensity"
        assert scan.patterns.dtype == dtype
        assert scan.probe_guess.shape == (N, N)
    for name in ("xcoords", "ycoords", "patterns", "probe_guess", "object_guess"):
        np.testing.assert_array_equal(getattr(npz, name), getattr(hdf5, name))
    assert (hdf5.photon_energy_eV, hdf5.detector_distance_m) == (8000.0, 1.5)


def test_our_training_data_there(star, tmp_path):
    path = Path(export_training_data(star, tmp_path / "train.h5"))
    product = TrainingDataProductFileReader().read(path)
    x = product.object_.get_geometry().map_probe_positions_to_object_x_px(product.probe_positions)
    np.testing.assert_allclose(x, star.xcoords, atol=1e-9)
    np.testing.assert_array_equal(product.object_.get_layer(0), star.object_guess)
    np.testing.assert_array_equal(product.probes.get_array()[0, 0], star.probe_guess)
    assert product.metadata.photon_energy_eV == 8000.0
    dataset = TrainingDataDiffractionFileReader().read(path)
    np.testing.assert_array_equal(dataset[0].get_patterns(), star.patterns)
    # far field: the detector's pixel follows from the object's, wavelength * distance / (N * pixel)
    pixel = dataset.get_metadata().detector_pixel_geometry.width_m
    assert pixel == pytest.approx(1.549803e-10 * 1.5 / (N * 2e-8), rel=1e-6)
