"""HDF5 and NPZ of any layout, by names of arrays in common use or by the paths that the options give."""

from typing import Any

import numpy as np

from ptycho_backends.scans.npz import entry_shapes, read_entries
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.hdf5_parts import frames
from ptycho_backends.scans.readers.named_parts import PATTERNS, raw_of_parts
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    if source.kind == "zip":
        return bool(source.entries) and (
            source.dataset("patterns") is not None or bool(source.entries.intersection(PATTERNS))
        )
    if source.kind != "HDF5":
        return False
    if source.dataset("patterns") is not None:
        return True
    with source.hdf5() as file:
        found = file.datasets()
    return any(name.rpartition("/")[2] in PATTERNS and len(shape) in (3, 4) for name, shape in found.items())


def read(source: Source) -> RawScan:
    if source.kind == "zip":
        shapes = entry_shapes(source.path)
        return raw_of_parts(
            source, "NPZ of other names", shapes, lambda name: read_entries(source.path, [name])[0][name]
        )
    with source.hdf5() as file:
        found = file.datasets()
        for part in source.options.datasets.values():
            # paths over links, which the listing does not have
            if (shape := file.shape(part)) is not None:
                found.setdefault(part, shape)

        def patterns(name: str) -> Any:
            return frames(source, file, [name])

        def unit(name: str) -> str | None:
            stated = file.attributes(name).get("units")
            return None if stated is None else str(stated)

        return raw_of_parts(
            source, "plain HDF5", found, lambda name: np.asarray(file.array(name)), patterns, unit
        )
