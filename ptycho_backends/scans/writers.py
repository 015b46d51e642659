"""Scans as other programs read them: CXI, NeXus `NXcxi_ptycho`, PtyPy's `.ptyd`; frame by frame, so of any size."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.hdf5_output import created_hdf5
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.files.stored_patterns import chunks
from ptycho_backends.scans.raw_scan import HC_EV_M
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_options import JOULE_EV
from ptycho_backends.scans.statistics import holds_counts

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)


def save_cxi(scan: Scan, path: str | os.PathLike[str], *, compressed: bool = True) -> Path:
    """Write `scan` as CXI, which cdtools reads: counts, positions of the sample in metres, detector, probe.

    Parameters
    ----------
    scan : Scan
        Its `pixel_size_m`, `photon_energy_eV` and `detector_distance_m` must be known. Amplitudes are squared.
    path : path
    compressed : bool
        Of the patterns, one in a chunk; without it they lie in one piece, which is mapped quickest.

    Raises
    ------
    ScanError
        Names everything that is not known.
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    pixel, energy, distance = _experiment(scan)
    side = _detector_pixel(scan)
    path = Path(path)
    with replaced_atomically(path) as stream, created_hdf5(stream) as file:
        file["cxi_version"] = 160
        file["number_of_entries"] = 1
        detector = file.create_group("entry_1/instrument_1/detector_1")
        _write_frames(detector, "data", scan, compressed)
        detector["x_pixel_size"], detector["y_pixel_size"], detector["distance"] = side, side, distance
        # rows run down and columns to the right: -y and -x of the standard; the slow axis first, as cdtools has it
        detector["basis_vectors"] = np.array([[0, -side], [-side, 0], [0, 0]])
        detector["corner_position"] = np.array([side * scan.N / 2, side * scan.N / 2, distance])
        if scan.valid_pixels is not None:
            detector["mask"] = (~scan.valid_pixels).astype(np.uint32)
        source = file.create_group("entry_1/instrument_1/source_1")
        source["energy"], source["wavelength"] = energy / JOULE_EV, HC_EV_M / energy
        if scan.probe_modes is not None:
            source["illumination"] = scan.probe_modes
        _write_translation(file, scan, pixel)
        _left_out(scan, path, "object")
    return path


def save_nxcxi_ptycho(scan: Scan, path: str | os.PathLike[str], *, compressed: bool = True) -> Path:
    """Write `scan` as NeXus `NXcxi_ptycho`; parameters and errors as `save_cxi`."""
    pixel, energy, distance = _experiment(scan)
    side = _detector_pixel(scan)
    path = Path(path)
    with replaced_atomically(path) as stream, created_hdf5(stream) as file:
        file.attrs["default"] = "entry_1"
        classes = {
            "entry_1": "NXentry", "entry_1/instrument_1": "NXinstrument", "entry_1/instrument_1/source_1": "NXsource",
            "entry_1/instrument_1/beam_1": "NXbeam", "entry_1/instrument_1/detector_1": "NXdetector",
            "entry_1/data_1": "NXdata", "entry_1/sample_1": "NXsample", "entry_1/sample_1/geometry_1": "NXcollection",
        }  # fmt: skip
        for name, kind in classes.items():
            file.require_group(name).attrs["NX_class"] = kind
        entry = file["entry_1"]
        entry["definition"], entry["title"] = "NXcxi_ptycho", scan.name
        entry["sample_1/name"] = scan.name
        detector = entry["instrument_1/detector_1"]
        _write_frames(detector, "data", scan, compressed)
        for name in ("x_pixel_size", "y_pixel_size"):
            _with_unit(detector, name, side, "m")
        _with_unit(detector, "distance", distance, "m")
        if scan.valid_pixels is not None:
            detector["mask"] = (~scan.valid_pixels).astype(np.uint32)
        for group in ("source_1", "beam_1"):
            _with_unit(entry[f"instrument_1/{group}"], "energy", energy, "eV")
        if scan.probe_modes is not None:
            entry["instrument_1/source_1/illumination"] = scan.probe_modes
        _write_translation(file, scan, pixel)
        entry["data_1"].attrs["signal"] = "data"
        _left_out(scan, path, "object")
    return path


