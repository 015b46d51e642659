"""Damaged, foreign and hostile archives: each gives an `ArchiveError`, and nothing else happens."""

import copy
import hashlib
import io
import json
import os
import stat
import struct
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ptycho_backends.archive import members as archive_members
from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError
from ptycho_backends.files import safe_hdf5, safe_zip
from ptycho_backends.files.safe_hdf5 import Hdf5Arrays
from ptycho_backends.params import params
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.values import EpochRecord, TrainedModel, TrainingState

KERNEL = "encoder/block0/conv0/kernel"


@pytest.fixture(autouse=True)
def untouched_params():
    """Whatever a test does, `params.cfg` stays as it was."""
    before = copy.deepcopy(params.cfg)
    yield
    after = dict(params.cfg)
    params.cfg.clear()
    params.cfg.update(before)
    assert after == before


@pytest.fixture(scope="module")
def model():
    config = TrainingConfig(model=ModelConfig(n_filters_scale=1))
    weights = initial_weights(config.model, 3, probe=np.full((64, 64), 0.1 + 1j), intensity_scale=31.25)
    moments = {"encoder/block0/conv0/bias": np.ones(32, np.float32)}
    state = TrainingState(1, 1, 0, 0.0, moments, moments, {})
    history = (EpochRecord(1, 0.5, 0.25, 1e-3, 1.0),)
    return TrainedModel(config, weights, 31.25, history, "torch", training_state=state)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Members of a whole archive by name; never changed."""
    path = save_archive(model, tmp_path_factory.mktemp("whole"))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def whole_bytes(model, tmp_path_factory):
    return save_archive(model, tmp_path_factory.mktemp("whole")).read_bytes()


def write(path, members, infos=()):
    """A zip of `members`, an iterable of pairs, in which a name may occur twice."""
    given = {info.filename: info for info in infos}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(given.get(name, name), data)
    return path


def signed(members):
    """`members` with a manifest that agrees with them, as an attacker would write it."""
    manifest = json.loads(members["manifest.json"])
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in members.items()
        if name != "manifest.json"
    }
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def refused(path, match):
    with pytest.raises(ArchiveError, match=match) as caught:
        load_archive(path)
    assert str(path) in str(caught.value)


# --- the zip


def test_no_file_or_no_zip(tmp_path):
    refused(tmp_path / "absent.zip", "no such file")
    refused(tmp_path, r"holds neither wts\.h5\.zip")
    for content in (b"", b"PK", b"a" * 100_000, b"PK\x05\x06" + b"\xff" * 18):
        (tmp_path / "bad.zip").write_bytes(content)
        refused(tmp_path / "bad.zip", "zip")
    refused(write(tmp_path / "other.zip", [("readme.txt", b"")]), r"manifest\.json: missing")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a plain file")


@pytest.mark.parametrize(
    "name", ["config.json", "params.json", "weights.h5", "history.csv", "training_state.h5"]
)
def test_missing_member(tmp_path, whole, name):
    refused(
        write(tmp_path / "a.zip", [item for item in whole.items() if item[0] != name]), f"{name}: missing"
    )
    without = {key: data for key, data in whole.items() if key != name}
    refused(write(tmp_path / "b.zip", signed(without).items()), f"{name}: missing")
    del_listed = json.loads(whole["manifest.json"])
    del del_listed["members"][name]
    members = {**whole, "manifest.json": json.dumps(del_listed).encode()}
    refused(write(tmp_path / "c.zip", members.items()), f"{name}: not listed")


def test_duplicate_and_unlisted_member(tmp_path, whole):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write(tmp_path / "a.zip", [*whole.items(), ("config.json", b"{}")])
    refused(path, r"config\.json: occurs twice")
    refused(write(tmp_path / "b.zip", [*whole.items(), ("evil.py", b"")]), r"evil\.py: not listed")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "C:evil", "a\\..\\evil"])
def test_member_outside_the_archive(tmp_path, whole, name):
    path = write(tmp_path / "a.zip", [*whole.items(), (name, b"x")])
    refused(path, "lies outside the archive")


def test_listed_member_outside_an_unpacked_archive(tmp_path, whole):
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "unpacked"
    folder.mkdir()
    members = signed({**whole, "../secret": b"secret"})
    for name in set(members) - {"../secret"}:
        (folder / name).write_bytes(members[name])
    refused(folder, r"\.\./secret: missing")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_link_or_device_member(tmp_path, whole, kind):
    info = zipfile.ZipInfo("weights.h5")
    info.external_attr = (kind | 0o777) << 16
    refused(write(tmp_path / "a.zip", whole.items(), [info]), r"weights\.h5: is a link or a device")


def test_links_and_pipes_in_an_unpacked_archive(tmp_path, whole):
    folder, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere.h5"
    folder.mkdir()
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    elsewhere.write_bytes(whole["weights.h5"])
    (folder / "weights.h5").unlink()
    (folder / "weights.h5").symlink_to(elsewhere)
    refused(folder, r"weights\.h5: ")
    (folder / "weights.h5").unlink()
    os.mkfifo(folder / "weights.h5")
    refused(folder, r"weights\.h5: ")


def patched(data, name, offset, value):
    """The zip with two bytes of `name`'s entry in the central directory replaced."""
    data = bytearray(data)
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    struct.pack_into("<H", data, entry + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [(8, 1, "is encrypted"), (10, 12, "compressed by method 12"), (10, 99, "compressed by method 99")],
)
def test_encrypted_or_exotic_member(tmp_path, whole_bytes, offset, value, match):
    (tmp_path / "a.zip").write_bytes(patched(whole_bytes, "weights.h5", offset, value))
    refused(tmp_path / "a.zip", rf"weights\.h5: .*{match}")


