"""MATLAB files of version 5 (scipy.io) and 7.3 (HDF5), those of PtychoShelves among them.

MATLAB keeps arrays by columns: patterns are (ky, kx, M) there, and HDF5 has the axes reversed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.matlab_file import is_matlab_73, matlab_5_arrays
from ptycho_backends.files.stored_patterns import StoredPatterns
from ptycho_backends.scans.raw_scan import HC_EV_M, RawScan, known_length
from ptycho_backends.scans.readers.hdf5_parts import frames
from ptycho_backends.scans.readers.named_parts import raw_of_parts
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    # the data of PtychoShelves are HDF5 by MATLAB without its header
    shelves = source.kind == "HDF5" and "dp" in source.entries
    return source.kind == "MATLAB 5" or (source.kind == "HDF5" and is_matlab_73(source.path)) or shelves


def read(source: Source) -> RawScan:
    if source.kind == "MATLAB 5":
        arrays = {name: _frames_first(values) for name, values in matlab_5_arrays(source.path).items()}
        raw = raw_of_parts(source, "MATLAB 5", {n: v.shape for n, v in arrays.items()}, arrays.__getitem__)
    else:
        with source.hdf5() as file:
            shapes = {
                name: shape for name, shape in file.datasets().items() if not name.startswith("/#refs#")
            }
            by_columns = {name: _by_columns(shape) for name, shape in shapes.items()}

            def patterns(name: str) -> Any:
                found = frames(source, file, [name])
                return np.swapaxes(found, 1, 2) if isinstance(found, np.ndarray) else TurnedPatterns(found)

            raw = raw_of_parts(
                source, "MATLAB 7.3", by_columns, lambda name: _turned(file.array(name)), patterns
            )
            _add_shelves_positions(source, raw)
    if raw.positions_unit is None and raw.positions is None and source.options.positions_from is None:
        raise ScanError(
            "MATLAB: patterns without positions; name them with --dataset positions=NAME or --positions-from FILE"
        )
    return raw


class TurnedPatterns(StoredPatterns):
    """Stored patterns with rows and columns exchanged."""

    def __init__(self, patterns: StoredPatterns) -> None:
        self._patterns, self.dtype = patterns, patterns.dtype
        self.shape = (patterns.shape[0], patterns.shape[2], patterns.shape[1])

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        return np.swapaxes(self._patterns[indices], 1, 2)


def _by_columns(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in this library's axes of an HDF5 array of MATLAB: reversed, but the last axis of a stack first."""
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) >= 2 else shape


def _turned(values: NDArray) -> NDArray:
    return np.swapaxes(values, -1, -2) if values.ndim >= 2 else values


def _frames_first(values: NDArray) -> NDArray:
    """(M, ky, kx) of MATLAB's (ky, kx, M)."""
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)) if values.ndim == 3 else values


def _add_shelves_positions(source: Source, raw: RawScan) -> None:
    """Positions of PtychoShelves, which APS keeps beside `*_dp.hdf5` in `*_para.hdf5`."""
    if raw.positions is not None or not source.path.stem.endswith("_dp"):
        return
    beside = source.beside(source.path.name.replace("_dp.", "_para."))
    if beside is None:
        return
    other = Source(beside, beside, "HDF5", source.options)
    with other.hdf5() as file:
        if not file.holds("/ppX", "/ppY"):
            return
        raw.positions = file.array("/ppX").reshape(-1), file.array("/ppY").reshape(-1)
        raw.positions_unit = "m"
        raw.took("positions", f"{beside.name}: ppX, ppY", "m")
        if raw.energy_eV is None and file.shape("/lambda") is not None:
            wavelength = known_length(float(file.array("/lambda").reshape(-1)[0]))
            raw.energy_eV = None if wavelength is None else HC_EV_M / wavelength
        if raw.pixel_size_m is None and file.shape("/dx") is not None:
            raw.pixel_size_m = known_length(float(file.array("/dx").reshape(-1)[0]))
