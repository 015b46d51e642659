"""CXI, as cdtools, SHARP and beamlines write it: positions of the sample in metres, in the frame of the beam.

The axes are those of the CXI standard: z along the beam, y up, x to the left of who looks along it. Rows of the
detector run down and its columns to the right, unless `basis_vectors` states others.
"""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.scans.raw_scan import HC_EV_M, RawScan
from ptycho_backends.scans.readers.hdf5_parts import (
    beam_centre,
    first,
    frames,
    good_where_zero,
    quantity,
    unit_of,
)
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    return source.kind == "HDF5" and _entry(source) is not None


def _entry(source: Source) -> str | None:
    """The first entry with patterns in CXI's places."""
    if not source.groups:
        return None
    with source.hdf5() as file:
        return next((name for name in source.groups if _patterns(file, name) is not None), None)


def _patterns(file: DatasetFile, entry: str) -> str | None:
    return first(file, [f"/{entry}/data_1/data", f"/{entry}/instrument_1/detector_1/data"])


def read(source: Source) -> RawScan:
    entry = _entry(source)
    assert entry is not None
    return read_entry(source, entry, "CXI", energy_unit="J")


def read_entry(source: Source, entry: str, label: str, energy_unit: str) -> RawScan:
    """The scan of one entry; `energy_unit` is that of energies whose unit is not stated."""
    with source.hdf5() as file:
        name = _patterns(file, entry)
        assert name is not None
        raw = RawScan(
            format=label, name=source.name, patterns=frames(source, file, [name]), measurement="intensity"
        )
        raw.took("patterns", name, "counts")
        at = f"/{entry}/instrument_1"
        raw.energy_eV = _energy(file, at, energy_unit)
        raw.distance_m = quantity(file, [f"{at}/detector_1/distance"], "m")
        sides = [quantity(file, [f"{at}/detector_1/{axis}_pixel_size"], "m") for axis in "xy"]
        basis = _basis(file, f"{at}/detector_1/basis_vectors")
        if sides[0] and sides[1]:
            raw.detector_pixel_m = sides[0], sides[1]
        elif basis is not None:
            fast, slow = np.linalg.norm(basis, axis=1).tolist()
            raw.detector_pixel_m = fast, slow
        _read_positions(file, entry, basis, raw)
        mask = first(file, [f"{at}/detector_1/mask", f"/{entry}/data_1/mask", f"{at}/detector_1/pixel_mask"])
        if mask is not None:
            good_where_zero(file.array(mask), raw, mask)
        raw.centre = beam_centre(file, f"{at}/detector_1", raw.detector_pixel_m or (None, None))
        if raw.centre is not None:
            raw.took("centre", f"{at}/detector_1/beam_center_x, _y")
        _read_images(file, entry, raw)
    return raw


def _energy(file: DatasetFile, at: str, unit: str) -> float | None:
    places = [f"{at}/source_1/energy", f"{at}/beam_1/energy", f"{at}/beam_1/incident_beam_energy"]
    energy = quantity(file, [*places[1:], places[0]] if unit == "eV" else places, unit)
    # an electron's rest energy is more; some write eV or keV into a place for J, and the other way round
    if energy is not None and energy > 1e9:
        energy /= 1 / 1.602176634e-19
    if energy is not None and energy < 1e-6:
        energy *= 1 / 1.602176634e-19
    wavelength = quantity(file, [f"{at}/{name}/wavelength" for name in ("source_1", "beam_1")], "m")
    return energy if energy is not None else HC_EV_M / wavelength if wavelength else None


def _basis(file: DatasetFile, name: str) -> NDArray[np.float64] | None:
    """(2, 3): steps in metres along a row and along a column of the detector; None if they are not stated."""
    shape = file.shape(name)
    if shape not in ((3, 2), (2, 3)):
        return None
    values = file.array(name).astype(np.float64)
    # cdtools has the slow axis first, in columns
    basis = values.T[::-1] if shape == (3, 2) else values
    return basis if np.isfinite(basis).all() and (np.linalg.norm(basis, axis=1) > 0).all() else None


def _read_positions(file: DatasetFile, entry: str, basis: NDArray | None, raw: RawScan) -> None:
    places = ["data_1/translation", "sample_1/geometry_1/translation", "instrument_1/detector_1/translation"]
    name = first(file, [f"/{entry}/{place}" for place in places])
    if name is None:
        return
    of_sample = file.array(name).astype(np.float64)
    if of_sample.ndim != 2 or of_sample.shape[1] not in (2, 3):
        return
    unit = unit_of(file, name, "m")
    of_sample = np.pad(of_sample, ((0, 0), (0, 3 - of_sample.shape[1]))) * unit
    # the probe moves on the sample against the sample; the detector's axes are (-x, -y) by default
    axes = (
        np.array([[-1.0, 0, 0], [0, -1.0, 0]])
        if basis is None
        else basis / np.linalg.norm(basis, axis=1)[:, None]
    )
    raw.positions, raw.positions_unit = -of_sample @ axes.T, "m"
    raw.took(
        "positions",
        name,
        "of the sample, m, along the detector's axes" + ("" if basis is None else " (basis_vectors)"),
    )


def _read_images(file: DatasetFile, entry: str, raw: RawScan) -> None:
    probe = first(
        file,
        [f"/{entry}/instrument_1/source_1/illumination", f"/{entry}/instrument_1/detector_1/probe_guess",
         f"/{entry}/instrument_1/source_1/probe"],
    )  # fmt: skip
    if probe is not None and file.shape(probe) is not None:
        values = file.array(probe)
        if values.ndim in (2, 3) and values.shape[-2:] == raw.shape:
            raw.probe = values
            raw.took("probe", probe)
