"""Ptychodus's files without Ptychodus: products, patterns, training data; in, out, damaged."""

import dataclasses
import logging
import random

import h5py
import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends import workflows
from ptycho_backends.config import ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.errors import OutputError, ScanError, ShapeError
from ptycho_backends.files.datasets_hdf5 import write_datasets
from ptycho_backends.images.stitching import stitch
from ptycho_backends.scans.product import (
    Product,
    ProductMetadata,
    load_diffraction,
    load_product,
    save_product,
)
from ptycho_backends.scans.product_scan import (
    filled,
    product_from_reconstruction,
    product_from_scan,
    scan_from_product,
)
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import export_training_data, load_scan, save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.scans.training_data import load_training_hdf5, save_training_hdf5
from ptycho_backends.values import EpochRecord, Reconstruction

RANDOM = np.random.default_rng(0)
GEOMETRY = {"pixel_size_m": 2e-8, "photon_energy_eV": 8000.0, "detector_distance_m": 1.5}


def normal(*shape):
    return RANDOM.normal(size=shape) + 1j * RANDOM.normal(size=shape)


def product(**changes):
    values = {
        "metadata": ProductMetadata(1.5, 8000.0, name="näme", comments="two\nlines", tilt_angle_deg=-3.0,
                                    polarization="left_circular", far_field=False),
        "scan_positions_m": np.array([[0.0, 1e-7], [2e-7, -1e-7], [3e-7, 5e-8]]),
        "object": normal(2, 31, 40),
        "object_centre_m": np.array([1e-6, -2e-6]),
        "object_pixel_size_m": np.array([2e-8, 3e-8]),
        "probe": normal(2, 3, 16, 16).astype(np.complex64),
        "probe_pixel_size_m": np.array([2e-8, 2.5e-8]),
        "position_indexes": np.array([4, 5, 9]),
        "layer_spacing_m": np.array([1e-6]),
        "opr_weights": RANDOM.normal(size=(3, 2)),
        "photon_counts": np.array([1.0, 2.0, 3.0]),
        "loss_epochs": np.array([0, 1]),
        "loss_values": np.array([1.0, np.nan]),
    }  # fmt: skip
    return Product(**{**values, **changes})


def assert_same(got, want):
    assert got.metadata == want.metadata
    for field in dataclasses.fields(want):
        one, other = getattr(got, field.name), getattr(want, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other


@pytest.fixture(scope="module")
def star():
    return dataclasses.replace(simulate_star(64, 40), **GEOMETRY)


# --- products


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"opr_weights": None, "photon_counts": None, "object": normal(9, 8).astype(np.complex64),
         "probe": normal(4, 4), "layer_spacing_m": [], "loss_epochs": [], "loss_values": [],
         "position_indexes": None, "probe_pixel_size_m": None, "metadata": ProductMetadata(1.0, 500.0)},
    ],
    ids=["everything", "the least"],
)  # fmt: skip
def test_a_product_comes_back(tmp_path, changes):
    saved = product(**changes)
    assert_same(load_product(save_product(saved, tmp_path / "product.h5")), saved)


