"""HDF5 files made to harm: scans and products."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from hostile_parts import MB, hdf5, scan, zeros_deflated


def bomb_chunk(
    file: h5py.File, where: str, shape: tuple[int, ...], chunk: tuple[int, ...], megabytes: int, **more: Any
) -> None:
    filters = {"compression": "gzip", **more}
    data = file.create_dataset(where, shape, "f4", chunks=chunk, maxshape=(None,) * len(shape), **filters)
    data.id.write_direct_chunk((0,) * len(shape), b"\x78\x9c" + zeros_deflated(megabytes) + bytes(4))


def hostile_hdf5() -> Iterator[tuple[str, bytes, bool | None]]:
    counts = scan().patterns

    def lab(**others: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
        def fill(file: h5py.File) -> None:
            parts = {
                "ptychogram": lambda f: f.__setitem__("ptychogram", counts),
                "encoder": lambda f: f.__setitem__("encoder", np.arange(18.0).reshape(9, 2) * 1e-7),
                "dxd": lambda f: f.__setitem__("dxd", 5e-5),
                "zo": lambda f: f.__setitem__("zo", 0.5),
                "wavelength": lambda f: f.__setitem__("wavelength", 1e-9),
                **others,
            }
            for part in parts.values():
                part(file)

        return fill

    yield "PtyLab, whole", hdf5(lab()), True
    for name, part in {
        "a chunk of a gigabyte": lambda f: bomb_chunk(f, "ptychogram", (9, 16, 16), (9, 16, 16), 1000),
        "a chunk of a gigabyte, shuffled": lambda f: bomb_chunk(
            f, "ptychogram", (9, 16, 16), (9, 16, 16), 1000, shuffle=True
        ),
        "a chunk much larger than its data": lambda f: bomb_chunk(
            f, "ptychogram", (9, 16, 16), (4096, 256, 256), 1000
        ),
        "patterns of zeros": lambda f: bomb_chunk(f, "ptychogram", (9, 4096, 7281), (9, 4096, 7281), 1024),
        "never written": lambda f: f.create_dataset(
            "ptychogram", (9, 4096, 4096), "f4", chunks=(1, 4096, 4096)
        ),
        "of any size": lambda f: f.create_dataset("ptychogram", (9, 10**8, 10**8), "f4", chunks=(1, 16, 16)),
        "in another file": lambda f: f.create_dataset(
            "ptychogram", (9, 16, 16), "u2", external=[("/etc/passwd", 0, 9 * 512)]
        ),
        "behind a link": lambda f: f.__setitem__("ptychogram", h5py.ExternalLink("/etc/passwd", "/x")),
        "behind links in a circle": lambda f: f.__setitem__("ptychogram", h5py.SoftLink("/ptychogram")),
        "of text": lambda f: f.__setitem__("ptychogram", ["a"] * 9),
        "of one number": lambda f: f.__setitem__("ptychogram", 3.0),
        "empty": lambda f: f.__setitem__("ptychogram", np.zeros((0, 16, 16))),
        "a group": lambda f: f.create_group("ptychogram"),
    }.items():
        yield f"patterns {name}", hdf5(lab(ptychogram=part)), False
    yield (
        "positions of a gigabyte",
        hdf5(lab(encoder=lambda f: bomb_chunk(f, "encoder", (64 * MB, 2), (64 * MB, 2), 512))),
        False,
    )
    yield (
        "a distance of many numbers",
        hdf5(lab(zo=lambda f: bomb_chunk(f, "zo", (64 * MB,), (64 * MB,), 256))),
        None,
    )

    def many_groups(file: h5py.File) -> None:
        for number in range(1500):
            file.create_group(f"g{number % 40}/{number}")

    yield "many groups", hdf5(many_groups), False

    def in_circles(file: h5py.File) -> None:
        file["entry/a"] = h5py.SoftLink("/entry")
        file["entry/b"] = file["/"]

    yield "groups that hold themselves", hdf5(in_circles), False

    def odd_attributes(file: h5py.File) -> None:
        lab()(file)
        file["zo"].attrs["units"] = np.zeros(1000)
        file["dxd"].attrs["units"] = b"\x1b[2J"

    yield "attributes of other kinds", hdf5(odd_attributes), None
    yield "virtual without a source", hdf5(lab(ptychogram=_virtual)), False


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((9, 16, 16), "u2")
    layout[:] = h5py.VirtualSource("../../elsewhere.h5", "data", (9, 16, 16))
    file.create_virtual_dataset("ptychogram", layout)


def without_end(data: bytes) -> bytes:
    """The free space in the heap of texts takes no room (found by fuzzing; HDF5 1.14 reads it for ever)."""
    changed, place = bytearray(data), data.index(b"GCOL") + 16
    while struct.unpack_from("<H", data, place)[0]:
        place += 16 + -(-struct.unpack_from("<Q", data, place + 8)[0] // 8) * 8
    struct.pack_into("<Q", changed, place + 8, 0)
    return bytes(changed)


def hostile_products() -> Iterator[tuple[str, bytes]]:
    def product(**others: Any) -> bytes:
        def fill(file: h5py.File) -> None:
            arrays = {
                "probe_position_indexes": np.arange(4), "probe_position_x_m": np.zeros(4),
                "probe_position_y_m": np.zeros(4), "probe": np.ones((1, 1, 8, 8), "c8"),
                "object": np.ones((1, 9, 9), "c8"),
            }  # fmt: skip
            for name, value in {**arrays, **others}.items():
                if callable(value):
                    value(file)
                elif value is not None:
                    file[name] = value
            file.attrs.update({"detector_object_distance_m": 1.0, "photon_energy_eV": 8e3, "name": "x"})
            for name in ("object", "probe"):
                if name in file:
                    sides = {
                        "pixel_width_m": 1e-8,
                        "pixel_height_m": 1e-8,
                        "center_x_m": 0.0,
                        "center_y_m": 0.0,
                    }
                    file[name].attrs.update(sides)

        return hdf5(fill)

    yield "texts without end", without_end(product())
    yield "positions of text", product(probe_position_x_m=["a"] * 4)
    yield "no object", product(object=None)
    yield "unequal positions", product(probe_position_x_m=np.zeros(5))
    yield "NaN", product(probe_position_x_m=np.full(4, np.nan))
    yield "an object of real numbers", product(object=np.ones((9, 9)))
    yield "a probe of five axes", product(probe=np.ones((1, 1, 1, 8, 8), "c8"))
    yield "an object of no pixels", product(object=np.ones((1, 0, 9), "c8"))
    for name, shape in (("loss_values", (64 * MB,)), ("opr_weights", (4, 16 * MB))):
        yield (
            f"{name} of a gigabyte",
            product(**{name: lambda f, name=name, shape=shape: bomb_chunk(f, name, shape, shape, 256)}),
        )