def test_damage_is_found_by_crc_and_by_checksum(tmp_path, whole, whole_bytes):
    middle = len(whole_bytes) // 2
    flipped = whole_bytes[:middle] + bytes([whole_bytes[middle] ^ 1]) + whole_bytes[middle + 1 :]
    (tmp_path / "a.zip").write_bytes(flipped)
    refused(tmp_path / "a.zip", r"weights\.h5: damaged \(Bad CRC")
    weights = bytearray(whole["weights.h5"])
    weights[-1] ^= 1
    path = write(tmp_path / "b.zip", {**whole, "weights.h5": bytes(weights)}.items())
    refused(path, r"weights\.h5: .*SHA-256")
    path = write(tmp_path / "c.zip", {**whole, "history.csv": b"epoch"}.items())
    refused(path, r"history\.csv: 5 bytes, but the manifest says")


def test_decompression_bombs(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(archive_members, "MAX_PARAMS_ARRAYS_BYTES", 0)
    bomb = zipfile.ZipInfo("params.json")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    members = signed({**whole, "params.json": b" " * (5 << 20)})
    refused(write(tmp_path / "a.zip", members.items(), [bomb]), r"params\.json: declares 5242880 bytes")
    bomb = zipfile.ZipInfo("weights.h5")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    members = signed({**whole, "weights.h5": bytes(8 << 20)})
    refused(write(tmp_path / "b.zip", members.items(), [bomb]), r"weights\.h5: declares 8388608 bytes")


def test_a_size_that_lies_is_found(tmp_path, whole_bytes):
    """The stream is longer, or shorter, than the central directory says."""
    for change in (-1, 1):
        data = bytearray(whole_bytes)
        entry = data.rindex(b"history.csv") - 46
        (size,) = struct.unpack_from("<L", data, entry + 24)
        struct.pack_into("<L", data, entry + 24, size + change)
        (tmp_path / "a.zip").write_bytes(data)
        refused(tmp_path / "a.zip", r"history\.csv")


def test_huge_list_of_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(safe_zip.MAX_MEMBERS + 1):
            archive.writestr(str(i), b"")
    refused(tmp_path / "a.zip", "too many")


def test_nested_archives(tmp_path, whole_bytes):
    path = write(tmp_path / "a.zip", [("a/wts.h5.zip", whole_bytes), ("b/wts.h5.zip", whole_bytes)])
    refused(path, "holds 2 files")
    refused(write(tmp_path / "b.zip", [("wts.h5.zip", whole_bytes[:-100])]), "zip")
    inner = io.BytesIO()
    write(inner, [("wts.h5.zip", whole_bytes)])
    refused(write(tmp_path / "c.zip", [("wts.h5.zip", inner.getvalue())]), r"manifest\.json: missing")


# --- JSON and CSV


def changed_json(members, name, change):
    value = json.loads(members[name])
    change(value)
    return {**members, name: json.dumps(value).encode()}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(format="other"), "not the manifest"),
        (lambda m: m.update(version="2.0"), r"got 2\.0, but this library reads 1\.0; upgrade"),
        (lambda m: m.update(version=1.0), "version"),
        (lambda m: m.update(version="1"), "version"),
        (lambda m: m.pop("version"), "version"),
        (lambda m: m.update(members=[]), "malformed"),
        (lambda m: m["members"].update(x=3), "malformed"),
        (lambda m: m["members"]["config.json"].update(size=1e3), "malformed"),
        (lambda m: m["members"]["config.json"].update(sha256=None), "malformed"),
        (lambda m: m.update(models=["autoencoder"]), "diffraction_to_obj missing"),
        (lambda m: m.update(libraries=None), "malformed"),
        (lambda m: m.pop("backend"), "malformed"),
    ],
)
def test_bad_manifest(tmp_path, whole, change, match):
    members = changed_json(whole, "manifest.json", change)
    refused(write(tmp_path / "a.zip", members.items()), rf"manifest\.json: .*{match}")