def test_names_of_earlier_versions_are_read(tmp_path):
    path = save_product(product(), tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["probe_energy_eV"] = file.attrs.pop("photon_energy_eV")
        file["costs"] = file["loss_values"][()]
        for name in ("loss_values", "loss_epochs", "object_layer_spacing_m"):
            del file[name]
        one_layer = file["object"][0]
        attributes = dict(file["object"].attrs)
        del file["object"]
        file["object"] = one_layer
        file["object"].attrs.update(attributes)
        file["probe"].attrs.clear()
        file.attrs["polarization"] = "none known"
    got = load_product(path)
    assert got.metadata.photon_energy_eV == 8000.0
    assert got.metadata.polarization is None
    np.testing.assert_array_equal(got.loss_epochs, [0, 1])
    np.testing.assert_array_equal(got.probe_pixel_size_m, got.object_pixel_size_m)
    assert got.object.shape == (1, 31, 40)


def test_what_is_unknown_is_0_or_nan(star, tmp_path):
    path = save_product(product(), tmp_path / "product.h5")
    with h5py.File(path, "r+") as file:
        for name in ("detector_object_distance_m", "photon_energy_eV", "exposure_time_s"):
            file.attrs[name] = np.nan
        file["probe"].attrs["pixel_width_m"] = np.nan
    got = load_product(path)
    assert (got.metadata.detector_object_distance_m, got.metadata.photon_energy_eV) == (0.0, 0.0)
    np.testing.assert_array_equal(got.probe_pixel_size_m, got.object_pixel_size_m)
    path = save_training_hdf5(star, tmp_path / "training.h5")
    with h5py.File(path, "r+") as file:
        file["photon_energy_eV"][()], file["detector_object_distance_m"][()] = np.nan, 0.0
    scan = load_scan(path)
    assert (scan.photon_energy_eV, scan.detector_distance_m) == (None, None)


@pytest.mark.parametrize("sides", [{}, {"detector_pixel_width_m": 0.0, "detector_pixel_height_m": 0.0}])
def test_patterns_of_early_versions(sides, tmp_path):
    arrays = {"patterns": RANDOM.poisson(5.0, (3, 16, 16)), "indexes": np.arange(3)}
    got = load_diffraction(write_datasets(tmp_path / "diffraction.h5", arrays, {"patterns": sides}))
    assert got.detector_pixel_size_m is None
    assert not got.bad_pixels.any()


def test_positions_in_pixels():
    one = product()
    centre = dataclasses.replace(
        one, scan_positions_m=one.object_centre_m[None] + [[0, 0], [2e-8, 6e-8], [0, 0]]
    )
    np.testing.assert_allclose(centre.scan_positions_px[:2], [[19.5, 15.0], [20.5, 17.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"scan_positions_m": np.empty((0, 2))}, ScanError, "want at least one"),
        ({"scan_positions_m": np.full((3, 2), np.nan)}, ShapeError, "NaN"),
        ({"object": np.ones((2, 3, 3))}, ShapeError, "want complex numbers"),
        ({"object": normal(2)}, ShapeError, "object: got 1 axes"),
        ({"layer_spacing_m": []}, ScanError, "0 spacings for 2 layers"),
        ({"object_pixel_size_m": [0.0, 1e-8]}, ScanError, "want lengths > 0"),
        ({"opr_weights": np.ones((3, 5))}, ShapeError, "opr_weights"),
        ({"position_indexes": [1, 2]}, ShapeError, "probe_position_indexes"),
        ({"loss_values": [1.0]}, ShapeError, "loss_values"),
    ],
)  # fmt: skip
def test_impossible_products_are_refused(changes, error, text):
    with pytest.raises(error, match=text):
        product(**changes)


def test_impossible_metadata_are_refused():
    with pytest.raises(ScanError, match="photon_energy_eV: got nan"):
        ProductMetadata(1.0, float("nan"))
    with pytest.raises(ScanError, match="polarization: got 'up'"):
        ProductMetadata(1.0, 1.0, polarization="up")


# --- scans


def test_a_scan_becomes_a_product_and_a_scan_again(star, tmp_path):
    made = load_product(save_product(product_from_scan(star), tmp_path / "p.h5"))
    assert made.metadata.name == star.name
    assert made.metadata.probe_photon_count == pytest.approx(1e5, rel=0.05)
    again = scan_from_product(made, star.patterns)
    np.testing.assert_allclose(again.scan_positions_px, star.scan_positions_px, atol=1e-9)
    for name in ("patterns", "probe_guess", "object_guess", "scan_index"):
        np.testing.assert_array_equal(getattr(again, name), getattr(star, name))
    assert {name: getattr(again, name) for name in GEOMETRY} == pytest.approx(GEOMETRY)
    assert again.measurement == "intensity"


def test_what_a_product_needs_is_named(star):
    with pytest.raises(ScanError, match="needs pixel_size_m, photon_energy_eV, detector_distance_m"):
        product_from_scan(simulate_star(64, 5))
    with pytest.raises(ScanError, match="needs pixel_size_m, which"):
        product_from_scan(simulate_star(64, 5), ProductMetadata(1.0, 8000.0))


def test_an_unknown_object_is_a_canvas_of_ones(star):
    unknown = dataclasses.replace(star, object_guess=None, object_mask=None)
    made = product_from_scan(unknown)
    positions = made.scan_positions_px
    height, width = made.object.shape[1:]
    # every patch lies inside, and the middle of the positions in the middle
    assert positions.min() >= 31.5 - 1e-9
    assert (positions.max(axis=0) <= np.array([width, height]) - 32.5 + 1e-9).all()
    np.testing.assert_allclose(
        (positions.min(axis=0) + positions.max(axis=0)) / 2, [(width - 1) / 2, (height - 1) / 2]
    )
    assert scan_from_product(made, star.patterns).object_guess is None


