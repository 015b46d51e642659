"""Hostile and damaged files, generated: for each a name, the file's name, its bytes, and the function that reads it.

`python hostile_corpus.py FOLDER` reads all of them with an audit hook, and writes what happened as JSON.
"""

import gzip
import io
import itertools
import json
import lzma
import pickle
import random
import struct
import sys
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - so that it is there before the hook
import numpy as np

from ptycho_backends.archive.lightning_checkpoint import CHECKPOINT_KEY, PARAMETER_PREFIX
from ptycho_backends.archive.model_file import inspect_archive, load_archive, save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig, config_to_plain
from ptycho_backends.config_file import load_config, save_config
from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.images.results import load_reconstruction, save_reconstruction
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.scans.product import Product, ProductMetadata, load_product, save_product
from ptycho_backends.scans.readers.positions import positions_of_file
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import export_training_data, load_scan
from ptycho_backends.values import Reconstruction, TrainedModel

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


def both(path: Path) -> None:
    """Look at a model and load it; a summary may hold the problem that loading then raises."""
    summary = inspect_archive(path)
    str(summary)
    load_archive(path)


# --- parts


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


# --- seeds, which load


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


def seeds(folder: Path) -> dict[str, Case]:
    """A whole file of each kind, by a short name."""
    found: dict[str, Case] = {}

    def add(form: str, file: str, read: Callable[[Path], Any]) -> None:
        found[file] = Case(form, "whole", file, (folder / file).read_bytes(), read, loads=True)

    save_archive(model(), folder / "model.zip")
    add("zip", "model.zip", both)
    (folder / "model.ckpt").write_bytes(checkpoint(checkpoint_content()))
    add("ckpt", "model.ckpt", both)
    for file in ("scan.npz", "scan.h5", "scan.cxi", "scan.nxs", "scan.ptyd"):
        export_training_data(scan(), folder / file)
        add("NPZ" if file == "scan.npz" else "HDF5", file, load_scan)
    export_training_data(scan(), folder / "plain.npz", compressed=False)
    add("NPZ", "plain.npz", lambda path: load_scan(path, mapped=True))
    product = Product(
        ProductMetadata(1.0, 8000.0, name="x"), np.zeros((4, 2)), np.ones((32, 32), np.complex64), np.zeros(2),
        np.full(2, 1e-8), np.ones((16, 16), np.complex64),
    )  # fmt: skip
    save_product(product, folder / "product.h5")
    add("product", "product.h5", load_product)
    image = Reconstruction(
        np.ones((20, 20), np.complex64), np.ones((20, 20), np.float32), np.zeros(2), np.zeros((3, 2)),
        backend="torch",
    )  # fmt: skip
    save_reconstruction(image, folder / "image.npz")
    add("NPZ", "image.npz", load_reconstruction)
    save_config(TrainingConfig(), folder / "config.yaml")
    add("YAML", "config.yaml", load_config)
    (folder / "positions.csv").write_text("x_um,y_um\n" + "".join(f"{n / 7},{n * 2}\n" for n in range(40)))
    add("CSV", "positions.csv", positions_of_file)
    (folder / "xy.npy").write_bytes(npy(np.arange(20.0).reshape(10, 2)))
    add("NPY", "xy.npy", positions_of_file)
    (folder / "frames").mkdir(exist_ok=True)
    with_positions = "frames/scan.{}"
    (folder / "frames" / "scan.csv").write_text("x,y\n" + "".join(f"{n},{n}\n" for n in range(9)))
    (folder / "frames" / "scan.tif").write_bytes(tiff([bytes(range(256)) * 2] * 9))
    from ptycho_backends.scans.scan_options import ScanOptions

    options = ScanOptions(positions_unit="px")

    def in_pixels(path: Path) -> Any:
        return load_scan(path, options=options)

    add("TIFF", with_positions.format("tif"), in_pixels)
    (folder / "scan.mat").write_bytes(matlab())
    add("MATLAB", "scan.mat", in_pixels)
    tike = {
        "data": npy(scan().patterns[None].astype(np.float32)),
        "scan": npy(np.ones((1, 9, 2), np.float32)),
    }
    (folder / "tike.npz").write_bytes(npz(tike))
    add("NPZ", "tike.npz", load_scan)
    return found


