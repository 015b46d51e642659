"""Archives of the legacy package PtychoPINN: genuine ones are read, ours are written for it."""

import copy
import dataclasses
import io
import json
import math
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_backends.archive import genuine_archive
from ptycho_backends.archive import members as archive_members
from ptycho_backends.archive.genuine_archive import layer_numbers
from ptycho_backends.archive.genuine_export import write_genuine_archive
from ptycho_backends.archive.genuine_graph import graph_json
from ptycho_backends.archive.model_file import inspect_archive, load_archive, save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.data_pickle import KNOWN_GLOBALS, load_data
from ptycho_backends.params import params
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.values import Batch, TrainedModel

CASES = ["gs1", "gs2alt"]
GOLDEN_CONFIGS = {
    "gs1": ModelConfig(n_filters_scale=1),
    "gs2alt": ModelConfig(
        n_filters_scale=1,
        gridsize=2,
        amp_activation="swish",
        probe_big=False,
        probe_mask=True,
        gaussian_smoothing_sigma=0.5,
    ),
}


@pytest.fixture(autouse=True)
def live_params():
    """The live dictionary, put back as it was."""
    before = copy.deepcopy(params.cfg)
    yield params.cfg
    params.cfg.clear()
    params.cfg.update(before)


@pytest.fixture(scope="session")
def golden(shared):
    def paths(case):
        return (
            shared / "golden" / f"ptychopinn_{case}.wts.h5.zip",
            shared / "golden" / f"ptychopinn_{case}.npz",
        )

    return paths


def batch_of(recorded, scale, count):
    return Batch(
        diffraction_amplitude=recorded["X_fed"][:count] / np.float64(scale),
        relative_offsets_px=recorded["positions_fed"][:count],
        intensity_scale=scale,
    )


def distance(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


# --- genuine ones


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_genuine_archive_loads_and_predicts_what_was_recorded(golden, live_params, case):
    archive_path, recorded_path = golden(case)
    model = load_archive(archive_path)
    assert model.config.model == GOLDEN_CONFIGS[case]
    assert (model.backend, model.history, model.training_state) == ("tensorflow", (), None)
    with np.load(recorded_path) as recorded:
        scalars = json.loads(str(recorded["params_json"]))
        assert model.intensity_scale == scalars["intensity_scale"]
        assert model.weights["log_scale"] == np.float32(math.log(model.intensity_scale))
        np.testing.assert_array_equal(model.probe, recorded["params_probe"].reshape(64, 64))
        got = reference.predict(
            model.config.model, model.weights, batch_of(recorded, model.intensity_scale, 2)
        )
        for name in ("object", "amplitude", "intensity"):
            assert distance(getattr(got, name), recorded[f"{name}_first8"][:2]) < 2e-6
    for key in ("N", "gridsize", "nphotons", "amp_activation", "object.big", "probe.mask", "size", "npseed"):
        assert live_params[key] == scalars[key]
    assert live_params["probe"].shape == (64, 64, 1)


@pytest.mark.shared
def test_genuine_archive_survives_our_own_format(golden, tmp_path):
    model = load_archive(golden("gs2alt")[0])
    again = load_archive(save_archive(model, tmp_path))
    assert again.config == model.config
    for name, value in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)


