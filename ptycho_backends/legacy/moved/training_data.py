"""`ptycho_backends.scans.training_data` and the export beside it, under their former common name."""

from ptycho_backends.scans.scan_files import export_training_data
from ptycho_backends.scans.training_data import load_training_hdf5, save_training_hdf5

__all__ = ["export_training_data", "load_training_hdf5", "save_training_hdf5"]