def checkpoint_content() -> dict[str, Any]:
    trained = model()
    values = {
        "config": config_to_plain(trained.config), "intensity_scale": 31.25, "history": [], "epoch": 0,
        "batches_done": 0, "schedule": {}, "loss_sum": 0.0, "trainable": [],
    }  # fmt: skip
    state = {}
    for name, weight in trained.weights.items():
        value = np.stack([weight.real, weight.imag], -1) if weight.dtype.kind == "c" else weight
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 and weight.dtype.kind != "c" else value
        state[PARAMETER_PREFIX + name] = Tensor(np.array(value, np.float32, order="C"))
    return {
        CHECKPOINT_KEY: json.dumps(values), "pytorch-lightning_version": "2.6", "state_dict": state,
        "optimizer_states": [{"state": {}, "param_groups": [{"params": []}]}],
    }  # fmt: skip


class Tensor:
    """Stands for a tensor while a checkpoint is pickled without PyTorch."""

    def __init__(
        self, values: np.ndarray, shape: Any = None, strides: Any = None, length: Any = None
    ) -> None:
        self.values, self.shape = values, values.shape if shape is None else shape
        self.strides = tuple(stride // 4 for stride in values.strides) if strides is None else strides
        self.length = values.size if length is None else length


def checkpoint(content: Any) -> bytes:
    """A file as `torch.save` writes it."""
    storages: list[bytes] = []
    names = {"torch": ["FloatStorage"], "torch._utils": ["_rebuild_tensor_v2"]}
    known = {module: sys.modules.get(module) for module in names}
    for module, (name,) in names.items():
        fake: Any = types.ModuleType(module)
        thing = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(fake, name, thing)
        sys.modules[module] = fake
    rebuild: Any = sys.modules["torch._utils"]._rebuild_tensor_v2
    storage: Any = sys.modules["torch"].FloatStorage

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, _Storage):
                return None
            storages.append(value.tensor.values.tobytes())
            return ("storage", storage, str(len(storages) - 1), "cpu", value.tensor.length)

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, Tensor):
                return rebuild, (_Storage(value), 0, value.shape, value.strides, False, {})
            return NotImplemented

    stream = io.BytesIO()
    try:
        Pickler(stream, 2).dump(content)
    finally:
        for module, before in known.items():
            if before is None:
                del sys.modules[module]
            else:
                sys.modules[module] = before
    return zipped(
        Entry("archive/data.pkl", stream.getvalue()), Entry("archive/byteorder", b"little"),
        *(Entry(f"archive/data/{number}", data) for number, data in enumerate(storages)),
    )  # fmt: skip


