"""MATLAB files: arrays of version 5 by scipy.io, and the recognition of version 7.3, which is HDF5."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError

MAX_VARIABLES = 1000


def is_matlab_73(path: Path) -> bool:
    """Recognise the header of a MATLAB 7.3 file."""
    with open(path, "rb") as stream:
        return stream.read(10) == b"MATLAB 7.3"


def matlab_5_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of numbers in a MATLAB 5 file, with MATLAB's axes; those in structs as `struct/field`.

    Raises
    ------
    ScanError
        If the file is damaged.
    """
    import scipy.io  # late: it takes a while

    try:
        content = scipy.io.loadmat(path, struct_as_record=True, squeeze_me=False)
    except Exception as error:  # damage makes it raise almost anything
        raise ScanError(f"{path}: not a readable MATLAB 5 file ({error})") from error
    found: dict[str, NDArray] = {}
    for name, value in content.items():
        if not name.startswith("__"):
            _collect(name, value, found)
    return found


def _collect(name: str, value: object, found: dict[str, NDArray], depth: int = 0) -> None:
    if not isinstance(value, np.ndarray) or len(found) >= MAX_VARIABLES:
        return
    if value.dtype.kind in "biufc":
        found[name] = value
    elif value.dtype.names and value.size == 1 and depth < 3:
        for field in value.dtype.names:
            _collect(f"{name}/{field}", value.reshape(-1)[0][field], found, depth + 1)