@pytest.mark.parametrize("sides", [(20, 20), (33, 40)])
def test_a_reconstruction_lies_where_its_patches_do(star, sides):
    """A bright middle of each patch appears at the patches' positions in the world."""
    centres = np.array([[50.0, 60.0], [50.0 + sides[0], 60.0 + sides[1]]])
    patches = np.zeros((2, 64, 64, 1), np.complex64)
    patches[:, 31:33, 31:33] = 1  # around the middle of the patch, which Ptychodus calls its position
    image, coverage, origin = stitch(patches, centres[:, None, :, None], 20)
    reconstruction = Reconstruction(image, coverage, origin, centres)
    history = [EpochRecord(1, 3.0, None, 1e-3, 0.1), EpochRecord(2, 2.0, None, 1e-3, 0.1)]
    made = product_from_reconstruction(reconstruction, star, history=history)
    bright = np.where(coverage > 0, np.abs(made.object[0]), 0)
    row, column = (np.sum(axis * bright) / bright.sum() for axis in np.indices(bright.shape))
    place = made.object_centre_m + (np.array([column, row]) - (np.array(image.shape[::-1]) - 1) / 2) * 2e-8
    np.testing.assert_allclose(place, centres.mean(axis=0) * 2e-8, rtol=1e-6)
    np.testing.assert_array_equal(made.loss_values, [3.0, 2.0])
    assert (made.object[0][coverage == 0] == 1).all()
    # in another frame of the world, the same
    here, by = product_from_scan(star), np.array([1e-6, -2e-6])
    shifted = dataclasses.replace(here, object_centre_m=here.object_centre_m + by)
    moved = shifted.with_reconstruction(reconstruction)
    np.testing.assert_allclose(moved.object_centre_m - made.object_centre_m, by)


def test_patterns_and_positions_are_paired_by_index(tmp_path, caplog):
    patterns = RANDOM.poisson(5.0, (5, 16, 16)).astype(np.uint16)
    path = tmp_path / "diffraction.h5"
    write_datasets(
        path,
        {"patterns": patterns, "indexes": np.array([3, 4, 5, 7, 9]), "bad_pixels": np.zeros((16, 16), bool)},
        {"patterns": {"detector_pixel_width_m": 75e-6, "detector_pixel_height_m": 76e-6}},
        compression="lzf",
    )
    np.testing.assert_array_equal(load_diffraction(path).detector_pixel_size_m, [75e-6, 76e-6])
    one = product(position_indexes=[4, 9, 9], layer_spacing_m=[], object=normal(31, 40))
    scan = scan_from_product(one, path)
    np.testing.assert_array_equal(scan.scan_index, [4, 5, 7, 9])
    np.testing.assert_array_equal(scan.patterns, patterns[1:])
    first, last = one.scan_positions_px[0], one.scan_positions_px[1:].mean(axis=0)
    want = [first + fraction * (last - first) for fraction in (0.0, 0.2, 0.6, 1.0)]
    np.testing.assert_allclose(scan.scan_positions_px, want)
    assert "1 patterns without one" in caplog.text
    assert scan.pixel_size_m is None
    with pytest.raises(ScanError, match=r"patterns 3 \.\. 9 for positions 20 \.\. 22"):
        scan_from_product(dataclasses.replace(one, position_indexes=np.array([20, 21, 22])), path)


def test_bad_pixels_are_filled_from_their_neighbours():
    smooth = np.add.outer(np.arange(3.0) * 100, np.add.outer(np.arange(16.0), np.arange(16.0)) * 10)
    bad = np.zeros((16, 16), bool)
    bad[5, 7] = bad[10, 2:4] = True
    damaged = np.where(bad, 60000, smooth).astype(np.uint16)
    got = filled(damaged, bad)
    assert got.dtype == np.uint16
    assert np.abs(got.astype(float) - smooth).max() <= 2
    np.testing.assert_array_equal(got[:, ~bad], damaged[:, ~bad])


# --- training data


