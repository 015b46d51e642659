"""Archives of models made to harm: ZIP, JSON, pickles."""

import itertools
import json
import pickle
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hostile_parts import GB, MB, Case, Entry, members_of, zeros_deflated, zipped

from ptycho_backends.archive.model_file import inspect_archive, load_archive


def both(path: Path) -> None:
    """Look at a model and load it; a summary may hold the problem that loading then raises."""
    summary = inspect_archive(path)
    str(summary)
    load_archive(path)


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