def test_newer_minor_version_is_read(tmp_path, whole):
    members = changed_json(whole, "manifest.json", lambda m: m.update(version="1.7"))
    members = signed({**members, "novelty.json": b"{}"})
    before = copy.deepcopy(params.cfg)
    load_archive(write(tmp_path / "a.zip", members.items()))
    params.cfg.clear()
    params.cfg.update(before)


BAD_JSON = {
    "not JSON": b"{",
    "not UTF-8": b'{"a": "\xff"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "overflowing": b'{"a": 1e999}',
    "many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "twice": b'{"a": 1, "a": 2}',
    "deep lists": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 500_000,
    "nested": b'{"a":' * 200 + b"1" + b"}" * 200,
    "list": b"[]",
    "unknown tag": b'{"a": {"$import": "os"}}',
    "tag with company": b'{"a": {"$path": "x", "b": 1}}',
    "bad scalar": b'{"a": {"$numpy": ["int8", 4000]}}',
    "object scalar": b'{"a": {"$numpy": ["object", 1]}}',
    "unhashable key": b'{"a": {"$dict": [[[], 1]]}}',
    "absent array": b'{"a": {"$array": "params/0"}}',
}


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "params.json", "training_state.json"])
@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json(tmp_path, whole, name, text):
    members = {**whole, name: text}
    members = members if name == "manifest.json" else signed(members)
    refused(write(tmp_path / "a.zip", members.items()), f": {name}: ")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("training"), "training missing"),
        (lambda c: c.update(code="x"), "unknown code"),
        (lambda c: c.update(intensity_scale=-1.0), "intensity_scale"),
        (lambda c: c.update(intensity_scale="31"), "intensity_scale"),
        (lambda c: c.update(interrupted=0), "wrong type"),
        (lambda c: c["training"].update(model=None), "NoneType"),
        (lambda c: c["training"].pop("seed"), "seed missing"),
        (lambda c: c["training"].update(n_images=5), "n_images"),
        (lambda c: c["training"].update(batch_size=3), "batch_size: got 3"),
        (lambda c: c["training"].update(batch_size=[[]]), "batch_size"),
        (lambda c: c["training"]["model"].update(N=0), "N: got 0"),
        (lambda c: c["training"]["model"].update(N=True), "N: got True"),
        (lambda c: c["training"]["model"].update(N="64"), "N: got '64'"),
        (lambda c: c["training"]["model"].update(gridsize={}), "gridsize"),
        (lambda c: c["training"]["model"].update(architecture="fno"), "architecture: got 'fno'"),
        (lambda c: c["training"]["model"].update(n_filters_scale=10**6), "the weights would take"),
        (lambda c: c["training"]["model"].update(gridsize=10**9), "needs more memory than there is"),
    ],
)
def test_bad_configuration(tmp_path, whole, change, match):
    members = signed(changed_json(whole, "config.json", change))
    refused(write(tmp_path / "a.zip", members.items()), rf"config\.json: .*{match}")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"epoch,loss\n1,2\n",
        b"\xff",
        b"%(h)sx,1,,1,1\n",
        b"%(h)s1,1\n",
        b"%(h)s1,1,,1,1,1\n",
        b'%(h)s"1\n',
    ],
)
def test_bad_history(tmp_path, whole, text):
    text = text.replace(b"%(h)s", whole["history.csv"].splitlines(keepends=True)[0])
    members = signed({**whole, "history.csv": text})
    refused(write(tmp_path / "a.zip", members.items()), r"history\.csv: not a training history")


# --- HDF5