def test_training_data_come_back(star, tmp_path):
    got = load_scan(export_training_data(star, tmp_path / "train.h5"))
    np.testing.assert_array_equal(got.scan_positions_px, star.scan_positions_px)
    for name in ("patterns", "probe_guess", "object_guess"):
        np.testing.assert_array_equal(getattr(got, name), getattr(star, name))
    assert got.patterns.dtype == star.patterns.dtype
    assert {name: getattr(got, name) for name in GEOMETRY} == GEOMETRY


def test_amplitudes_are_exported_as_counts(star, tmp_path):
    amplitude = dataclasses.replace(
        star, patterns=np.sqrt(star.patterns.astype(np.float64)), measurement="amplitude", object_guess=None,
        object_mask=None,
    )  # fmt: skip
    got = load_training_hdf5(save_training_hdf5(amplitude, tmp_path / "train.h5"))
    assert got.measurement == "intensity"
    np.testing.assert_allclose(got.patterns, star.patterns, rtol=1e-6)
    assert got.object_guess is None


def test_export_goes_by_the_suffix(star, tmp_path):
    got = load_scan(export_training_data(star, tmp_path / "train.npz"))
    assert {name: getattr(got, name) for name in GEOMETRY} == GEOMETRY
    with pytest.raises(OutputError, match=r"got suffix '\.xyz', want one of \.npz"):
        export_training_data(star, tmp_path / "train.xyz")


def ptychodus_npz(path, **changes):
    entries = {
        "xcoords": [20.0, 22.5], "ycoords": [20.0, 21.0], "xcoords_start": [20.0, 22.5],
        "ycoords_start": [20.0, 21.0], "diff3d": np.full((2, 16, 16), 9, np.float32),
        "bad_pixels": np.zeros((16, 16), bool), "probeGuess": normal(2, 16, 16),
        "objectGuess": normal(40, 40), "scan_index": [0, 0],
    }  # fmt: skip
    np.savez(path, **{key: value for key, value in {**entries, **changes}.items() if value is not None})
    return path


