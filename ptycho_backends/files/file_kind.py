"""Kind of a file by its first bytes, because a suffix may be wrong."""

import os
from pathlib import Path
from typing import IO, Literal

from ptycho_backends.errors import ScanError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf5")
_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")

_TIFF = (
    "a TIFF image; stack the patterns into one array (M, N, N), with `tifffile.imread` for instance, and make a "
    "`Scan` of it"
)
_UNPACK = "unpack it first, with"
_WEB_PAGE = "a web page, of a login perhaps; download the file again"

# Offset, first bytes there, and the words for the user.
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer in the place of the data; fetch them with `git lfs pull`",
    ),
    (0, b"\x1f\x8b", f"compressed with gzip; {_UNPACK} `gunzip`"),
    (0, b"BZh", f"compressed with bzip2; {_UNPACK} `bunzip2`"),
    (0, b"\xfd7zXZ\0", f"compressed with xz; {_UNPACK} `unxz`"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed with Zstandard; {_UNPACK} `unzstd`"),
    (257, b"ustar", f"a tar archive; {_UNPACK} `tar -xf`"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB 5 file; save it from MATLAB with '-v7.3' and use `open_patterns`"),
    (0, b"II*\0", _TIFF),
    (0, b"MM\0*", _TIFF),
    (0, b"II+\0", _TIFF),
    (0, b"MM\0+", _TIFF),
    (0, b"###CBF", "a CBF image; stack the patterns into one array (M, N, N), with `fabio` for instance"),
    (0, b"CDF\x01", "a NetCDF 3 file; convert it to HDF5 with `nccopy -k nc4`"),
    (0, b"CDF\x02", "a NetCDF 3 file; convert it to HDF5 with `nccopy -k nc4`"),
    (0, b"\x89PNG", "a PNG image, whose pixels are hardly counts; want the detector's own file"),
    (0, b"<!DOCTYPE html", _WEB_PAGE),
    (0, b"<!doctype html", _WEB_PAGE),
    (0, b"<html", _WEB_PAGE),
)
_LONGEST = max(offset + len(first) for offset, first, _ in _FOREIGN)

FileKind = Literal["HDF5", "zip", "NPY"]


def kind_of(path: str | os.PathLike[str]) -> FileKind | None:
    """Recognise a file that may hold arrays.

    Returns
    -------
    {'HDF5', 'zip', 'NPY'} or None
        None for unknown content. An NPZ file is a zip.

    Raises
    ------
    ScanError
        If the file cannot be read, is empty, or is of a kind that holds no arrays for this library; the text
        names the kind and the cure.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            start = stream.read(_LONGEST)
            if _is_hdf5(stream):
                return "HDF5"
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start:
        raise ScanError(f"{path}: an empty file")
    if start.startswith(_ZIP_SIGNATURES):
        return "zip"
    if start.startswith(b"\x93NUMPY"):
        return "NPY"
    for offset, first, words in _FOREIGN:
        if start[offset : offset + len(first)] == first:
            raise ScanError(f"{path}: {words}")
    return None


def _is_hdf5(stream: IO[bytes]) -> bool:
    """Look for the signature, before which there may be a user block of 512, 1024, 2048, ... bytes."""
    size, offset = stream.seek(0, os.SEEK_END), 0
    while offset + len(HDF5_SIGNATURE) <= size:
        stream.seek(offset)
        if stream.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
            return True
        offset = 2 * offset or 512
    return False
