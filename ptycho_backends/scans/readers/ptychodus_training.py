"""Ptychodus's training-data HDF5: everything in one file."""

from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source
from ptycho_backends.scans.training_data import NAMES, raw_of_training_hdf5


def recognises(source: Source) -> bool:
    return source.kind == "HDF5" and source.entries >= set(NAMES)


def read(source: Source) -> RawScan:
    return raw_of_training_hdf5(source.path, mapped=source.mapped and not source.is_temporary)