def test_ptychodus_counts_may_be_floating_point(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = ptychodus_npz(tmp_path / "train.npz")
    scan = load_scan(path)
    assert scan.measurement == "intensity"
    assert "Ptychodus" in caplog.text
    np.testing.assert_array_equal(scan.diffraction_amplitude(), np.full((2, 16, 16), 3))
    assert scan.probe_guess.shape == (16, 16)
    assert load_scan(path, measurement="amplitude").measurement == "amplitude"
    # without its mark it is anybody's file, and fractions mean amplitude
    fractions = np.full((2, 16, 16), 9.5, np.float32)
    other = ptychodus_npz(tmp_path / "other.npz", bad_pixels=None, diff3d=fractions)
    assert load_scan(other).measurement == "amplitude"


def test_an_object_of_ones_is_none(tmp_path):
    ones = ptychodus_npz(tmp_path / "train.npz", objectGuess=np.ones((40, 40), complex))
    assert load_scan(ones).object_guess is None
    assert load_scan(ptychodus_npz(tmp_path / "known.npz")).object_guess is not None


def test_other_hdf5_files_are_told_apart(star, tmp_path):
    with pytest.raises(ScanError, match="a Ptychodus product, which holds no patterns; put its"):
        load_scan(save_product(product(), tmp_path / "product.h5"))
    write_datasets(tmp_path / "d.h5", {"patterns": np.ones(3), "indexes": np.arange(3)}, {})
    with pytest.raises(ScanError, match="patterns without positions"):
        load_scan(tmp_path / "d.h5")
    write_datasets(tmp_path / "x.hdf5", {"weights": np.ones(3)}, {})
    with pytest.raises(ScanError, match=r"HDF5 of another layout, which holds weights"):
        load_scan(tmp_path / "x.hdf5")
    with pytest.raises(ScanError, match="object missing; the file holds weights"):
        load_product(tmp_path / "x.hdf5")


# --- the verbs


def test_a_run_writes_a_product(star, tmp_path, monkeypatch):
    for picture in ("images.save_reconstruction_figure", "training.save_history_figure"):
        monkeypatch.setattr(f"ptycho_backends.workflows.{picture}", lambda _, path, *__: path)
    config = TrainingConfig(model=ModelConfig(N=0, n_filters_scale=1), nepochs=1, n_groups=40)
    result = workflows.run(
        star, config, tmp_path / "run", backend=OracleBackend(), product=tmp_path / "made" / "out.h5"
    )
    written = load_product(result.files["product"])
    assert written.object.shape[1:] == result.reconstruction.object.shape
    assert len(written) == len(star)
    assert len(written.loss_values) == len(result.model.history)
    vague = dataclasses.replace(star, photon_energy_eV=None)
    with pytest.raises(ScanError, match="needs photon_energy_eV, which"):
        workflows.run(vague, config, tmp_path / "no", backend=OracleBackend(), product=tmp_path / "no.h5")
    assert not (tmp_path / "no").exists()


# --- damage, and files made to harm


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    small = Scan(
        [20.0, 22.5], [20.0, 21.0], RANDOM.poisson(1.0, (2, 16, 16)).astype(np.uint16), normal(16, 16),
        normal(40, 40), **GEOMETRY,
    )  # fmt: skip
    save_product(product(), folder / "product.h5")
    save_training_hdf5(small, folder / "train.h5")
    return {load_product: folder / "product.h5", load_training_hdf5: folder / "train.h5"}


@pytest.mark.parametrize("load", [load_product, load_training_hdf5])
def test_damage_is_an_error_that_names_the_file(files, load, tmp_path):
    """Bytes changed, cut off, exchanged: the file loads, or the one error that is raised names it."""
    whole = files[load].read_bytes()
    load(files[load])
    draw = random.Random(1)
    messages = []
    for number in range(150):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[draw.randrange(len(data)) :]
        else:
            # the structure is in the first kilobytes
            start = draw.randrange(min(len(data), 6000) if number % 3 == 1 else len(data))
            data[start : start + 8] = draw.randbytes(8)
        path = tmp_path / "damaged.h5"
        path.write_bytes(data)
        try:
            load(path)
        except (ScanError, ShapeError) as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all("damaged.h5" in text for text in messages)


@pytest.mark.parametrize("load", [load_product, load_training_hdf5, load_diffraction, load_scan])
def test_what_is_no_hdf5_file(load, tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no HDF5 at all")
    with pytest.raises(ScanError, match=r"text\.h5: not a readable HDF5 file"):
        load(path)
    with pytest.raises(ScanError, match=r"absent\.h5: cannot be read"):
        load(tmp_path / "absent.h5")


@pytest.mark.parametrize("write", [
    lambda path, star: save_product(product_from_scan(star), path),
    lambda path, star: export_training_data(star, path),
])  # fmt: skip
def test_nothing_is_lost_when_a_write_fails(write, star, tmp_path, monkeypatch):
    path = tmp_path / "kept.h5"
    path.write_bytes(b"precious")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", fails)
    with pytest.raises(OutputError, match=r"kept\.h5: cannot be written \(No space left"):
        write(path, star)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.h5"]
    monkeypatch.undo()
    write(path, star)
    assert path.read_bytes()[:4] == b"\x89HDF"


def test_saved_scans_keep_the_geometry(star, tmp_path):
    got = load_scan(save_scan(star, tmp_path / "scan.npz"))
    assert {name: getattr(got, name) for name in GEOMETRY} == GEOMETRY
    with pytest.raises(ScanError, match=r"photon_energy_eV: got -1\.0, want a finite number > 0"):
        dataclasses.replace(star, photon_energy_eV=-1.0)


def test_a_refined_image_brings_its_modes_and_positions(tmp_path):
    scan = simulate_star(32, 40, n_photons=1e5, step_px=4.0)
    patterns = np.asarray(scan.patterns).copy()
    patterns[4] = 0
    scan = dataclasses.replace(
        scan, patterns=patterns, pixel_size_m=1e-8, photon_energy_eV=8e3, detector_distance_m=1.0
    )
    config = RefinementConfig(passes=4, n_probe_modes=2, refine_positions=True)
    refined = OracleBackend().refine(None, scan, config)
    product = load_product(save_product(product_from_reconstruction(refined, scan), tmp_path / "product.h5"))
    np.testing.assert_array_equal(product.probe[0], refined.probe_modes)
    assert 4 not in product.position_indexes
    assert len(product.position_indexes) == 39
    np.testing.assert_allclose(product.scan_positions_m / 1e-8, refined.positions_px, atol=1e-6)