@pytest.mark.shared
def test_genuine_archive_needs_no_dill_no_framework_and_no_c_parser(golden):
    code = (
        "import sys; from ptycho_backends.archive import load_archive; load_archive(sys.argv[1]);"
        "print([m for m in ('dill', 'tensorflow', 'keras', 'torch', 'h5py', 'ptycho') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(golden("gs1")[0])]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.shared
def test_summary_of_a_genuine_archive(golden, tmp_path):
    summary = inspect_archive(golden("gs1")[0])
    assert summary.whole
    assert (summary.format, summary.version, summary.backend) == ("PtychoPINN", "1.0", "tensorflow")
    assert summary.libraries["keras"].startswith("3.")
    assert summary.config.model == GOLDEN_CONFIGS["gs1"]
    assert summary.weight_count == 46
    with zipfile.ZipFile(golden("gs1")[0]) as archive:
        archive.extractall(tmp_path)
    assert inspect_archive(tmp_path).whole
    (tmp_path / "autoencoder" / "params.dill").write_bytes(b"")
    assert "autoencoder/params.dill" in inspect_archive(tmp_path).problem


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_hdf5(members, change, models=("autoencoder", "diffraction_to_obj")):
    """The archive's weights files as `change` leaves them."""
    members = dict(members)
    for model in models:
        name = f"{model}/model.keras"
        keras = members_of(io.BytesIO(members[name]))
        stream = io.BytesIO(keras["model.weights.h5"])
        with h5py.File(stream, "r+") as file:
            change(file)
        rewritten = io.BytesIO()
        write(rewritten, {**keras, "model.weights.h5": stream.getvalue()})
        members[name] = rewritten.getvalue()
    return members


@pytest.mark.shared
def test_layers_may_be_numbered_from_anywhere(golden, tmp_path):
    def renumbered(file):
        for group in file["layers"].values():
            name = group["vars"].attrs["name"]
            if name.startswith("conv2d"):
                number = int(name.partition("_")[2] or 0)
                group["vars"].attrs["name"] = f"conv2d_{number + 44}"

    path = golden("gs1")[0]
    moved = write(tmp_path / "a.zip", with_hdf5(members_of(path), renumbered))
    got, want = load_archive(moved), load_archive(path)
    for name, value in want.weights.items():
        np.testing.assert_array_equal(got.weights[name], value)


# --- written for the legacy package


def trained(config, scale=31.25, **fields):
    probe = np.random.default_rng(1).normal(size=(config.N, config.N)) + 0.5j
    weights = initial_weights(config, 2, probe=probe, intensity_scale=scale)
    return TrainedModel(TrainingConfig(model=config, **fields), weights, scale, backend="torch")


CONFIGS = [
    ModelConfig(n_filters_scale=1),
    ModelConfig(n_filters_scale=1, gridsize=2, probe_big=False, amp_activation="relu"),
    ModelConfig(n_filters_scale=1, pad_object=False, probe_mask=True),
    ModelConfig(n_filters_scale=1, gridsize=3, object_big=False, offset=7),
    ModelConfig(N=128, n_filters_scale=1, amp_activation="softplus"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_exported_is_read_back(tmp_path, live_params, config):
    live_params["odd"] = {"not": "plain"}
    model = trained(config, nphotons=123.5, n_groups=7)
    got = load_archive(write_genuine_archive(model, tmp_path / "wts.h5.zip"))
    assert got.config == dataclasses.replace(model.config, backend="tensorflow")
    assert got.intensity_scale == model.intensity_scale
    for name, value in model.weights.items():
        np.testing.assert_array_equal(got.weights[name], value)


def test_a_learnt_scale_is_worked_into_the_first_kernel(tmp_path):
    model = trained(ModelConfig(n_filters_scale=1))
    weights = {**model.weights, "log_scale": model.weights["log_scale"] + np.float32(0.25)}
    model = dataclasses.replace(model, weights=weights)
    got = load_archive(write_genuine_archive(model, tmp_path / "wts.h5.zip"))
    assert got.intensity_scale == pytest.approx(31.25 * math.exp(0.25), rel=1e-6)
    measured = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    offsets = np.zeros((1, 1, 2, 1), np.float32)
    outputs = [
        reference.predict(m.config.model, m.weights, Batch(measured, offsets, m.intensity_scale))
        for m in (model, got)
    ]
    for name in ("object", "amplitude", "intensity"):
        assert distance(getattr(outputs[1], name), getattr(outputs[0], name)) < 1e-6


def without_ids(value):
    """Keras marks shared objects by their addresses, which mean nothing."""
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key != "shared_object_id"}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


@pytest.mark.shared
@pytest.mark.parametrize("name", ["autoencoder", "diffraction_to_obj"])
@pytest.mark.parametrize("case", CASES)
def test_the_described_graph_is_the_genuine_one(golden, case, name):
    keras = members_of(io.BytesIO(members_of(golden(case)[0])[f"{name}/model.keras"]))
    want, got = without_ids(json.loads(keras["config.json"])), graph_json(GOLDEN_CONFIGS[case], name)
    assert got["config"]["layers"] == want["config"]["layers"]
    assert got["config"] == want["config"]
    # how it was trained is left out: the losses it names are functions of the legacy package
    assert got == {**want, "compile_config": {}}


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_exported_weights_lie_where_the_genuine_ones_lie(golden, tmp_path, case):
    path = golden(case)[0]
    ours = members_of(write_genuine_archive(load_archive(path), tmp_path / "wts.h5.zip"))
    genuine = members_of(path)
    assert set(ours) == set(genuine)
    for name in ("autoencoder", "diffraction_to_obj"):
        files = []
        for members in (ours, genuine):
            keras = members_of(io.BytesIO(members[f"{name}/model.keras"]))
            files.append(h5py.File(io.BytesIO(keras["model.weights.h5"])))
        got, want = files
        assert set(got["layers"]) == set(want["layers"])
        for group in want["layers"]:
            pair = got["layers"][group]["vars"], want["layers"][group]["vars"]
            assert pair[0].attrs["name"] == pair[1].attrs["name"]
            assert set(pair[0]) == set(pair[1])
            for variable in pair[1]:
                np.testing.assert_array_equal(pair[0][variable][()], pair[1][variable][()])


def globals_in(data):
    """Globals that a pickle names, found without running it."""
    found, strings = set(), []
    for opcode, argument, _ in pickletools.genops(data):
        if "UNICODE" in opcode.name:
            strings.append(argument)
        elif opcode.name == "GLOBAL":
            found.add(tuple(argument.split(" ")))
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            found.add("memo")  # a module's name may be remembered; the reader below knows which
        elif opcode.name == "STACK_GLOBAL":
            found.add(strings[-1])
    return found


def test_exported_pickles_are_plain_data(tmp_path):
    members = members_of(write_genuine_archive(trained(CONFIGS[0]), tmp_path / "wts.h5.zip"))
    names = {"dtype", "ndarray", "_reconstruct", "memo"}
    for name in (name for name in members if name.endswith(".dill")):
        assert globals_in(members[name]) <= names, name
        np.testing.assert_equal(load_data(members[name], name), pickle.loads(members[name]))
    assert load_data(members["autoencoder/custom_objects.dill"], "x") == {}
    assert load_data(members["manifest.dill"], "x") == {
        "models": ["autoencoder", "diffraction_to_obj"],
        "version": "1.0",
    }
    with h5py.File(io.BytesIO(members["autoencoder/model.h5"])) as file:
        assert dict(file.attrs) == {"intensity_scale": 31.25}


# --- damaged and hostile ones


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = write_genuine_archive(trained(CONFIGS[1]), tmp_path_factory.mktemp("exported") / "wts.h5.zip")
    return members_of(path)


def refused(path, match):
    before = copy.deepcopy(params.cfg)
    with pytest.raises(ArchiveError, match=match):
        load_archive(path)
    np.testing.assert_equal(params.cfg, before)


def with_params(members, change):
    values = pickle.loads(members["autoencoder/params.dill"])
    change(values)
    return {**members, "autoencoder/params.dill": pickle.dumps(values, protocol=4)}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p.update(architecture="fno"), "architecture 'fno' is not supported"),
        (lambda p: p.update(N=96), "N: got 96"),
        (lambda p: p.update(batch_size=12), "batch_size: got 12"),
        (lambda p: p.update({"object.big": "yes"}), "object.big: got 'yes'"),
        (lambda p: p.update(gridsize=1), "architecture is not supported|want float32"),
        (lambda p: p.update(n_filters_scale=2), "want float32"),
        (lambda p: p.update({"probe.big": True}), "this architecture is not supported"),
        (lambda p: p.update(n_filters_scale=10**7), "the weights would take"),
        (lambda p: p.pop("gridsize"), "gridsize: missing"),
        (lambda p: p.pop("probe"), "probe: got None"),
        (
            lambda p: p.update(probe=np.ones((32, 32, 1), complex)),
            r"probe: got an array of shape \(32, 32, 1\)",
        ),
        (lambda p: p.update(probe=np.ones((64, 64, 1))), "probe: got float64"),
        (lambda p: p.update(probe=np.full((64, 64, 1), np.nan + 0j)), "probe: 4096 of 4096 values"),
        (lambda p: p.pop("intensity_scale"), "intensity_scale: got None"),
        (lambda p: p.update(intensity_scale=0.0), "intensity_scale: got 0.0"),
        (lambda p: p.update(intensity_scale=math.inf), "intensity_scale: got inf"),
    ],
)
def test_parameters_that_this_library_cannot_have(tmp_path, exported, change, match):
    refused(write(tmp_path / "a.zip", with_params(exported, change)), f"autoencoder.*{match}")


