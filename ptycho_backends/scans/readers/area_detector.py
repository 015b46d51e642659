"""HDF5 of area detectors: Eiger's master file, areaDetector, and NeXus without positions.

Frames are virtual data sets, or parts behind external links. Positions come from the file that the options name,
or from arrays of the file under the names of `named_parts`.
"""

import numpy as np

from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.scans.raw_scan import HC_EV_M, RawScan
from ptycho_backends.scans.readers.hdf5_parts import beam_centre, first, frames, quantity, unit_of
from ptycho_backends.scans.readers.source import Source

# Flags of Eiger's pixel mask that mean no count: gap, dead, under-responding, over-responding, noisy.
BAD_FLAGS = 0b11111


def recognises(source: Source) -> bool:
    if source.kind != "HDF5" or source.dataset("patterns") is not None:
        return False
    with source.hdf5() as file:
        return bool(_frames(file, source))


def _frames(file: DatasetFile, source: Source) -> list[str]:
    """Data sets of the frames, in order."""
    for entry in source.groups:
        parts = [
            name for name in file.members(f"/{entry}/data") if name.startswith("data_") and name[5:].isdigit()
        ]
        if parts:
            return [f"/{entry}/data/{name}" for name in sorted(parts)]
        name = first(
            file,
            [
                f"/{entry}/data/data",
                f"/{entry}/instrument/detector/data",
                f"/{entry}/data",
                *_signals(file, entry),
            ],
        )
        shape = None if name is None else file.shape(name)
        if name is not None and shape is not None and len(shape) in (3, 4):
            return [name]
    return []


def _signals(file: DatasetFile, entry: str) -> list[str]:
    """The signals of NeXus's NXdata groups."""
    found = []
    for member in file.members(f"/{entry}"):
        attributes = file.attributes(f"/{entry}/{member}")
        if attributes.get("NX_class") == "NXdata":
            found.append(f"/{entry}/{member}/{attributes.get('signal', 'data')}")
    return found


def read(source: Source) -> RawScan:
    with source.hdf5() as file:
        names = _frames(file, source)
        raw = RawScan(
            format="area detector",
            name=source.name.removesuffix("_master"),
            patterns=frames(source, file, names),
            measurement="intensity",
        )
        raw.took("patterns", names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}", "counts")
        entry = "/" + names[0].split("/")[1]
        at = f"{entry}/instrument/detector"
        sides = [quantity(file, [f"{at}/{axis}_pixel_size"], "m") for axis in "xy"]
        if sides[0] and sides[1]:
            raw.detector_pixel_m = sides[0], sides[1]
        raw.distance_m = quantity(file, [f"{at}/detector_distance", f"{at}/distance"], "m")
        raw.energy_eV = _energy(file, entry)
        raw.centre = beam_centre(file, at, sides)
        if raw.centre is not None:
            raw.took("centre", f"{at}/beam_center_x, _y")
        raw.took("detector pixel, distance, energy", f"{at}, {entry}/instrument/beam")
        mask = first(file, [f"{at}/detectorSpecific/pixel_mask", f"{at}/pixel_mask"])
        if mask is not None and (file.shape(mask) or ())[-2:] == raw.shape:
            flags = file.array(mask).reshape(-1, *raw.shape)[0].astype(np.int64)
            raw.valid_pixels = flags & BAD_FLAGS == 0
            raw.took("mask", mask, "flags, 0 where valid")
        _read_positions(file, entry, raw)
    return raw


def _energy(file: DatasetFile, entry: str) -> float | None:
    beams = [f"{entry}/instrument/beam", f"{entry}/sample/beam"]
    energy = quantity(
        file,
        [f"{beam}/{name}" for beam in beams for name in ("incident_energy", "energy")]
        + [f"{entry}/instrument/detector/detectorSpecific/photon_energy"],
        "eV",
    )
    wavelength = quantity(file, [f"{beam}/incident_wavelength" for beam in beams], "angstrom")
    return energy if energy is not None else HC_EV_M / wavelength if wavelength else None


def _read_positions(file: DatasetFile, entry: str, raw: RawScan) -> None:
    """Positions of NeXus's sample, of as many values as there are frames."""
    for at in (f"{entry}/sample/transformations", f"{entry}/sample/positioner", f"{entry}/sample"):
        for x, y in (("translation_x", "translation_y"), ("x", "y"), ("trans_x", "trans_y")):
            names = [f"{at}/{x}", f"{at}/{y}"]
            if all(file.shape(name) == (len(raw.patterns),) for name in names):
                raw.positions = tuple(file.array(name) * unit_of(file, name, "m") for name in names)  # type: ignore[assignment]
                raw.positions_unit = "m"
                raw.took("positions", ", ".join(names), "m")
                return
