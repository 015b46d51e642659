"""Files of NumPy made to harm: NPZ, NPY."""

import zlib
from collections.abc import Iterator

import numpy as np
from hostile_parts import MB, Entry, npy, npy_header, npz, scan, zeros_deflated, zipped


def hostile_scans_npz() -> Iterator[tuple[str, bytes, bool | None]]:
    whole = {
        "xcoords": npy(np.arange(9.0)),
        "ycoords": npy(np.arange(9.0)),
        "diff3d": npy(scan().patterns.astype(np.float32)),
    }

    def deflated(name: str, shape: str, megabytes: int, dtype: str = "'<c8'") -> bytes:
        header = npy_header(shape, dtype)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + zeros_deflated(megabytes)
        size = len(header) + megabytes * MB
        return zipped(
            *(Entry(f"{key}.npy", value) for key, value in whole.items() if key != name),
            Entry(f"{name}.npy", data, 8, size=size),
        )

    yield "objectGuess of a gigabyte", deflated("objectGuess", "(16384, 8192)", 1024), None
    yield "probeModes of a gigabyte", deflated("probeModes", "(1024, 1024, 128)", 1024), False
    yield "probeGuess of a gigabyte", deflated("probeGuess", "(16384, 8192)", 1024), False
    yield "patterns of a gigabyte", deflated("diff3d", "(9, 4096, 7281)", 1024, "'<f4'"), False
    yield "positions of a gigabyte", deflated("xcoords", f"({128 * MB},)", 1024, "'<f8'"), False
    yield "many more patterns than positions", deflated("diff3d", "(65536, 16, 16)", 64, "'<f4'"), False
    for name, start in {
        "header of four gigabytes": npy_header("(9,)", claimed=0xFFFFFFF0),
        "header of a megabyte": npy_header("(9,)", claimed=MB) + b" " * MB,
        "shape of any size": npy_header("(99999999999999999999,)"),
        "negative shape": npy_header("(-9,)"),
        "shape of floats": npy_header("(9.0,)"),
        "shape of True": npy_header("(True,)"),
        "many axes": npy_header("(" + "1," * 900 + ")"),
        "records": npy_header("(9,)", "[('a', '<f4'), ('b', '<f4')]"),
        "objects": npy_header("(9,)", "'|O'"),
        "an array as type": npy_header("(9,)", "('<f4', (100000, 100000))"),
        "text": npy_header("(9,)", "'<U100000000'"),
        "no type": npy_header("(9,)", "'<q9'"),
        "a call": npy_header("(9,)", "__import__('os').system('true')"),
        "brackets": npy_header("(" * 3000),
        "version 3": b"\x93NUMPY\3\0" + npy_header("(9,)")[8:],
        "version 9": b"\x93NUMPY\x09\0" + npy_header("(9,)")[8:],
        "nothing": b"",
        "a magic alone": b"\x93NUMPY",
    }.items():
        yield f"entry: {name}", npz({**whole, "xcoords": start}), False
    yield "an object of Python", npz({**whole, "objectGuess": npy(np.array([{}], object))}), False
    yield "entries as folders", zipped(*(Entry(f"{key}.npy/", value) for key, value in whole.items())), False
    yield "twenty thousand entries", zipped(*(Entry(f"{n}.npy") for n in range(21_000))), False
    yield "no entries", zipped(), False
    # found by fuzzing: zlib neither takes nor refuses bytes behind a stream of more than a block
    packed = zeros_deflated(3) + bytes(10)
    behind = Entry("xcoords.npy", packed, 8, size=3 * MB, crc=zlib.crc32(bytes(3 * MB)))
    yield "bytes behind compressed ones", zipped(behind), False
    yield "NaN", npz({**whole, "ycoords": npy(np.full(9, np.nan))}), False
    yield "complex positions", npz({**whole, "ycoords": npy(np.full(9, 1j))}), False


def hostile_npy() -> Iterator[tuple[str, bytes]]:
    yield "header of four gigabytes", npy_header("(9, 2)", claimed=0xFFFFFFF0)
    yield "shape of any size", npy_header("(999999999999, 2)")
    yield "more than there is", npy_header("(1000000, 2)") + bytes(80)
    yield "objects", npy(np.array([[{}, 1]], object))
    yield "brackets", npy_header("(" * 4000)
    yield "a huge item", npy_header("(2, 2)", "'|V2000000000'")