def test_numpy_scalars_among_the_parameters_are_read(tmp_path, exported):
    change = lambda p: p.update(intensity_scale=np.float32(31.25), N=np.int64(64))  # noqa: E731
    assert load_archive(write(tmp_path / "a.zip", with_params(exported, change))).intensity_scale == 31.25


FIRST = "layers/conv2d/vars"


def label(name):
    return lambda file: file[FIRST].attrs.__setitem__("name", name)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (label("dense"), "layer 'dense' is not one of"),
        (label("conv2d_3"), "a second layer of the name 'conv2d_3'"),
        (label("conv2d_99"), "this architecture is not supported"),
        (lambda file: file[FIRST].attrs.clear(), r"layer '\?' is not one of"),
        (lambda file: file.pop(FIRST), "this architecture is not supported"),
        (lambda file: file.pop(f"{FIRST}/1"), "convolution 0: bias missing"),
        (lambda file: file.create_dataset(f"{FIRST}/2", data=1.0), "is not one of"),
        (lambda file: file[f"{FIRST}/1"].__setitem__(0, np.nan), "bias: 1 of 32 values are NaN"),
        (lambda file: file.pop("layers"), "group 'layers' missing"),
        (lambda file: file.__setitem__("layers/x", h5py.SoftLink("/vars")), "a soft link"),
    ],
)
def test_weights_of_another_network(tmp_path, exported, change, match):
    refused(write(tmp_path / "a.zip", with_hdf5(exported, change)), f"autoencoder.*{match}")


