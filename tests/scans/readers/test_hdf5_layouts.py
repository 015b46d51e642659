"""HDF5 of Ptychodus, of area detectors and of other layouts; links that lead outside are not followed."""

import dataclasses

import h5py
import hdf5plugin
import numpy as np
import pytest

from ptycho_backends import load_scan, save_product
from ptycho_backends.errors import ScanError
from ptycho_backends.scans.geometry import ScanOptions
from ptycho_backends.scans.product_scan import product_from_scan
from ptycho_backends.scans.readers.folder import scans_of_folder

ENERGY = 1.239841984e-6 / 1e-10


@pytest.fixture
def product(scan, counts, tmp_path):
    known = dataclasses.replace(scan, pixel_size_m=1e-8, photon_energy_eV=8800.0, detector_distance_m=1.9)
    path = save_product(product_from_scan(known), tmp_path / "product.h5")
    with h5py.File(tmp_path / "diffraction.h5", "w") as file:
        file["patterns"], file["indexes"] = counts, np.arange(len(counts))
        file["bad_pixels"] = np.zeros((64, 64), bool)
        for side in ("width", "height"):
            file["patterns"].attrs[f"detector_pixel_{side}_m"] = 75e-6
    return path


def test_product_with_its_diffraction(product, scan, counts, tmp_path):
    with h5py.File(product, "r+") as file:  # as early versions wrote a pixel that nobody knew
        for side in ("pixel_width_m", "pixel_height_m"):
            file["probe"].attrs[side] = 0.0
    got = load_scan(product)
    np.testing.assert_array_equal(got.patterns, counts)
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px, atol=1)
    assert got.object_guess is not None
    (tmp_path / "diffraction.h5").rename(tmp_path / "other.h5")
    with pytest.raises(ScanError, match=r"product\.h5: .*holds no patterns.*--patterns-from"):
        load_scan(product)
    again = load_scan(product, options=ScanOptions(patterns_from=str(tmp_path / "other.h5")))
    np.testing.assert_array_equal(again.patterns, counts)