def save_ptyd(scan: Scan, path: str | os.PathLike[str], *, compressed: bool = True) -> Path:
    """Write `scan` as PtyPy's prepared data; parameters and errors as `save_cxi`."""
    pixel, energy, distance = _experiment(scan)
    side = _detector_pixel(scan)
    path = Path(path)
    valid = np.ones((scan.N, scan.N), bool) if scan.valid_pixels is None else scan.valid_pixels
    now = time.asctime()
    meta: dict[str, Any] = {
        "center": np.array([scan.N / 2, scan.N / 2]), "distance": distance, "energy": energy / 1e3, "label": None,
        "num_frames": len(scan), "psize": np.array([side, side]), "shape": np.array([scan.N, scan.N]), "version": 0.1,
    }  # fmt: skip
    with replaced_atomically(path) as stream, created_hdf5(stream) as file:
        file.attrs["ctime"], file.attrs["mtime"], file.attrs["h5rw_version"] = now, now, "0.1"
        for name in ("info", "meta"):
            _write_ptypy(file, name, meta)
        _write_ptypy(file, "chunks", {})
        _write_ptypy(file["chunks"], "0", {"positions": scan.scan_positions_px[:, ::-1] * pixel})
        chunk = file["chunks/0"]
        _write_frames(chunk, "data", scan, compressed)
        chunk["data"].attrs["type"] = "array"
        chunk["indices"] = np.arange(len(scan))
        chunk["indices"].attrs["type"] = "arraylist"
        _write_ptypy(file["info"], "weight2d", valid.astype(np.float32))
        weights = chunk.create_dataset(
            "weights", (len(scan), scan.N, scan.N), bool, chunks=(1, scan.N, scan.N), compression="gzip"
        )
        weights.attrs["type"] = "array"
        for number in range(len(scan)):
            weights[number] = valid
        _left_out(scan, path, "probe", "object")
    return path


def _write_ptypy(group: "h5py.Group", name: str, value: Any) -> None:
    """One value in PtyPy's way, with the attribute `type`."""
    if isinstance(value, Mapping):
        child = group.create_group(name)
        child.attrs["type"] = "dict"
        for key, inner in value.items():
            _write_ptypy(child, key, inner)
        return
    kind = "None" if value is None else "array" if isinstance(value, np.ndarray) else "scalar"
    group[name] = np.zeros(1) if value is None else value
    group[name].attrs["type"] = kind


def _experiment(scan: Scan) -> tuple[float, float, float]:
    """Object pixel in metres, energy in eV, distance in metres."""
    values = scan.pixel_size_m, scan.photon_energy_eV, scan.detector_distance_m
    options = ("--pixel-size", "--energy", "--distance")
    missing = [name for name, value in zip(options, values, strict=True) if value is None]
    if missing:
        raise ScanError(f"{scan.name}: this format holds lengths, so it takes {' and '.join(missing)}")
    pixel, energy, distance = (float(value or 0) for value in values)
    return pixel, energy, distance


def _detector_pixel(scan: Scan) -> float:
    """Side of a detector pixel, metres, that gives the scan's object pixel."""
    pixel, energy, distance = _experiment(scan)
    return HC_EV_M / energy * distance / (scan.N * pixel)


def _write_frames(group: "h5py.Group", name: str, scan: Scan, compressed: bool) -> None:
    """Counts (M, N, N), part by part."""
    whole = scan.measurement == "amplitude" and holds_counts(scan)
    dtype = np.uint32 if whole else np.float32 if scan.measurement == "amplitude" else scan.patterns.dtype
    layout: dict[str, Any] = {
        "chunks": (1, scan.N, scan.N),
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
        "fletcher32": True,
    }
    target = group.create_dataset(name, (len(scan), scan.N, scan.N), dtype, **(layout if compressed else {}))
    for part in chunks(len(scan), scan.N):
        target[part] = _counts(scan, part, whole)


def _counts(scan: Scan, part: slice, whole: bool) -> NDArray:
    if scan.measurement == "intensity":
        return np.asarray(scan.patterns[part])
    squared = np.square(np.asarray(scan.patterns[part], np.float64))
    return np.rint(squared) if whole else squared


def _write_translation(file: "h5py.File", scan: Scan, pixel: float) -> None:
    import h5py

    # the sample moves against the probe, along axes that run against rows and columns: the signs cancel
    metres = np.zeros((len(scan), 3))
    metres[:, :2] = scan.scan_positions_px * pixel
    geometry = file.require_group("entry_1/sample_1/geometry_1")
    _with_unit(geometry, "translation", metres, "m")
    data = file.require_group("entry_1/data_1")
    data["data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    for group in (data, file["entry_1/instrument_1/detector_1"]):
        group["translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")


def _with_unit(group: "h5py.Group", name: str, value: Any, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit


def _left_out(scan: Scan, path: Path, *parts: str) -> None:
    held = {"probe": scan.probe_guess is not None, "object": scan.object_guess is not None}
    lost = [part for part in parts if held[part]]
    if lost:
        log.warning("%s: has no place for %s; left out", path, " and ".join(lost))