class _Storage:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def tiff(
    pages: list[bytes], *, compression: int = 1, side: int = 16, count: int | None = None, ring: bool = False
) -> bytes:
    """Grey pages of uint16, one strip each."""
    data, place = b"II*\0" + struct.pack("<L", 8), 8
    for number, pixels in enumerate(pages):
        tags = [(256, side), (257, side), (258, 16), (259, compression), (262, 1), (273, place + 2 + 9 * 12 + 4),
                (277, 1), (278, side), (279, len(pixels) if count is None else count)]  # fmt: skip
        following = place + 2 + 9 * 12 + 4 + len(pixels)
        last = number == len(pages) - 1
        data += struct.pack("<H", 9) + b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
        data += struct.pack("<L", (8 if ring else 0) if last else following) + pixels
        place = following
    return data


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<LL", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def matrix(name: str, values: np.ndarray, *, dims: tuple[int, ...] | None = None, kind: int = 6) -> bytes:
    shape = values.shape if dims is None else dims
    return element(
        14,
        element(6, struct.pack("<LL", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
        + element(1, name.encode()) + element(9, np.asfortranarray(values, "<f8").tobytes(order="F")),
    )  # fmt: skip


def matlab(*parts: bytes) -> bytes:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    if not parts:
        counts = np.moveaxis(scan().patterns.astype(float), 0, -1)
        parts = (
            matrix("dp", counts),
            matrix("x", np.arange(9.0)[:, None]),
            matrix("y", np.arange(9.0)[:, None]),
        )
    return header + b"".join(parts)


# --- damage of any kind


def damaged(seed: Case, count: int) -> Iterator[Case]:
    """Single bits flipped, bytes replaced, parts cut out or doubled."""
    draw = random.Random(f"{seed.file} 1")
    size = len(seed.data)
    for number in range(count):
        data, place = bytearray(seed.data), draw.randrange(size)
        kind = ("bit", "bytes", "cut", "without", "twice")[number % 5]
        if kind == "bit":
            data[place] ^= 1 << draw.randrange(8)
        elif kind == "bytes":
            data[place : place + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
        elif kind == "cut":
            del data[place:]
        elif kind == "without":
            del data[place : place + draw.randrange(1, 200)]
        else:
            data[place:place] = data[place : place + 200]
        yield replace(seed, name=f"{kind} {number}", data=bytes(data[: 2 * size]), loads=None)


# --- made to harm


def hostile_zips(whole: Case) -> Iterator[tuple[str, bytes]]:
    members = members_of(whole.data)
    good = [Entry(name, data) for name, data in members.items()]

    def changed(name: str, **fields: Any) -> bytes:
        return zipped(*(replace(entry, **fields) if entry.name == name else entry for entry in good))

    bomb = zeros_deflated(1000)
    yield (
        "declares 900 bytes",
        changed("config.json", data=bomb, method=8, size=900, crc=zlib.crc32(bytes(900))),
    )
    yield "declares a gigabyte", changed("weights.h5", data=bomb, method=8, size=1000 * MB)
    yield "larger in its own header", changed("config.json", local={"size": GB})
    yield "smaller in its own header", changed("config.json", local={"size": 1})
    yield "another method in its own header", changed("config.json", local={"method": 8})
    yield "another name in its own header", changed("config.json", local={"name": b"config.jsom"})
    yield "another checksum in its own header", changed("config.json", local={"crc": 1})
    for bit in (0, 4, 5, 6, 7, 9, 12, 13, 15):
        yield f"flag {bit}", changed("config.json", flags=1 << bit)
    yield "named as a folder", zipped(*good, Entry("extra/", b"hidden"))
    yield "in the place of another", changed("config.json", offset=0)
    yield "behind the end", changed("config.json", offset=1 << 30)
    text = zeros_deflated(3)
    many = [Entry(f"extra{n}.json", text, 8, size=3 * MB, crc=zlib.crc32(bytes(3 * MB))) for n in range(1000)]
    manifest = json.loads(members["manifest.json"])
    import hashlib

    digest = hashlib.sha256(bytes(3 * MB)).hexdigest()
    manifest["members"] |= {entry.name: {"sha256": digest, "size": 3 * MB} for entry in many}
    yield (
        "a thousand members",
        zipped(
            Entry("manifest.json", json.dumps(manifest).encode()),
            *(e for e in good if e.name != "manifest.json"),
            *many,
        ),
    )
    inner = zipped(Entry("wts.h5.zip", bomb, 8, size=1000 * MB))
    yield "an archive that unpacks to a gigabyte", inner
    for change in (
        {"version": ["1.0"]}, {"version": {"a": 1}}, {"version": 1e308}, {"backend": 3}, {"backend": None},
        {"models": {"a": 1}}, {"models": [["autoencoder"]]}, {"models": 5}, {"members": {"config.json": []}},
        {"libraries": [1]}, {"created": {}}, {"format": []}, {"members": {"config.json": {"sha256": "", "size": -1}}},
    ):  # fmt: skip
        yield f"manifest {change}"[:60], changed("manifest.json", data=json.dumps(manifest | change).encode())


def signed(members: dict[str, bytes], name: str, data: bytes) -> bytes:
    import hashlib

    manifest = json.loads(members["manifest.json"])
    manifest["members"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    changed = {**members, name: data, "manifest.json": json.dumps(manifest).encode()}
    return zipped(*(Entry(key, value) for key, value in changed.items()))


# Odd, but harmless.
HARMLESS = ("params.json: surrogates", "model offset")


def hostile_json(whole: Case) -> Iterator[tuple[str, bytes]]:
    members = members_of(whole.data)
    texts = {
        "many lists": b"[" + b"[]," * 1_300_000 + b"0]",
        "many objects": b"[" + b'{"a":0},' * 500_000 + b"0]",
        "many keys": b"{" + b",".join(b'"%d":0' % n for n in range(350_000)) + b"}",
        "keys with one hash": json.dumps(
            {"a": {"$dict": [[n * (2**61 - 1), 0] for n in range(40_000)]}}
        ).encode(),
        "a long integer": b'{"a": ' + b"7" * 4000 + b"}",
        "an integer as float": b'{"a": 1e99999}',
        "tuples as keys": json.dumps({"a": {"$dict": [[{"$tuple": [n]}, 0] for n in range(5000)]}}).encode(),
        "deep": b'{"a":' * 100_000,
        "odd pairs": b'{"a": {"$dict": [[1], 2, "x"]}}',
        "not text": b"\xff\xfe{}",
        "surrogates": b'{"\\ud800": "\\udfff"}',
        "too long": b'"' + b"x" * (5 * MB) + b'"',
    }
    for (name, text), member in itertools.product(texts.items(), ("config.json", "params.json")):
        yield f"{member}: {name}", signed(members, member, text)
    config = json.loads(members["config.json"])
    for field, value in (
        ("neighbor_count", 10**9),
        ("batch_size", 2**40),
        ("neighbor_count", 10**400),
        ("nepochs", {}),
        ("output_dir", 5),
    ):
        own = {**config, "training": {**config["training"], field: value}}
        yield f"{field} {value}"[:40], signed(members, "config.json", json.dumps(own).encode())
    for field in (
        "max_position_jitter",
        "offset",
        "n_steps",
        "n_rounds",
        "n_probes",
        "n_probe_modes",
        "N",
        "gridsize",
    ):
        own = json.loads(json.dumps(config))
        own["training"]["model"][field] = 2**40
        yield f"model {field}", signed(members, "config.json", json.dumps(own).encode())
    columns = members["history.csv"].splitlines()[0] + b"\n"
    yield "an endless history", signed(members, "history.csv", columns + b"1,1,1,1,1\n" * 400_000)
    yield "a long cell", signed(members, "history.csv", columns + b"9" * 4_000_000)
    yield "epoch of many digits", signed(members, "history.csv", columns + b"9" * 4000 + b",1,1,1,1\n")
    yield "empty cells", signed(members, "history.csv", columns + b",,,,\n" * 100)


def pickles() -> Iterator[tuple[str, bytes]]:
    def doubled(depth: int, width: int = 2) -> bytes:
        return b"\x80\x04)" + b"\x94" + b"".join(
            b"(" + b"h%c" % n * width + b"t\x94" for n in range(depth)
        ) + b"."  # fmt: skip

    yield "shared tuples", doubled(14)
    yield "shared tuples, deep", doubled(60)
    yield "shared tuples, wide", doubled(5, 300)
    yield "a tuple as the name of a global", b"\x80\x04)" + b"\x94" + b"".join(
        b"h%ch%c\x86\x94" % (n, n) for n in range(40)
    ) + b"h\x28\x8c\x01x\x93."  # fmt: skip
    keys = b"".join(b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"K\0" for n in range(20_000))
    yield "keys with one hash", b"\x80\x04}(" + keys + b"u."
    small = b"".join(b"J" + struct.pack("<i", n) + b"K\0" for n in range(40_000))
    yield "many keys", b"\x80\x04}(" + small + b"u."
    yield "a long integer", b"\x80\x04\x8b" + struct.pack("<i", 2 * MB) + b"\x7f" * (2 * MB) + b"."
    version = {"models": ["autoencoder"]}
    for name, value in (
        ("an array", np.zeros(3)), ("a tuple", (1,)), ("an integer", 2**1000), ("nothing", None), ("a list", [[]]),
        ("another", "3.0"), ("bytes", b"1.0"), ("NaN", float("nan")),
    ):  # fmt: skip
        yield f"version: {name}", pickle.dumps({**version, "version": value}, 4)
        yield f"models: {name}", pickle.dumps({"version": "1.0", "models": value}, 4)
    yield "models: a dictionary in a list", pickle.dumps({"version": "1.0", "models": [{"a": 1}]}, 4)
    yield "a control sequence", pickle.dumps({"version": "\x1b[2J\x9b", "models": ["\x1b]0;x\7"]}, 4)
    yield "a list in itself", b"\x80\x04]\x94h\0a."
    yield "os.system", b"cos\nsystem\n(S'true'\ntR."
    yield "builtins.eval", b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."
    yield "many lists", b"\x80\x04" + b"]" * 400_000 + b"."
    yield (
        "a long text",
        b"\x80\x04X" + struct.pack("<L", 20 * MB) + "é".encode() + b"x" * (20 * MB - 2) + b".",
    )
    yield "a frame that lies", b"\x80\x04\x95" + b"\xff" * 8 + b"N."
    yield "a text that lies", b"\x80\x04X\xff\xff\xff\x7f."
    yield "memo without end", b"\x80\x04Nr\xff\xff\xff\xff."
    yield "nothing", b""


def hostile_checkpoints() -> Iterator[tuple[str, bytes]]:
    content = checkpoint_content()
    first = next(iter(content["state_dict"]))
    four = np.ones(4, np.float32)
    for name, tensor in {
        "strides of zero": Tensor(four, (10**9,), (0,)),
        "negative strides": Tensor(four, (4,), (-1,)),
        "a shape beyond its storage": Tensor(four, (10**6,), (1,)),
        "many axes": Tensor(four, (1,) * 20_000, (1,) * 20_000),
        "a length that lies": Tensor(four, length=10**12),
        "a shape of long integers": Tensor(four, (2**3000,), (1,)),
    }.items():
        yield name, checkpoint({**content, "state_dict": {**content["state_dict"], first: tensor}})
    for name, changed in {
        "no JSON": {CHECKPOINT_KEY: "{"},
        "deep JSON": {CHECKPOINT_KEY: "[" * 100_000},
        "JSON of numbers": {CHECKPOINT_KEY: "[" + "1," * 1_000_000 + "1]"},
        "a number for JSON": {CHECKPOINT_KEY: 3},
        "no weights": {"state_dict": {}},
        "weights in a list": {"state_dict": [1]},
        "no optimiser": {"optimizer_states": []},
        "odd parameter groups": {"optimizer_states": [{"state": 3, "param_groups": 4}]},
        "version": {"pytorch-lightning_version": [1] * 1000},
    }.items():
        yield name, checkpoint({**content, **changed})
    names = [f"{PARAMETER_PREFIX}{n}" for n in range(3000)]
    same = Tensor(four)
    yield "one tensor by many names", checkpoint({**content, "state_dict": dict.fromkeys(names, same)})
    yield "no pickle", zipped(Entry("archive/byteorder", b"little"))
    yield "two pickles", zipped(Entry("a/data.pkl", b"N."), Entry("b/data.pkl", b"N."))
    yield (
        "a bomb for a storage",
        zipped(
            Entry("archive/data.pkl", b"\x80\2N."),
            Entry("archive/data/0", zeros_deflated(900), 8, size=900 * MB),
        ),
    )


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


def hostile_yaml() -> Iterator[tuple[str, bytes]]:
    merges = "a0: &a0 {" + ",".join(f"k{n}: 1" for n in range(9)) + "}\n"
    merges += "".join(f"a{n}: &a{n} {{<<: [" + f"*a{n - 1}," * 9 + "]}\n" for n in range(1, 9))
    laughs = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{n}: &a{n} [" + f"*a{n - 1}," * 9 + "]\n" for n in range(1, 9)
    )
    texts = {
        "merge keys": merges,
        "references": laughs,
        "many keys": "".join(f"k{n}: 1\n" for n in range(10_000)),
        "far too many keys": "".join(f"k{n}: 1\n" for n in range(100_000)),
        "a long hexadecimal integer": "seed: 0x" + "f" * 20_000,
        "a long binary integer": "seed: 0b" + "1" * 20_000,
        "a long integer": "seed: " + "9" * 5000,
        "sixty to many powers": "seed: " + "1:59" * 9 + ":59" * 9000,
        "a float of sixties": "nphotons: 1" + ":59" * 9000 + ".5",
        "!!bool abc": "seed: !!bool abc",
        "!!float abc": "seed: !!float abc",
        "!!int abc": "seed: !!int abc",
        "!!timestamp abc": "seed: !!timestamp abc",
        "!!binary": "seed: !!binary '@@@'",
        "!!set": "seed: !!set {a, b}",
        "!!omap": "seed: !!omap [a]",
        "!!null x": "seed: !!null x",
        "!!python": "seed: !!python/object/apply:os.system ['true']",
        "!!map of a text": "!!map abc",
        "a date": "seed: 2024-13-45",
        "brackets": "[" * 5000,
        "braces": "{a: " * 5000,
        "a list as key": "? [1]\n: 2",
        "twice": "seed: 1\nseed: 2",
        "two documents": "seed: 1\n---\nseed: 2",
        "a tab": "seed:\t\t1\n\tx",
        "a long key": "k" * 100_000 + ": 1",
        "a control sequence": 'backend: "\\e[2J"',
        "a nul": "seed: \0",
        "a list": "- 1",
        "nothing": "",
        "a reference to itself": "a: &a [*a]",
        "infinite": "nphotons: .inf",
        "an integer for a float": "nphotons: " + "9" * 60,
    }
    for name, text in texts.items():
        yield name, text.encode()
    yield "other bytes", bytes(range(128, 256))
    yield "UTF-16", "seed: 1".encode("utf-16")


def hostile_tables() -> Iterator[tuple[str, bytes]]:
    yield "one long line", b"1," * 3_000_000
    yield "no numbers", b"a,b\n" * 200_000
    yield "unequal rows", b"1,2\n" * 1000 + b"1\n"
    yield "words behind numbers", b"1,2\nx,y\n"
    yield "one column", b"1\n2\n"
    yield "nothing but lines", b"\n" * 1_000_000
    yield "bytes", bytes(range(1, 256)) * 100
    yield "not a number", b"nan,inf\n" * 10
    yield "many digits", b"1,2\n" + b"9" * 3000 + b",1\n"
    yield "a control sequence", b"1,2\n\x1b[2J,\x9b\n"


def hostile_tiffs() -> Iterator[tuple[str, bytes]]:
    page = bytes(512)
    bomb = b"\x78\x9c" + zeros_deflated(1000) + bytes(4)
    yield "a strip of a gigabyte", tiff([bomb] * 2, compression=8)
    yield (
        "a strip of a gigabyte, LZMA",
        tiff([lzma.compress(bytes(90 * MB), preset=0)] * 2, compression=34925),
    )
    yield "pages in a circle", tiff([page] * 300, ring=True)
    yield "a side of any size", tiff([page] * 9, side=0x7FFFFFFF)
    yield "a side of 65535", tiff([page] * 9, side=65535)
    yield "a strip that lies", tiff([page] * 9, count=0x7FFFFFFF)
    yield "unknown compression", tiff([page] * 9, compression=54321)
    yield "no pages", b"II*\0\0\0\0\0"
    yield "a page behind the end", b"II*\0\xff\xff\xff\x7f"
    yield "BigTIFF without pages", b"II+\0\x08\0\0\0" + struct.pack("<Q", 0)
    yield "BigTIFF of many tags", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60)
    yield "many tags", b"II*\0\x08\0\0\0\xff\xff" + bytes(100)
    yield "tags of unknown types", b"II*\0\x08\0\0\0" + struct.pack("<H", 3000) + bytes(3000 * 12 + 4)


def hostile_matlab() -> Iterator[tuple[str, bytes]]:
    good = np.ones((2, 2))
    inner = element(14, element(6, struct.pack("<LL", 6, 0)), 1000 * MB)[:16]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(inner) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = b"\x78\x9c" + start + zeros_deflated(1000) + bytes(4)
    yield "a matrix of a gigabyte", matlab(element(15, bomb))
    small = zlib.compress(matrix("a", good)[:8] + bytes(10))
    yield "a matrix that is cut short", matlab(element(15, small))
    yield "compressed twice", matlab(element(15, zlib.compress(element(15, zlib.compress(bytes(1000))))))
    yield "dimensions that lie", matlab(matrix("dp", good, dims=(10**6, 10**6)))
    yield "negative dimensions", matlab(matrix("dp", good, dims=(-1, -4)))
    yield "a cell of any size", matlab(matrix("dp", good, dims=(2**31 - 1,), kind=1))
    yield "a struct of any size", matlab(matrix("dp", good, dims=(2**31 - 1,), kind=2))
    yield "a struct without names", matlab(matrix("dp", good, dims=(1, 1), kind=2))
    yield "a text", matlab(matrix("dp", good, kind=4))
    yield "sparse", matlab(matrix("dp", good, kind=5))
    yield "an element behind the end", matlab(element(14, b"x" * 8, 1 << 31))
    yield "no elements", matlab(b"\0")
    yield "other byte order", b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0XX" + matrix("a", good)
    yield "many elements", matlab(element(1, b"") * 400_000)


def hostile_compressed() -> Iterator[tuple[str, str, bytes]]:
    yield (
        "gzip of a gigabyte",
        "scan.npz.gz",
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + zeros_deflated(300) + bytes(8),
    )
    yield "xz without a stream", "scan.npz.xz", b"\xfd7zXZ\0\0\4" + bytes(40)
    yield "gzip in gzip", "scan.npz.gz", gzip.compress(gzip.compress(b"x"))
    yield "gzip cut short", "scan.npz.gz", gzip.compress(bytes(1000))[:-9]
    yield "many streams", "scan.npz.gz", gzip.compress(b"", 1) * 20_000


def corpus(folder: Path) -> Iterator[Case]:
    """All cases; `folder` takes the seeds."""
    whole = seeds(folder)
    archive, in_pixels = whole["model.zip"], whole["scan.mat"].read
    yield from whole.values()
    for seed in whole.values():
        # a single bit in the structure of an HDF5 file without checksums may crash the C library (1.14.6) itself
        if seed.form != "HDF5":
            yield from damaged(seed, 15)
    for name, data in hostile_zips(archive):
        yield Case("zip", name, "hostile.zip", data, both, loads=False)
    for name, data in hostile_json(archive):
        yield Case("JSON", name, "hostile.zip", data, both, loads=name in HARMLESS)
    files = ("model.keras", "params.dill", "custom_objects.dill", "model.h5")
    others = [Entry(f"autoencoder/{file}", b"x") for file in files]
    for name, data in pickles():
        yield Case(
            "pickle", name, "hostile.zip", zipped(Entry("manifest.dill", data), *others), both, loads=False
        )
    for name, data in hostile_checkpoints():
        loads = None if name == "version" else False
        yield Case("ckpt", name, "hostile.ckpt", data, both, loads=loads)
    for name, data, loads in hostile_scans_npz():
        yield Case("NPZ", name, "hostile.npz", data, load_scan, loads)
    for name, data in hostile_npy():
        yield Case("NPY", name, "hostile.npy", data, positions_of_file, loads=False)
    for name, data, loads in hostile_hdf5():
        yield Case("HDF5", name, "hostile.h5", data, load_scan, loads)
    for name, data in hostile_products():
        yield Case("product", name, "hostile_product.h5", data, load_product, loads=False)
    for name, data in hostile_yaml():
        yield Case("YAML", name, "hostile.yaml", data, load_config)
    for name, data in hostile_tables():
        yield Case("CSV", name, "hostile.csv", data, positions_of_file)
    for name, data in hostile_tiffs():
        yield Case("TIFF", name, "hostile.tif", data, in_pixels, loads=False)
    for name, data in hostile_matlab():
        yield Case("MATLAB", name, "hostile.mat", data, in_pixels, loads=False)
    for name, file, data in hostile_compressed():
        yield Case("compressed", name, file, data, load_scan, loads=False)


if __name__ == "__main__":
    # beside this file, which is run as a program so that the hook sees nothing of the tests
    from hostile_run import run

    from ptycho_backends.scans.readers import ptychodus_plugins

    # where it is installed, its readers try what ours refuse: others' code
    ptychodus_plugins.is_installed = lambda: False
    sys.stdout.write(json.dumps(run(corpus, Path(sys.argv[1]), PtychoBackendsError)) + "\n")