def eiger(folder, counts, metres, compression):
    """A master file with parts behind external links, as Eiger writes it."""
    for number, part in enumerate(np.array_split(counts, 3), 1):
        with h5py.File(folder / f"scan_data_{number:06}.h5", "w", libver="latest") as file:
            file.create_dataset(
                "entry/data/data", data=part.astype(np.uint32), chunks=(1, *part.shape[1:]), **compression
            )
    with h5py.File(folder / "scan_master.h5", "w") as file:
        for number in (1, 2, 3):
            file[f"entry/data/data_{number:06}"] = h5py.ExternalLink(
                f"scan_data_{number:06}.h5", "entry/data/data"
            )
        detector = file.create_group("entry/instrument/detector")
        for axis in "xy":
            detector[f"{axis}_pixel_size"] = 75e-6
            detector[f"{axis}_pixel_size"].attrs["units"] = "m"
            detector[f"beam_center_{axis}"] = 32.0
        detector["detector_distance"] = 1.0
        mask = np.zeros((64, 64), np.uint32)
        mask[5, 6] = 2
        detector["detectorSpecific/pixel_mask"] = mask
        file["entry/instrument/beam/incident_wavelength"] = 1.0
        file["entry/instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
    header = "x_um,y_um"
    np.savetxt(folder / "positions.csv", metres * 1e6, delimiter=",", header=header, comments="")
    return folder / "scan_master.h5"


COMPRESSIONS = {
    "none": {},
    "bitshuffle": hdf5plugin.Bitshuffle(cname="lz4"),
    "lz4": hdf5plugin.LZ4(),
    "blosc": hdf5plugin.Blosc(),
    "zstd": hdf5plugin.Zstd(),
    "gzip": {"compression": "gzip"},
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_eiger(compression, mapped, counts, metres, tmp_path):
    path = eiger(tmp_path, counts, metres, dict(COMPRESSIONS[compression]))
    with pytest.raises(ScanError, match="without positions; name a file of them with --positions-from"):
        load_scan(path)
    options = ScanOptions(positions_from=str(tmp_path / "positions.csv"))
    got = load_scan(path, mapped=mapped, options=options)
    np.testing.assert_array_equal(np.asarray(got.patterns), counts)
    np.testing.assert_array_equal(got.patterns[[11, 0, 5]], counts[[11, 0, 5]])
    assert got.photon_energy_eV == pytest.approx(ENERGY)
    pixel = 1e-10 * 1.0 / (64 * 75e-6)
    np.testing.assert_allclose(got.scan_positions_px, metres / pixel, rtol=1e-6)
    assert not got.valid_pixels[5, 6]
    assert got.valid_pixels.sum() == 64**2 - 1
    assert got.name == "scan"
    assert scans_of_folder(tmp_path) == [path]  # its parts are no scans


def test_virtual_dataset_and_swmr(counts, metres, tmp_path):
    eiger(tmp_path, counts, metres, {})
    layout = h5py.VirtualLayout(counts.shape, np.uint32)
    start = 0
    for number in (1, 2, 3):
        source = h5py.VirtualSource(tmp_path / f"scan_data_{number:06}.h5", "entry/data/data", (4, 64, 64))
        layout[start : start + 4] = source
        start += 4
    with h5py.File(tmp_path / "virtual.nxs", "w", libver="latest") as file:
        file.create_virtual_dataset("entry/data/data", layout)
        file["entry/sample/transformations/translation_x"] = metres[:, 0] * 1e3
        file["entry/sample/transformations/translation_x"].attrs["units"] = "mm"
        file["entry/sample/transformations/translation_y"] = metres[:, 1]
        file.swmr_mode = True
        got = load_scan(tmp_path / "virtual.nxs", options=ScanOptions(pixel_size_m=1e-8))
        np.testing.assert_array_equal(np.asarray(got.patterns), counts)
    np.testing.assert_allclose(got.scan_positions_px, metres / 1e-8)


def test_links_out_of_the_folder_are_refused(counts, metres, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = eiger(inner, counts, metres, {})
    (inner / "scan_data_000002.h5").rename(tmp_path / "secret.h5")
    with h5py.File(path, "r+") as file:
        del file["entry/data/data_000002"]
        file["entry/data/data_000002"] = h5py.ExternalLink("../secret.h5", "entry/data/data")
    with pytest.raises(ScanError, match="outside the scan's folder"):
        load_scan(path, options=ScanOptions(positions_from=str(inner / "positions.csv")))


def test_plain_layouts(scan, counts, metres, tmp_path):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        file["run/detector/frames"] = counts.reshape(3, 4, 64, 64)  # a grid
        file["run/stage"] = metres.T
        file["run/stage"].attrs["units"] = "m"
        file["run/beam"] = scan.probe_guess
    datasets = {"patterns": "run/detector/frames", "positions": "/run/stage", "probe": "/run/beam"}
    got = load_scan(path, options=ScanOptions(datasets=datasets, pixel_size_m=1e-8))
    np.testing.assert_array_equal(got.patterns, counts)
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)
    np.testing.assert_array_equal(got.probe_guess, scan.probe_guess)
    with pytest.raises(ScanError, match=r"own\.h5: plain HDF5: 12 patterns .* without positions"):
        load_scan(path)
    named = ScanOptions(positions_from=f"{path}:run/stage", pixel_size_m=1e-8)
    np.testing.assert_allclose(load_scan(path, options=named).scan_positions_px, scan.scan_positions_px)


def test_layout_without_patterns_is_described(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(ScanError, match=r"other\.h5: HDF5 of another layout, which holds numbers"):
        load_scan(tmp_path / "other.h5")


def test_groups_in_circles_end(tmp_path):
    with h5py.File(tmp_path / "circles.h5", "w") as file:
        for number in range(30):
            file[f"group_{number}"] = file["/"]
        file["soft"] = h5py.SoftLink("/soft")
    with pytest.raises(ScanError, match="another layout"):
        load_scan(tmp_path / "circles.h5")


def test_entries_of_any_name(scan, counts, metres, tmp_path):
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        entry = file.create_group("scan_7")
        entry.attrs["NX_class"] = "NXentry"
        data = entry.create_group("measured")
        data.attrs["NX_class"], data.attrs["signal"] = "NXdata", "counts"
        data["counts"] = counts
        for axis, values in zip("xy", metres.T, strict=True):
            entry[f"sample/transformations/translation_{axis}"] = values
    got = load_scan(tmp_path / "scan.nxs", options=ScanOptions(pixel_size_m=1e-8))
    np.testing.assert_array_equal(got.patterns, counts)
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)


SPELT = {
    "um": 1e-6, "µm": 1e-6, "micron": 1e-6, "Micrometers": 1e-6, "micrometres": 1e-6, "mm": 1e-3, "millimetre": 1e-3,
    "nm": 1e-9, "m": 1.0, "Meter": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("unit", SPELT)
def test_units_however_they_are_spelt(unit, scan, counts, metres, tmp_path):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        file["patterns"], file["positions"] = counts, metres / SPELT[unit]
        file["distance"], file["wavelength"] = 1.0 / SPELT[unit], 1e-10 / SPELT[unit]
        file["detector_pixel_m"] = 75e-6 / SPELT[unit]
        for name in ("positions", "distance", "wavelength", "detector_pixel_m"):
            file[name].attrs["units"] = unit
    got = load_scan(path)
    assert got.pixel_size_m == pytest.approx(1e-10 / (64 * 75e-6))
    np.testing.assert_allclose(got.scan_positions_px, metres / got.pixel_size_m)
    np.save(tmp_path / "stack.npy", counts)
    named = ScanOptions(positions_from=f"{path}:positions", pixel_size_m=1e-8)
    np.testing.assert_allclose(
        load_scan(tmp_path / "stack.npy", options=named).scan_positions_px, scan.scan_positions_px
    )
    with h5py.File(eiger(tmp_path, counts, metres, {}), "r+") as file:
        distance = file["entry/instrument/detector/detector_distance"]
        distance[()], distance.attrs["units"] = 1.0 / SPELT[unit], unit
    options = ScanOptions(positions_from=str(tmp_path / "positions.csv"))
    assert load_scan(tmp_path / "scan_master.h5", options=options).detector_distance_m == pytest.approx(1.0)


def test_a_unit_that_is_not_known_is_not_taken_for_another(counts, metres, tmp_path, caplog):
    path = eiger(tmp_path, counts, metres, {})
    with h5py.File(path, "r+") as file:
        file["entry/instrument/detector/detector_distance"].attrs["units"] = "furlongs"
    options = ScanOptions(positions_from=str(tmp_path / "positions.csv"))
    with pytest.raises(ScanError, match="it takes --distance"):
        load_scan(path, options=options)
    assert "detector_distance: got units 'furlongs', want m, mm, um or nm; left out" in caplog.text


@pytest.mark.parametrize(
    ("value", "unit", "centre"), [(30.0, "pixel", 30), (30 * 75e-3, "mm", 30), (0.0, "m", None)]
)
def test_a_beam_centre_in_pixels_or_in_lengths(value, unit, centre, counts, metres, tmp_path):
    path = eiger(tmp_path, counts, metres, {})
    with h5py.File(path, "r+") as file:
        for axis in "xy":
            place = file[f"entry/instrument/detector/beam_center_{axis}"]
            place[()], place.attrs["units"] = value, unit
    options = ScanOptions(positions_from=str(tmp_path / "positions.csv"), size=32)
    got = load_scan(path, options=options)
    start = (32 if centre is None else centre) - 16
    np.testing.assert_array_equal(got.patterns, counts[:, start : start + 32, start : start + 32])
