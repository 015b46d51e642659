"""PtyPy's prepared data, `.ptyd`: counts in chunks, positions in metres (row, column), energy in keV."""

import numpy as np

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.stored_patterns import chunks
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.hdf5_parts import frames
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    return source.kind == "HDF5" and {"chunks", "meta"} <= source.entries


def read(source: Source) -> RawScan:
    with source.hdf5() as file:
        parts = sorted(file.members("chunks"), key=lambda name: (len(name), name))
        parts = [name for name in parts if file.shape(f"/chunks/{name}/data") is not None]
        if not parts:
            raise ScanError("chunks: none holds data")
        raw = RawScan(
            format="PtyPy .ptyd",
            name=source.name,
            patterns=frames(source, file, [f"/chunks/{name}/data" for name in parts]),
            measurement="intensity",
        )
        raw.took(
            "patterns", f"/chunks/{parts[0]}/data" + ("" if len(parts) == 1 else " and others"), "counts"
        )
        _read_positions(file, parts, raw)
        _read_mask(file, parts, raw)
        energy, distance = _number(file, "energy"), _number(file, "distance")
        raw.energy_eV = None if not energy else energy * 1e3
        raw.distance_m = distance or None
        raw.took("energy and distance", "/meta/energy, /meta/distance", "keV, m")
        sides = _pair(file, "psize")
        if sides is not None and all(side > 0 for side in sides):
            raw.detector_pixel_m = sides[1], sides[0]
            raw.took("detector pixel", "/meta/psize", "m (row, column)")
        centre = _pair(file, "center")
        if centre is not None and all(pixel > 0 for pixel in centre):
            raw.centre = centre
            raw.took("centre", "/meta/center", "pixels (row, column)")
    return raw


def _read_positions(file: DatasetFile, chunks: list[str], raw: RawScan) -> None:
    parts = [
        file.array(f"/chunks/{name}/positions") for name in chunks if file.shape(f"/chunks/{name}/positions")
    ]
    if len(parts) == len(chunks) and all(part.ndim == 2 and part.shape[1] == 2 for part in parts):
        raw.positions, raw.positions_unit = np.concatenate(parts)[:, ::-1].astype(np.float64), "m"
        raw.took("positions", "/chunks/*/positions", "m (row, column)")
    indices = [
        file.array(f"/chunks/{name}/indices") for name in chunks if file.shape(f"/chunks/{name}/indices")
    ]
    if len(indices) == len(chunks):
        raw.scan_index = np.concatenate(indices)


def _read_mask(file: DatasetFile, names: list[str], raw: RawScan) -> None:
    places = [f"/chunks/{name}/weights" for name in names]
    place = next((name for name in places if file.shape(name) is not None), "/info/weight2d")
    shape = file.shape(place)
    if shape is None or shape[-2:] != raw.shape:
        return
    # one mask a scan: a pixel is valid if any frame uses it
    valid = np.zeros(raw.shape, bool)
    if len(shape) == 3:
        weights = file.patterns(place)
        for part in chunks(len(weights), max(raw.shape)):
            valid |= (np.asarray(weights[part]) > 0).any(axis=0)
            if valid.all():
                break
    else:
        valid = np.asarray((file.array(place).reshape(-1, *raw.shape) > 0).any(axis=0))
    raw.valid_pixels = None if valid.all() else valid
    raw.took("mask", place, "0 where invalid")


def _number(file: DatasetFile, name: str) -> float | None:
    pair = _pair(file, name)
    return None if pair is None or not np.isfinite(pair[0]) else pair[0]


def _pair(file: DatasetFile, name: str) -> tuple[float, float] | None:
    """A number or two of `/meta`, else of `/info`; PtyPy marks None by an attribute."""
    for place in (f"/meta/{name}", f"/info/{name}"):
        shape = file.shape(place)
        if shape in ((), (1,), (2,)) and file.attributes(place).get("type") != "None":
            values = file.array(place).reshape(-1).astype(np.float64).tolist()
            return values[0], values[-1]
    return None