def with_weights(whole, change, name="weights.h5", **options):
    stream = io.BytesIO(whole[name])
    with h5py.File(stream, "r+", **options) as file:
        change(file)
    return signed({**whole, name: stream.getvalue()})


def replaced(path, value, **options):
    def change(file):
        del file[path]
        file.create_dataset(path, data=value, **options)

    return change


def external_data(file):
    shape = file[KERNEL].shape
    del file[KERNEL]
    file.create_dataset(KERNEL, shape, "f4", external=[("/etc/passwd", 0, 1152)])


def virtual_data(file):
    shape = file[KERNEL].shape
    del file[KERNEL]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape)
    file.create_virtual_dataset(KERNEL, layout)


def linked(link):
    def change(file):
        del file[KERNEL]
        file[KERNEL] = link

    return change


def cyclic(file):
    file["encoder/again"] = file["/encoder"]


def unwritten(file):
    shape = file[KERNEL].shape
    del file[KERNEL]
    file.create_dataset(KERNEL, shape, "f4")


def huge(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (1 << 40,), "f4")


def huge_attribute(file):
    file[KERNEL].attrs["x"] = np.zeros(1000)


def with_nan(file):
    file[KERNEL][0, 0, 0, 0] = np.nan


def with_infinite_probe(file):
    file["probe"][0, 0] = complex(0, np.inf)


def overlapping(file):
    for i in range(200):
        file[f"alias{i}"] = file["encoder/block2/conv1/kernel"]


ONES = np.ones((3, 3, 1, 32), np.float32)
BAD_HDF5 = {
    "external link": (linked(h5py.ExternalLink("other.h5", "/x")), "an external link"),
    "soft link": (linked(h5py.SoftLink("/probe")), "soft link"),
    "dangling soft link": (linked(h5py.SoftLink("/nowhere")), "soft link"),
    "external data": (external_data, "external files are not allowed"),
    "virtual data": (virtual_data, "virtual"),
    "cycle": (cyclic, "nested too deeply"),
    "chunked": (replaced(KERNEL, ONES, chunks=True), "contiguous"),
    "gzip": (replaced(KERNEL, ONES, compression="gzip"), "a filter is not allowed"),
    "checksummed": (replaced(KERNEL, ONES, fletcher32=True), "a filter is not allowed"),
    "attribute": (huge_attribute, "an attribute is not allowed"),
    "never written": (unwritten, "beyond the end"),
    "huge": (huge, "beyond the end"),
    "missing": (lambda file: file.pop(KERNEL), f"{KERNEL} missing"),
    "unknown": (lambda file: file.create_dataset("extra", data=1.0), "unknown extra"),
    "unknown array of params": (lambda file: file.create_dataset("params/0", data=1.0), "unknown params/0"),
    "wrong shape": (replaced(KERNEL, ONES[:2]), r"got shape \(2, 3, 1, 32\), want \(3, 3, 1, 32\)"),
    "many axes": (replaced(KERNEL, ONES.reshape(3, 3, *[1] * 20, 32)), "23 axes"),
    "wrong dtype": (replaced(KERNEL, ONES.astype(np.float64)), "got float64"),
    "big endian": (replaced(KERNEL, ONES.astype(">f4")), "got >f4"),
    "text": (replaced(KERNEL, "text"), "want numbers"),
    "bytes": (replaced(KERNEL, np.array([b"abc"])), "want numbers"),
    "group for array": (lambda file: (file.pop(KERNEL), file.create_group(KERNEL)), f"{KERNEL} missing"),
    "NaN": (with_nan, f"{KERNEL}: 1 of 288 values are NaN"),
    "infinite probe": (with_infinite_probe, "probe: 1 of 4096 values"),
    "real probe": (replaced("probe", np.ones((64, 64), np.float32)), "probe: got float32"),
    "aliases": (overlapping, "overlap"),
}


@pytest.mark.parametrize(("change", "match"), BAD_HDF5.values(), ids=BAD_HDF5.keys())
def test_bad_weights(tmp_path, whole, change, match):
    members = with_weights(whole, change)
    refused(write(tmp_path / "a.zip", members.items()), rf"weights\.h5: .*{match}")


