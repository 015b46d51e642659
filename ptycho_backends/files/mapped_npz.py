"""Arrays that stay in their NPZ or NPY file and are read as they are needed."""

import os
from pathlib import Path

from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.file_kind import kind_of, words_for
from ptycho_backends.files.npy_file import load_npy
from ptycho_backends.files.npz_file import NpzFile


def mapped_entry(path: str | os.PathLike[str], key: str) -> NDArray:
    """The array `key` of an NPZ file, mapped into memory, not read.

    Parameters
    ----------
    path : path
        Written by `numpy.savez`, not `savez_compressed`.
    key : str

    Returns
    -------
    read-only array
        Valid as long as the file stays as it is.

    Raises
    ------
    ScanError
        If it is compressed, missing or damaged.
    """
    with NpzFile(path) as file:
        return file.mapped(key)


def mapped_npy(path: str | os.PathLike[str]) -> NDArray:
    """The array of an NPY file, mapped into memory, not read.

    Raises
    ------
    ScanError
        If the file cannot be read, or is of another kind; the text names it.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind not in ("NPY", None):
        raise ScanError(f"{path}: {words_for(path)}, want an array in an NPY file")
    return load_npy(path)
