"""Simulated training data, under the name that programs written for the legacy port know.

The physics is that of `ptycho_backends.scans.simulate`; these functions start from a given object and probe.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.output import output_directory
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import export_training_data
from ptycho_backends.scans.simulate import Measurement, jittered_raster, simulate_scan

__all__ = ["raster_positions", "simulate_training_data", "write_training_data"]


def raster_positions(shape: tuple[int, int], N: int, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Positions of patches of N pixels all over an object, each moved off the raster at random.

    Parameters
    ----------
    shape : (H, W)
        Of the object, pixels; every patch lies inside.
    N, count, seed : int

    Returns
    -------
    (count, 2) float64 array, [x, y]

    Raises
    ------
    ScanError
        If no patch fits into the object.
    """
    room = min(shape) - N
    if room < 1 or count < 1:
        raise ScanError(
            f"object: got {shape[0]} x {shape[1]} pixels for {count} patches of {N}; want a larger object, "
            "and at least one patch"
        )
    # as wide as the object allows with the displacement of a third of a step
    step_px = room / (math.ceil(math.sqrt(count)) + 0.6)
    return jittered_raster(count, step_px, seed=seed) + np.array(shape[::-1]) / 2


def simulate_training_data(
    object_image: NDArray,
    probe: NDArray,
    positions_px: ArrayLike | None = None,
    *,
    n_positions: int = 400,
    n_photons: float = 1e5,
    seed: int = 0,
    measurement: Measurement = "intensity",
    name: str = "simulated",
) -> Scan:
    """A scan of a given object with a given probe, photons counted.

    Parameters
    ----------
    object_image : (H, W) complex array, [y, x]
    probe : (N, N) complex array, [y, x]
    positions_px : (M, 2) array, [x, y], optional
        Default: `raster_positions` of `n_positions`.
    n_positions : int
    n_photons, seed, measurement, name
        As in `ptycho_backends.scans.simulate.simulate_scan`.

    Returns
    -------
    Scan

    Raises
    ------
    ScanError, ShapeError
    """
    if positions_px is None:
        positions_px = raster_positions(np.shape(object_image), len(probe), n_positions, seed)
    return simulate_scan(object_image, probe, positions_px, n_photons, seed, measurement, name=name)


def write_training_data(
    objects: Sequence[NDArray],
    probe: NDArray,
    folder: str | os.PathLike[str],
    *,
    n_positions: int = 400,
    n_photons: float = 1e5,
    seed: int = 0,
    measurement: Measurement = "intensity",
) -> list[Path]:
    """Simulate a scan of each object and write them as `object_0000.npz`, ... in the schema of docs/scan.md.

    Parameters
    ----------
    objects : sequence of (H, W) complex arrays
    probe : (N, N) complex array
    folder : path
        Created if missing.
    n_positions, n_photons, seed, measurement
        As in `simulate_training_data`; each object has its own noise.

    Returns
    -------
    list of Path

    Raises
    ------
    ScanError, ShapeError, OutputError
    """
    folder = output_directory(folder)
    written = []
    for number, object_image in enumerate(objects):
        name = f"object_{number:04d}"
        scan = simulate_training_data(
            object_image,
            probe,
            n_positions=n_positions,
            n_photons=n_photons,
            seed=seed + number,
            measurement=measurement,
            name=name,
        )
        written.append(export_training_data(scan, folder / f"{name}.npz"))
    return written
