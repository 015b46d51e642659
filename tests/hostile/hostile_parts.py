"""Parts of hostile files: a case, ZIP, NumPy and HDF5 as nobody should write them, a small scan and model."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import TrainedModel

MB = 1 << 20


GB = 1 << 30


@dataclass(frozen=True)
class Case:
    """One file; `form` is the format that it is counted under."""

    form: str
    name: str
    file: str
    data: bytes
    read: Callable[[Path], Any]
    loads: bool | None = None
    """True where the file must load, False where it must be refused; None where either will do."""


def zeros_deflated(megabytes: int) -> bytes:
    """A raw deflate stream of zeros, made quickly."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(bytes(MB)) + packer.flush(zlib.Z_FULL_FLUSH)) * megabytes + b"\x03\x00"


@dataclass
class Entry:
    """A member of a zip, of which any field may lie."""

    name: str
    data: bytes = b""
    method: int = 0
    flags: int = 0
    size: int | None = None
    crc: int | None = None
    local: dict[str, Any] | None = None
    offset: int | None = None

    def fields(self) -> dict[str, Any]:
        size = len(self.data) if self.size is None else self.size
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        return {"flags": self.flags, "method": self.method, "crc": crc, "packed": len(self.data),
                "size": size, "name": self.name.encode()}  # fmt: skip


def zipped(*entries: Entry) -> bytes:
    body, directory = b"", b""
    for entry in entries:
        own, offset = (
            entry.fields() | (entry.local or {}),
            len(body) if entry.offset is None else entry.offset,
        )
        form = "<HHHHHLLLHH"
        body += b"PK\3\4" + struct.pack(
            form, 20, own["flags"], own["method"], 0, 33, own["crc"], own["packed"], own["size"], len(own["name"]), 0
        ) + own["name"] + entry.data  # fmt: skip
        listed = entry.fields()
        directory += b"PK\1\2" + struct.pack(
            "<HHHHHHLLLHHHHHLL", 20, 20, listed["flags"], listed["method"], 0, 33, listed["crc"], listed["packed"],
            listed["size"], len(listed["name"]), 0, 0, 0, 0, 0o644 << 16, offset
        ) + listed["name"]  # fmt: skip
    count = len(entries)
    return (
        body
        + directory
        + b"PK\5\6"
        + struct.pack("<HHHHLLH", 0, 0, count, count, len(directory), len(body), 0)
    )


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(values), allow_pickle=True)
    return stream.getvalue()


def npy_header(shape: str, dtype: str = "'<f4'", claimed: int | None = None) -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\2\0" + struct.pack("<L", len(text) if claimed is None else claimed) + text


def npz(entries: dict[str, bytes], deflated: tuple[str, ...] = ()) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries.items():
            method = zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, method)
    return stream.getvalue()


def hdf5(fill: Callable[[h5py.File], Any]) -> bytes:
    with h5py.File(f"case-{random.random()}", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


def scan() -> Scan:
    draw = np.random.default_rng(1)
    x, y = (values.ravel() for values in np.meshgrid(np.arange(3) * 3.0 + 20, np.arange(3) * 3.0 + 20))
    probe = (draw.normal(size=(16, 16)) + 1j).astype(np.complex64)
    return Scan(
        x, y, draw.integers(0, 99, (9, 16, 16)).astype(np.uint16), probe_guess=probe, measurement="intensity",
        pixel_size_m=1e-8, photon_energy_eV=8000.0, detector_distance_m=1.0,
    )  # fmt: skip


def model() -> TrainedModel:
    config = TrainingConfig(model=ModelConfig(architecture="unrolled", N=16))
    weights = initial_weights(config.model, 3, probe=np.full((16, 16), 0.1 + 1j), intensity_scale=31.25)
    return TrainedModel(config, weights, 31.25, (), "torch")
