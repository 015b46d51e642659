"""Arrays that stay in their NPZ or NPY file and are read as they are needed."""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.file_kind import kind_of, words_for

# Fixed part of a member's own header (APPNOTE.TXT, section 4.3.7): signature, 22 bytes, lengths of name and extra.
_LOCAL_HEADER = struct.Struct("<4s22xHH")


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
    path, member = Path(path), f"{key}.npy"
    try:
        with open(path, "rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                if member not in archive.namelist():
                    raise ScanError(f"{path}: {key} missing")
                info = archive.getinfo(member)
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise ScanError(
                    f"{path}: {key} is compressed, so it cannot be mapped; write the file with "
                    "`save_scan(load_scan(path), new_path, compressed=False)`"
                )
            stream.seek(info.header_offset)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
            if signature != b"PK\x03\x04":
                raise ScanError(f"{path}: {key} is not where the file says")
            start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            stream.seek(start)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, fortran_order, dtype = read_header[npy.read_magic(stream)](stream)
            offset = stream.tell()
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        if dtype.hasobject or offset + size != start + info.file_size:
            raise ScanError(f"{path}: {key} claims {dtype} of shape {shape}, which is not what is stored")
        if size == 0:
            return np.empty(shape, dtype)
        return np.asarray(np.memmap(path, dtype, "r", offset, shape, "F" if fortran_order else "C"))
    except ScanError:
        raise
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # a damaged file makes zipfile and NumPy raise almost anything
        raise ScanError(f"{path}: {key}: not a readable NPZ entry ({error})") from error


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
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise ScanError(f"{path}: not a readable NPY file ({error})") from error