def test_bad_training_state(tmp_path, whole):
    def refuse(change, match):
        members = with_weights(whole, change, "training_state.h5")
        refused(write(tmp_path / "a.zip", members.items()), rf"training_state\.h5: .*{match}")

    name = "first/encoder/block0/conv0/bias"
    refuse(replaced(name, np.ones(31, np.float32)), r"want float32 \(32,\)")
    refuse(replaced(name, np.ones(32, np.int32)), "got int32")
    refuse(lambda file: file.create_dataset("first/extra", data=1.0), "unknown extra")
    refuse(lambda file: file.create_dataset("third", data=1.0), "unknown third")
    for key, value in (("step", -1), ("epoch", 1.0), ("batches_done", True), ("schedule", [])):
        members = signed(
            changed_json(whole, "training_state.json", lambda s, k=key, v=value: s.update({k: v}))
        )
        refused(write(tmp_path / "a.zip", members.items()), rf"training_state\.json: {key}")


@pytest.mark.parametrize(
    "data", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\xff" * 500, b"CDF\x01"]
)
def test_no_hdf5(tmp_path, whole, data):
    members = signed({**whole, "weights.h5": data})
    refused(
        write(tmp_path / "a.zip", members.items()), r"weights\.h5: not a readable HDF5 file|weights\.h5: a"
    )


def test_structures_that_lead_in_circles_end():
    """A header that continues in itself: naively read, it grows until memory is used up."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="latest") as file:
        file.create_group("g")
    data = bytearray(stream.getvalue())
    header = data.rindex(b"OHDR")
    # message 0x10 (continuation), 16 bytes long, pointing at a block that holds just such a message
    block = len(data)
    message = struct.pack("<BHBQQ", 0x10, 16, 0, block, 28)
    data += b"OCHK" + message + b"\0\0\0\0"
    start = header + 7
    data[start : start + len(message)] = message
    with pytest.raises(ArchiveError, match="x: "):
        Hdf5Arrays(bytes(data), "x")


# --- chance


def same(got, want):
    return all(np.array_equal(got.weights[name], value) for name, value in want.weights.items())


MUTATIONS = st.tuples(
    st.sampled_from(["flip", "cut", "zero", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.integers(1, 255),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutation=MUTATIONS)
@example(mutation=("cut", 0.0, False, 1))
def test_any_damage_is_found_or_harmless(tmp_path, model, whole_bytes, mutation):
    kind, fraction, near_end, mask = mutation
    # the list of members is a thousandth of the file, so half of the damage is aimed at it
    low = len(whole_bytes) - 1200 if near_end else 0
    place = low + int(fraction * (len(whole_bytes) - low))
    data = bytearray(whole_bytes)
    if kind == "flip":
        data[place] ^= mask
    elif kind == "cut":
        del data[place:]
    elif kind == "zero":
        data[place : place + mask] = bytes(len(data[place : place + mask]))
    else:
        data[place:place] = data[place : place + mask]
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    before = copy.deepcopy(params.cfg)
    try:
        got = load_archive(path)
    except ArchiveError:
        assert params.cfg == before
    else:
        assert got.config == model.config
        assert same(got, model)
    finally:
        params.cfg.clear()
        params.cfg.update(before)


@pytest.fixture(scope="module")
def structure(whole):
    """Offsets in weights.h5 that are not numbers of an array."""
    arrays = Hdf5Arrays(whole["weights.h5"], "weights.h5")
    is_number = np.zeros(len(whole["weights.h5"]), bool)
    for stored in arrays.stored.values():
        is_number[stored.address : stored.address + stored.nbytes] = True
    return np.flatnonzero(~is_number)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), values=st.binary(min_size=1, max_size=8))
def test_damaged_hdf5_structure_never_escapes(whole, structure, where, values):
    data = bytearray(whole["weights.h5"])
    place = int(structure[int(where * len(structure))])
    data[place : place + len(values)] = values
    try:
        arrays = Hdf5Arrays(bytes(data), "weights.h5")
    except ArchiveError:
        return
    for name in arrays:
        assert arrays[name].nbytes <= len(data)


def test_pyfive_is_rationed(whole, monkeypatch):
    monkeypatch.setattr(safe_hdf5, "MAX_STRUCTURE_READS", 100)
    with pytest.raises(ArchiveError, match="leads in circles"):
        Hdf5Arrays(whole["weights.h5"], "weights.h5")


def test_the_fixture_itself_loads(tmp_path, model, whole):
    before = copy.deepcopy(params.cfg)
    assert same(load_archive(write(tmp_path / "a.zip", signed(whole).items())), model)
    params.cfg.clear()
    params.cfg.update(before)
