"""Training data as Ptychodus writes it for other trainers: HDF5 with everything in one file."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.datasets_hdf5 import DatasetFile, write_datasets
from ptycho_backends.files.stored_patterns import chunks
from ptycho_backends.scans.geometry import scan_from_raw
from ptycho_backends.scans.product import SQUARE
from ptycho_backends.scans.product_scan import object_canvas, product_from_scan
from ptycho_backends.scans.raw_scan import RawScan, known_length
from ptycho_backends.scans.scan import Scan, known_object
from ptycho_backends.scans.statistics import holds_counts
from ptycho_backends.scans.valid_pixels import mask_of_entries

# Every data set of the file.
NAMES = (
    "patterns", "bad_pixels", "probe", "object", "probe_position_x_px", "probe_position_y_px",
    "object_pixel_width_m", "object_pixel_height_m", "detector_object_distance_m", "photon_energy_eV",
)  # fmt: skip


def load_training_hdf5(
    path: str | os.PathLike[str],
    *,
    measurement: str = "intensity",
    mapped: bool = False,
    valid_pixels: ArrayLike | None = None,
) -> Scan:
    """Read Ptychodus's training-data HDF5.

    Parameters
    ----------
    path : path
    measurement : {'intensity', 'amplitude', 'auto'}
        Content of the patterns; Ptychodus writes counts, of whatever dtype.
    mapped : bool
        Leave the patterns in the file; as `DatasetFile.patterns` reads them.
    valid_pixels : (N, N) array, [ky, kx], optional
        As in `load_scan`.

    Returns
    -------
    Scan
        With pixel size, photon energy and detector distance. An object that is 1 everywhere is none.

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, lacks a data set, is damaged, or holds values that `Scan` refuses. The text
        names the file.
    """
    path = Path(path)
    try:
        raw = raw_of_training_hdf5(path, mapped=mapped)
        return scan_from_raw(raw, measurement=measurement, valid_pixels=valid_pixels)
    except (ScanError, ShapeError) as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error


def raw_of_training_hdf5(path: Path, *, mapped: bool = False) -> RawScan:
    """Content of a file of Ptychodus's training data.

    Raises
    ------
    ScanError
    """
    with DatasetFile(path) as file:
        missing = [name for name in NAMES if name not in file.names]
        if missing:
            raise ScanError(f"{path}: {_other_layout(file, missing)}")
        width, height = file.number("object_pixel_width_m"), file.number("object_pixel_height_m")
        energy, distance = file.number("photon_energy_eV"), file.number("detector_object_distance_m")
        arrays = {name: file.array(name) for name in NAMES[1:6]}
        patterns = file.patterns("patterns") if mapped else file.array("patterns", sparse=True)
    raw = RawScan(
        format="training data of Ptychodus",
        name=path.stem,
        patterns=patterns,
        positions=(arrays["probe_position_x_px"], arrays["probe_position_y_px"]),
        positions_unit="px",
        measurement="intensity",
        probe=arrays["probe"],
        object=known_object(arrays["object"]),
        # a scan has one side, so square pixels only
        pixel_size_m=width if width > 0 and abs(height / width - 1) <= SQUARE else None,
        energy_eV=known_length(energy),
        distance_m=known_length(distance),
        valid_pixels=mask_of_entries(arrays, patterns.shape[-2:]) if patterns.ndim == 3 else None,
    )
    raw.took("patterns", "patterns", "counts")
    raw.took("positions", "probe_position_x_px, probe_position_y_px", "object pixels")
    raw.took("probe and object", "probe, object")
    return raw


def save_training_hdf5(scan: Scan, path: str | os.PathLike[str], *, compressed: bool = True) -> Path:
    """Write `scan` as Ptychodus's training-data HDF5; atomically, so never half a file.

    Parameters
    ----------
    scan : Scan
        Its `pixel_size_m`, `photon_energy_eV` and `detector_distance_m` must be known. Amplitudes are
        squared, because the file holds intensities.
    path : path
    compressed : bool
        Of all arrays; without it the patterns lie in one piece, which is mapped quickest.

    Raises
    ------
    ScanError
        Names everything that is not known.
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    product = product_from_scan(scan)
    image, corner_px = object_canvas(scan)
    positions_px = scan.scan_positions_px - corner_px
    arrays: dict[str, NDArray] = {
        "patterns": _intensities(scan),
        "bad_pixels": np.zeros((scan.N, scan.N), bool) if scan.valid_pixels is None else ~scan.valid_pixels,
        "probe": product.probe[0],
        "object": image,
        "probe_position_x_px": positions_px[:, 0],
        "probe_position_y_px": positions_px[:, 1],
        "object_pixel_width_m": np.asarray(product.object_pixel_size_m[0]),
        "object_pixel_height_m": np.asarray(product.object_pixel_size_m[1]),
        "detector_object_distance_m": np.asarray(product.metadata.detector_object_distance_m),
        "photon_energy_eV": np.asarray(product.metadata.photon_energy_eV),
    }
    return write_datasets(path, arrays, {}, compression="lzf" if compressed else None, checksums=compressed)


def _intensities(scan: Scan) -> NDArray:
    if scan.measurement == "intensity" and scan.valid_pixels is None:
        return np.asarray(scan.patterns)
    counts = np.empty(scan.patterns.shape, np.float32)
    whole = holds_counts(scan)
    for part in chunks(len(scan), scan.N):
        values = np.asarray(scan.patterns[part], np.float64)
        values = np.square(values) if scan.measurement == "amplitude" else values
        # roots of counts, squared, miss whole numbers by their rounding
        counts[part] = np.rint(values) if whole else values
        if scan.valid_pixels is not None:
            counts[part][:, ~scan.valid_pixels] = 0.0
    return counts


def _other_layout(file: DatasetFile, missing: list[str]) -> str:
    """Message for an HDF5 file that is no training data: its layout, and how to use it."""
    names = file.names
    if "probe_position_x_m" in names:
        return "a Ptychodus product, which holds no patterns; use `load_product` and `scan_from_product`"
    if {"patterns", "indexes"} <= names:
        return "Ptychodus's patterns without positions; use `scan_from_product` with the product beside it"
    if kind := _facility_layout(file):
        return f"a {kind} file (HDF5), and each facility stores positions in it in its own way; {_BY_HAND}"
    held = ", ".join(sorted(names)) or "nothing"
    return f"{', '.join(missing)} missing; the file holds {held}; it is HDF5 of another layout, so {_BY_HAND}"


_BY_HAND = (
    "take its patterns with `open_patterns(path, dataset)`, and make a `Scan` of them and the positions"
)


def _facility_layout(file: DatasetFile) -> str | None:
    if "cxi_version" in file.names:
        return "CXI"
    entries = [name for name in sorted(file.names) if name.startswith("entry")]
    if any(file.attributes(name).get("NX_class") == "NXentry" for name in entries):
        return "NeXus"
    return "CXI or NeXus" if entries else None