def test_both_models_must_hold_the_same_weights(tmp_path, exported):
    change = lambda file: file[f"{FIRST}/1"].__setitem__(0, 5.0)  # noqa: E731
    members = with_hdf5(exported, change, ["diffraction_to_obj"])
    refused(write(tmp_path / "a.zip", members), r"diffraction_to_obj/model\.keras: .* differs")


@pytest.mark.parametrize("model", ["autoencoder", "diffraction_to_obj"])
@pytest.mark.parametrize("file", ["model.keras", "params.dill", "custom_objects.dill", "model.h5"])
def test_every_member_is_wanted_and_checked(tmp_path, exported, model, file):
    name = f"{model}/{file}"
    without = {key: data for key, data in exported.items() if key != name}
    refused(write(tmp_path / "a.zip", without), f"{name}: missing")
    path = write(tmp_path / "b.zip", exported)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data[info.header_offset + 30 + len(name) + info.file_size // 2] ^= 0x10
    path.write_bytes(data)
    refused(path, f"{name}: damaged")


def test_odd_manifest(tmp_path, exported):
    for value in (
        {"version": "2.0"},
        {"models": ["other"], "version": "1.0"},
        [],
        {"models": 3, "version": "1.0"},
    ):
        members = {**exported, "manifest.dill": pickle.dumps(value)}
        refused(write(tmp_path / "a.zip", members), r"manifest\.dill: ")
    refused(write(tmp_path / "b.zip", {**exported, "evil.py": b""}), r"evil\.py: unknown")


def test_decompression_bomb_inside_the_keras_file(tmp_path, exported, monkeypatch):
    monkeypatch.setattr(archive_members, "MAX_PARAMS_ARRAYS_BYTES", 0)
    monkeypatch.setattr(genuine_archive, "_GRAPH_BYTES", 1 << 20)
    inner = io.BytesIO()
    write(inner, {"model.weights.h5": bytes(40 << 20)}, zipfile.ZIP_DEFLATED)
    members = {**exported, "autoencoder/model.keras": inner.getvalue()}
    refused(write(tmp_path / "a.zip", members), r"autoencoder/model\.keras: model\.weights\.h5: declares")


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def laughs():
    """Thirty references, each to two of the one before: a billion values when written out."""
    value: list = []
    for _ in range(30):
        value = [value, value]
    return value


def endless():
    value: list = []
    value.append(value)
    return value


HOSTILE_PICKLES = {
    "os.system": (
        pickle.dumps(Evil(__import__("os").system, "touch evil")),
        r"names (posix|nt|os)\.system",
    ),
    "eval": (pickle.dumps(Evil(eval, "1")), r"names builtins\.eval"),
    "old eval": (b"c__builtin__\neval\n(S'1'\ntR.", r"names __builtin__\.eval"),
    "protocol 0": (b"cos\nsystem\n(Vtrue\ntR.", r"names os\.system"),
    "instance": (b"(Vtrue\nios\nsystem\n.", "the instruction INST"),
    "class": (pickle.dumps(Path("x"), protocol=2), "names pathlib"),
    "extension": (b"\x80\x02\x82\x01.", "the instruction EXT1"),
    "persistent": (b"Px\n.", "the instruction PERSID"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dtype\x93.", r"names numpy\.ndarray\.dtype"),
    "global left": (b"cnumpy\nndarray\n.", "a name where a value is wanted"),
    "calls ndarray": (b"cnumpy\nndarray\n(K\x01tR.", r"calls numpy\.ndarray"),
    "calls data": (b"K\x01)R.", "calls something that is not known"),
    "builds data": (b"]}b.", "sets the state"),
    "objects": (pickle.dumps(np.array([None, 1])), "an array of 'O8'"),
    "records": (pickle.dumps(np.zeros(2, "i4,f8")), "an array of 'V12'"),
    "strings": (pickle.dumps(np.array(["a"])), "an array of 'U1'"),
    "short array": (pickle.dumps(np.zeros(9)).replace(b"K\x09", b"K\x08"), "in 72 bytes"),
    "billion laughs": (pickle.dumps(laughs()), "nested too deeply"),
    "endless": (pickle.dumps(endless()), "nested too deeply"),
    "huge length": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "damaged"),
    "empty": (b"", "damaged|cut short"),
    "no stop": (b"\x80\x04}", "damaged|cut short"),
    "mark": (b"(.", "a mark"),
    "no mark": (b"]Na" + b"]e.", "a mark is missing"),
    "underflow": (b"0.", "damaged"),
    "unknown memo": (b"h\x09.", "damaged"),
    "odd key": (b"})K\x01s.", "a tuple as key"),
    "long": (b"N0" * 200_000 + b"N.", "too many values"),
    "many digits": (b"I" + b"9" * 10_000 + b"\n.", "damaged"),
}


@pytest.mark.parametrize(("data", "match"), HOSTILE_PICKLES.values(), ids=HOSTILE_PICKLES.keys())
def test_hostile_pickles_are_read_not_run(tmp_path, monkeypatch, exported, data, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchiveError, match=f"^x: .*({match})"):
        load_data(data, "x")
    members = {**exported, "autoencoder/params.dill": data}
    refused(write(tmp_path / "a.zip", members), r"autoencoder/params\.dill: ")
    assert not Path("evil").exists()


def test_one_array_made_many_is_refused():
    """Shared bytes can be turned into any number of arrays; their sum is limited."""
    count, size = 20, 1 << 14
    dtype = b"cnumpy\ndtype\n(\x8c\x02f8\x89\x88tR(K\x03\x8c\x01<NNNK\x00K\x00K\x00tb"
    numbers = b"B" + struct.pack("<I", 8 * size) + bytes(8 * size)
    shape = b"(J" + struct.pack("<i", size) + b"t"
    remembered = b"(K\x01" + shape + dtype + b"\x89" + numbers + b"tq\x000"
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btRh\x00b"
    few = b"\x80\x04" + remembered + b"](" + made * 3 + b"e."
    assert [array.shape for array in load_data(few, "x")] == [(size,)] * 3
    many = b"\x80\x04" + remembered + b"](" + made * count + b"e."
    with pytest.raises(ArchiveError, match="share their numbers"):
        load_data(many, "x")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(value=VALUES, protocol=st.integers(3, 5))
def test_plain_pickles_are_read_as_python_reads_them(value, protocol):
    assert load_data(pickle.dumps(value, protocol), "x") == value


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.eye(3)[:2]),
    np.float32(2.5),
    np.array(3 + 1j),
    np.arange(4, dtype=">i2"),
    np.array([True, False]),
    np.zeros((0, 3)),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_are_read_as_python_reads_them(array):
    got = load_data(pickle.dumps({"a": array}, protocol=4), "x")["a"]
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype.newbyteorder("=")
    assert type(got) is type(array)


@pytest.mark.shared
def test_genuine_pickle_is_read(golden):
    data = members_of(golden("gs1")[0])["autoencoder/params.dill"]
    assert ("dill._dill", "_create_array") in KNOWN_GLOBALS
    got = load_data(data, "x")
    assert got["probe"].shape == (64, 64, 1)
    assert got["probe"].dtype == np.complex64


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=4))
def test_damaged_pickles_never_escape(exported, where, value):
    data = bytearray(exported["autoencoder/params.dill"])
    # most of the pickle is the probe's numbers, where damage changes nothing but a number
    place = int(where * 2000)
    data[place : place + len(value)] = value
    try:
        load_data(bytes(data), "x")
    except ArchiveError:
        return


def test_layer_numbers():
    numbers = layer_numbers(ModelConfig(n_filters_scale=1))
    assert list(numbers.values()) == list(range(22))
    assert numbers["amplitude/border_head"] == 7
    without = layer_numbers(ModelConfig(n_filters_scale=1, probe_big=False))
    assert set(range(18)) - set(without.values()) == {7, 13}
    unpadded = layer_numbers(ModelConfig(n_filters_scale=1, pad_object=False))
    assert set(range(22)) - set(unpadded.values()) == {6, 14}
