"""Files of beamlines that no reader here knows, through those of Ptychodus, where it is installed.

Only a file that gives patterns, and by a reader of the same name positions, is taken; so nothing is guessed.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from ptycho_backends.files.located_hdf5 import has_circles
from ptycho_backends.scans.raw_scan import RawScan, known_length
from ptycho_backends.scans.readers.source import Source

PACKAGE = "ptychodus"
KINDS = ("HDF5", "zip", "MATLAB 5", None)


def is_installed() -> bool:
    """True where Ptychodus can be imported."""
    return find_spec(PACKAGE) is not None


def raw_through_ptychodus(source: Source) -> RawScan | None:
    """Patterns and positions by the first of Ptychodus's readers that opens both; None where none does.

    Without Ptychodus nothing is imported. Positions that `source.options` name elsewhere need no reader.
    """
    if source.kind not in KINDS or not is_installed():
        return None
    if source.kind == "HDF5" and _tried(has_circles, source.path) is not False:
        # Ptychodus would walk in them for ever
        return None
    with _quiet():
        from ptychodus.api.plugins import PluginRegistry  # late: it takes seconds

        registry = PluginRegistry.load_plugins()
        for plugin in registry.diffraction_file_readers:
            dataset = _tried(plugin.strategy.read, source.path)
            named = registry.probe_position_file_readers.find_plugin(plugin.simple_name)
            positions = None if named is None or not dataset else _tried(named.strategy.read, source.path)
            if not dataset or (not positions and source.options.positions_from is None):
                continue
            raw = _tried(_raw, source, plugin.display_name, dataset, positions or None)
            if raw is not None:
                return raw
    return None


def _raw(source: Source, label: str, dataset: Any, positions: Any) -> RawScan:
    patterns = np.concatenate([np.asarray(part.get_patterns()) for part in dataset])
    numbers = np.concatenate([np.asarray(part.get_indexes()) for part in dataset])
    raw = RawScan(format=f"{label}, by Ptychodus", name=source.name, patterns=patterns, scan_index=numbers)
    raw.took("patterns", f"Ptychodus's reader {label!r}")
    if positions is not None:
        # some frames may have no position, and some positions no frame
        _, frames, places = np.intersect1d(numbers, positions.get_indexes(), return_indices=True)
        raw.patterns, raw.scan_index = patterns[frames], numbers[frames]
        raw.positions = positions.get_coordinates_x_m()[places], positions.get_coordinates_y_m()[places]
        raw.positions_unit = "m"
        raw.took(
            "positions", f"Ptychodus's reader {label!r}", f"m, of {len(frames)} of {len(numbers)} frames"
        )
    known = dataset.get_metadata()
    raw.energy_eV = known_length(known.photon_energy_eV or 0.0)
    raw.distance_m = known_length(abs(known.detector_distance_m or 0.0))
    if (pixel := known.detector_pixel_geometry) is not None:
        raw.detector_pixel_m = float(pixel.width_m), float(pixel.height_m)
    if (centre := known.beam_center) is not None:
        raw.centre = float(centre.y_px), float(centre.x_px)
    bad = np.asarray(dataset.get_bad_pixels(), bool)
    raw.valid_pixels = ~bad if bad.shape == raw.shape and bad.any() else None
    return raw


def _tried(read: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a reader; None where it does not know the file, which each of them says in its own way."""
    try:
        return read(*arguments)
    except Exception:
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Ptychodus, and the packages it imports: its readers report every file that is not theirs."""
    logger = logging.getLogger(PACKAGE)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
