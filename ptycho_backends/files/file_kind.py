"""Kind of a file by its first bytes, because a suffix may be wrong."""

import os
from pathlib import Path
from typing import IO, Literal

from ptycho_backends.errors import ScanError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf5")

FileKind = Literal["HDF5", "zip", "NPY", "MATLAB 5", "TIFF", "gzip", "bzip2", "xz"]

_UNPACK = "unpack it first, with"
_WEB_PAGE = "a web page, of a login perhaps; download the file again"

_PICTURE = "a {} image, whose pixels are hardly counts; want the detector's own file"
_VIDEO = "a video, whose pixels are hardly counts; want the detector's own file"
_SAVE = "save the arrays with `numpy.savez` instead"

# First bytes of files that hold arrays, or a file that does.
_KNOWN: tuple[tuple[bytes, "FileKind"], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x93NUMPY", "NPY"),
    (b"MATLAB 5.0 MAT-file", "MATLAB 5"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
)

# Offset, first bytes there, and the words for the user.
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer in the place of the data; fetch them with `git lfs pull`",
    ),
    (0, b"\x28\xb5\x2f\xfd", f"compressed with Zstandard; {_UNPACK} `unzstd`"),
    (257, b"ustar", f"a tar archive; {_UNPACK} `tar -xf`"),
    (0, b"###CBF", "a CBF image; stack the patterns into one array (M, N, N), with `fabio` for instance"),
    (0, b"CDF\x01", "a NetCDF 3 file; convert it to HDF5 with `nccopy -k nc4`"),
    (0, b"CDF\x02", "a NetCDF 3 file; convert it to HDF5 with `nccopy -k nc4`"),
    (0, b"\x89PNG", _PICTURE.format("PNG")),
    (0, b"\xff\xd8\xff", _PICTURE.format("JPEG")),
    (0, b"GIF8", _PICTURE.format("GIF")),
    (0, b"%PDF", "a PDF document; want the detector's own file"),
    (4, b"ftyp", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {_UNPACK} `7z x`"),
    (0, b"Rar!", f"a RAR archive; {_UNPACK} `unrar x`"),
    (0, b"\x80\x04\x95", f"a pickle of Python, which is a program and is not run; {_SAVE}"),
    (0, b"\x80\x03", f"a pickle of Python, which is a program and is not run; {_SAVE}"),
)
# Kinds that only the readers of scans know, with a cure where another one is wanted.
_ELSEWHERE: dict[FileKind, str] = {
    "gzip": f"compressed with gzip; {_UNPACK} `gunzip`",
    "bzip2": f"compressed with bzip2; {_UNPACK} `bunzip2`",
    "xz": f"compressed with xz; {_UNPACK} `unxz`",
    "MATLAB 5": "a MATLAB 5 file; read it with `load_scan`",
    "TIFF": "a TIFF image; read it with `load_scan`",
}
_MARKUP = (b"<!doctype html", b"<html", b"<head")
_LONGEST = max(offset + len(first) for offset, first, _ in _FOREIGN)


def kind_of(path: str | os.PathLike[str]) -> FileKind | None:
    """Recognise a file that may hold arrays.

    Returns
    -------
    {'HDF5', 'zip', 'NPY', 'MATLAB 5', 'TIFF', 'gzip', 'bzip2', 'xz'} or None
        None for unknown content. An NPZ file is a zip. MATLAB 7.3 is HDF5.

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
    for first, kind in _KNOWN:
        if start.startswith(first):
            return kind
    if start.lstrip()[:14].lower().startswith(_MARKUP):
        raise ScanError(f"{path}: {_WEB_PAGE}")
    for offset, first, words in _FOREIGN:
        if start[offset : offset + len(first)] == first:
            raise ScanError(f"{path}: {words}")
    return None


def words_for(path: str | os.PathLike[str]) -> str | None:
    """What a file is that was taken for one of another kind, perhaps with a cure; None for unknown content."""
    try:
        kind = kind_of(path)
    except ScanError as error:
        return str(error).removeprefix(f"{Path(path)}: ")
    return None if kind is None else f"{'an' if kind in ('HDF5', 'NPY', 'xz') else 'a'} {kind} file"


def _is_hdf5(stream: IO[bytes]) -> bool:
    """Look for the signature, before which there may be a user block of 512, 1024, 2048, ... bytes."""
    size, offset = stream.seek(0, os.SEEK_END), 0
    while offset + len(HDF5_SIGNATURE) <= size:
        stream.seek(offset)
        if stream.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
            return True
        offset = 2 * offset or 512
    return False


def require_hdf5(path: Path) -> None:
    """Raise `ScanError` with the kind of a file that is no HDF5, and a cure."""
    kind = kind_of(path)
    if kind != "HDF5":
        words = None if kind is None else _ELSEWHERE.get(kind)
        raise ScanError(f"{path}: {words or 'not a readable HDF5 file'}")
