"""Images as HDF5 of synchrotrons: CXI and NeXus `NXcxi_ptycho`, the layout of PyNX's results with more beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_backends.export.metadata import as_text
from ptycho_backends.files.hdf5_output import created_hdf5
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_options import JOULE_EV
from ptycho_backends.values import Reconstruction

if TYPE_CHECKING:
    import h5py

_CLASSES = {
    "entry_1": "NXentry",
    "entry_1/image_1": "NXdata",
    "entry_1/image_1/process_1": "NXprocess",
    "entry_1/object": "NXdata",
    "entry_1/probe": "NXdata",
    "entry_1/sample_1": "NXsample",
    "entry_1/sample_1/geometry_1": "NXcollection",
    "entry_1/instrument_1": "NXinstrument",
    "entry_1/instrument_1/source_1": "NXsource",
    "entry_1/instrument_1/detector_1": "NXdetector",
}


def save_cxi_image(
    reconstruction: Reconstruction, path: Path, metadata: Mapping[str, Any], scan: Scan | None = None
) -> Path:
    """Write an image as CXI: `entry_1/image_1` and, as PyNX has them, `entry_1/object` and `entry_1/probe`.

    Arrays are `[y, x]` and complex64, `image_1/mask` is 0 at covered pixels, positions are metres, or object pixels
    where no pixel size is known (`units`). `scan` adds energy, distance, and the probe where the image has none.
    """
    return _save(reconstruction, path, metadata, scan, nexus=False)


def save_nxcxi_ptycho_image(
    reconstruction: Reconstruction, path: Path, metadata: Mapping[str, Any], scan: Scan | None = None
) -> Path:
    """Write an image as `save_cxi_image` does, with the classes, units, axes and default plot of NeXus."""
    return _save(reconstruction, path, metadata, scan, nexus=True)


def _save(
    reconstruction: Reconstruction, path: Path, metadata: Mapping[str, Any], scan: Scan | None, nexus: bool
) -> Path:
    with replaced_atomically(path) as stream, created_hdf5(stream) as file:
        if nexus:
            file.attrs["default"] = "entry_1"
            for name, kind in _CLASSES.items():
                file.require_group(name).attrs["NX_class"] = kind
            file["entry_1/definition"] = "NXcxi_ptycho"
            file["entry_1"].attrs["default"] = "object"
        else:
            file["cxi_version"], file["number_of_entries"] = 160, 1
        entry = file.require_group("entry_1")
        entry["title"] = scan.name if scan is not None else str(metadata["library"])
        _write_image(entry, reconstruction, metadata)
        _write_probe(entry, reconstruction, scan)
        _write_geometry(entry, reconstruction, scan, nexus)
    return path


def _write_image(entry: "h5py.Group", reconstruction: Reconstruction, metadata: Mapping[str, Any]) -> None:
    import h5py

    image = entry.require_group("image_1")
    image["data"] = np.asarray(reconstruction.object, np.complex64)
    image["data_space"], image["data_type"] = "real", "transmission function"
    image["mask"] = (reconstruction.coverage <= 0).astype(np.uint32)
    image["coverage"] = np.asarray(reconstruction.coverage, np.float32)
    process = image.require_group("process_1")
    process["program"], process["note"] = metadata["library"], as_text(metadata)
    process["licence"], process["configuration"] = metadata["licence"], as_text(metadata["config"] or {})
    for name, text in metadata["settings"].items():
        process[f"settings/{name}"] = text
    group = entry.require_group("object")
    group["data"] = h5py.SoftLink("/entry_1/image_1/data")
    group["amplitude"], group["phase"] = np.abs(reconstruction.object), np.angle(reconstruction.object)
    group["phase"].attrs["units"] = "rad"
    size = reconstruction.pixel_size_m
    if size is not None:
        for name in ("x_pixel_size", "y_pixel_size"):
            _with_unit(group, name, size, "m")
        height, width = reconstruction.object.shape
        image["image_size"] = np.array([width * size, height * size])
    for axis, count, first in zip(
        "yx", reconstruction.object.shape, reconstruction.origin_px[::-1], strict=True
    ):
        places = (np.arange(count) + first) * (1.0 if size is None else size)
        _with_unit(group, axis, places, "px" if size is None else "m")
    group.attrs["signal"], group.attrs["axes"] = "phase", ["y", "x"]
    group.attrs["auxiliary_signals"] = ["amplitude"]


def _write_probe(entry: "h5py.Group", reconstruction: Reconstruction, scan: Scan | None) -> None:
    import h5py

    modes = reconstruction.probe_modes
    if modes is None and scan is not None:
        modes = scan.probe_modes
    if modes is None:
        return
    entry.require_group("instrument_1/source_1")["illumination"] = np.asarray(modes, np.complex64)
    entry.require_group("probe")["data"] = h5py.SoftLink("/entry_1/instrument_1/source_1/illumination")
    entry["probe"].attrs["signal"] = "data"


def _write_geometry(
    entry: "h5py.Group", reconstruction: Reconstruction, scan: Scan | None, nexus: bool
) -> None:
    positions = reconstruction.positions_px
    positions = reconstruction.group_centres_px if positions is None else positions
    size = reconstruction.pixel_size_m
    places = np.zeros((len(positions), 3))
    places[:, :2] = np.asarray(positions) * (1.0 if size is None else size)
    geometry = entry.require_group("sample_1/geometry_1")
    _with_unit(geometry, "translation", places, "px" if size is None else "m")
    if scan is None:
        return
    if scan.photon_energy_eV is not None:
        # CXI wants SI units
        energy, unit = (scan.photon_energy_eV, "eV") if nexus else (scan.photon_energy_eV / JOULE_EV, "J")
        _with_unit(entry.require_group("instrument_1/source_1"), "energy", energy, unit)
    if scan.detector_distance_m is not None:
        detector = entry.require_group("instrument_1/detector_1")
        _with_unit(detector, "distance", scan.detector_distance_m, "m")


def _with_unit(group: "h5py.Group", name: str, value: Any, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit
