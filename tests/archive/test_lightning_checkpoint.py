"""Lightning checkpoints without PyTorch: written here byte by byte; damaged and hostile ones are refused.

That those of PyTorch itself are read is in tests/torch/test_torch_checkpoint.py.
"""

import json
import pickle
import struct
import zipfile
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_backends.archive.lightning_checkpoint import (
    CHECKPOINT_KEY,
    PARAMETER_PREFIX,
    checkpoint_values,
    load_checkpoint,
)
from ptycho_backends.archive.model_file import inspect_archive, load_archive
from ptycho_backends.config import ModelConfig, TrainingConfig, config_to_plain
from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.safe_zip import ZipMembers
from ptycho_backends.files.torch_file import TorchFile
from ptycho_backends.params import params
from ptycho_backends.reference.initial_weights import PROBE, initial_weights

CONFIG = TrainingConfig(model=ModelConfig(n_filters_scale=1), backend="torch", nepochs=2)
KERNEL, BIAS = "encoder/block0/conv0/kernel", "encoder/block0/conv0/bias"
STORAGES = {"f4": "Float", "f8": "Double", "i8": "Long"}


def number(value):
    return b"I%d\n" % value


def tensor(key, length, offset, shape, strides, kind="Float"):
    """The pickle's instructions for a tensor."""
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides)]
    reference = b"(Vstorage\nctorch\n%sStorage\nV%s\nVcpu\n%stQ" % (kind.encode(), key, number(length))
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = reference + number(offset) + b"".join(sizes) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def encoded(value, storages):
    """The pickle's instructions for `value`; the numbers of arrays go to `storages`."""
    if isinstance(value, np.ndarray):
        key = b"%d" % len(storages)
        storages[key.decode()] = value.tobytes()
        strides = [stride // value.itemsize for stride in value.strides]
        return tensor(key, value.size, 0, value.shape, strides, STORAGES[value.dtype.str[1:]])
    if isinstance(value, dict):
        items = [encoded(part, storages) for item in value.items() for part in item]
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(encoded(part, storages) for part in value) + b"e"
    return pickle.dumps(value, 2)[2:-1]


def saved(content):
    """Members of the file that `torch.save` would write."""
    storages: dict[str, bytes] = {}
    data = b"\x80\x02" + encoded(content, storages) + b"."
    numbers = {f"archive/data/{key}": data for key, data in storages.items()}
    return {"archive/data.pkl": data, "archive/byteorder": b"little", **numbers, "archive/version": b"3\n"}


def write(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def in_torch(name, value):
    if name == PROBE:
        return np.stack([value.real, value.imag], axis=-1)
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value


WEIGHTS = initial_weights(CONFIG.model, 3, probe=np.full((64, 64), 0.1 + 1j), intensity_scale=31.25)


def content(groups=None, **changes):
    """A checkpoint of this library after one epoch of two, with the moments of two weights."""
    moments = {
        number: {"step": np.asarray(5, "f4"), "exp_avg": value, "exp_avg_sq": value**2}
        for number, value in enumerate(in_torch(name, WEIGHTS[name] + 1) for name in (BIAS, KERNEL))
    }
    values = {
        "config": config_to_plain(CONFIG),
        "intensity_scale": 31.25,
        "history": [{"epoch": 1, "train_loss": 0.5, "val_loss": None, "learning_rate": 1e-3, "seconds": 1.0}],
        "trainable": [BIAS, KERNEL],
        "epoch": 1,
        "batches_done": 0,
        "loss_sum": 0.0,
        "schedule": {"epoch": 1},
        **changes,
    }
    return {
        "epoch": 0,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {PARAMETER_PREFIX + name: in_torch(name, value) for name, value in WEIGHTS.items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": moments, "param_groups": groups or [{"params": [0, 1]}]}],
        CHECKPOINT_KEY: json.dumps(values),
    }


def refused(path, match):
    before = dict(params.cfg)
    with pytest.raises(ArchiveError, match=match) as caught:
        load_archive(path)
    assert str(path) in str(caught.value)
    assert params.cfg == before


def test_a_checkpoint_is_a_model(tmp_path):
    path = write(tmp_path / "x.ckpt", saved(content()))
    model = load_archive(path)
    assert model.config == CONFIG
    assert model.interrupted
    assert model.history[0].train_loss == 0.5
    for name, value in WEIGHTS.items():
        assert model.weights[name].dtype == value.dtype
        np.testing.assert_array_equal(model.weights[name], value)
    state = model.training_state
    assert (state.step, state.epoch, list(state.first_moments)) == (5, 1, [KERNEL, BIAS])
    np.testing.assert_array_equal(state.second_moments[KERNEL], (WEIGHTS[KERNEL] + 1) ** 2)
    assert params.cfg["N"] == 64
    assert params.cfg["intensity_scale"] == 31.25
    summary = inspect_archive(path)
    assert summary.whole
    assert summary.resumable
    assert (summary.format, summary.version) == ("Lightning checkpoint", "2.6.6")


def test_further_entries_and_groups_of_parameters_are_no_obstacle(tmp_path):
    groups = [{"params": [0], "lr": 0.1, "name": "top"}, {"params": [1], "lr": 0.2}]
    further = content(groups, trainable=[BIAS, KERNEL], stage={"number": 2})
    further |= {"state_dict": {**further["state_dict"], "ema.weight": np.zeros(3, "f8")}, "hparams": [1]}
    path = write(tmp_path / "x.ckpt", saved(further))
    moments = load_checkpoint(path).training_state.first_moments
    np.testing.assert_array_equal(moments[BIAS], WEIGHTS[BIAS] + 1)
    assert checkpoint_values(path)["stage"] == {"number": 2}


CHANGED_CONTENT = {
    "no library": (lambda c: c.pop(CHECKPOINT_KEY), "data.pkl: ptycho_backends: missing"),
    "no JSON": (lambda c: c.update({CHECKPOINT_KEY: "{"}), "not JSON"),
    "deep JSON": (lambda c: c.update({CHECKPOINT_KEY: "[" * 100_000}), "nested too deeply"),
    "a list": (lambda c: c.update({CHECKPOINT_KEY: "[]"}), "got list, want an object"),
    "no weights": (lambda c: c.pop("state_dict"), "KeyError: 'state_dict'"),
    "weights in a list": (lambda c: c.update(state_dict=[1]), "damaged"),
    "a weight less": (lambda c: c["state_dict"].popitem(), "probe missing"),
    "a weight more": (lambda c: c["state_dict"].update({PARAMETER_PREFIX + "x": WEIGHTS[BIAS]}), "unknown x"),
    "a number": (lambda c: c["state_dict"].update({PARAMETER_PREFIX + BIAS: 1.0}), "want a tensor"),
    "another shape": (
        lambda c: c["state_dict"].update({PARAMETER_PREFIX + PROBE: WEIGHTS[BIAS]}), "probe: got shape",
    ),
    "NaN": (
        lambda c: c["state_dict"].update({PARAMETER_PREFIX + BIAS: WEIGHTS[BIAS] * np.float32("nan")}),
        "bias: 32 of 32 values are NaN",
    ),
    "too large for float32": (
        lambda c: c["state_dict"].update({PARAMETER_PREFIX + BIAS: WEIGHTS[BIAS] + np.float64(1e300)}),
        "bias: 32 of 32 values are NaN or infinite",
    ),
    "no optimizer": (lambda c: c.update(optimizer_states=[]), "damaged"),
    "parameters": (lambda c: c["optimizer_states"][0].update(param_groups=[]), "0 parameters, want 2"),
    "steps": (
        lambda c: c["optimizer_states"][0]["state"][0].update(step=np.asarray(np.nan, "f4")), "NaN",
    ),
    "moments": (
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=np.zeros(3, "f4")), "bias: got shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "match"), CHANGED_CONTENT.values(), ids=CHANGED_CONTENT.keys())
def test_what_is_no_checkpoint_of_this_library_is_refused(tmp_path, change, match):
    changed = content()
    change(changed)
    refused(write(tmp_path / "x.ckpt", saved(changed)), match)


CHANGED_VALUES = {
    "trainable": ([BIAS, "x"], "unknown x"),
    "epoch": (-1, "ptycho_backends: epoch: got -1"),
    "schedule": ([], "schedule: got list"),
    "intensity_scale": (0.0, "intensity_scale: got 0.0"),
    "history": ([{"epoch": 1}], "KeyError: 'val_loss'"),
    "config": ({"model": {"N": 64, "attention": True}}, "attention: no such field"),
}


@pytest.mark.parametrize(("name", "value", "match"), [(k, *v) for k, v in CHANGED_VALUES.items()])
def test_values_are_checked(tmp_path, name, value, match):
    refused(write(tmp_path / "x.ckpt", saved(content(**{name: value}))), match)


def test_configurations_of_huge_or_unknown_size_are_refused(tmp_path):
    plain = config_to_plain(CONFIG)
    for change, match in (({"n_filters_scale": 10**6}, "weights would take"), ({"N": 0}, "N: got 0")):
        config = {**plain, "model": {**plain["model"], **change}}
        refused(write(tmp_path / "x.ckpt", saved(content(config=config))), match)


# --- the zip


def test_damaged_files_are_refused(tmp_path):
    members = saved(content())
    path = tmp_path / "x.ckpt"
    refused(path, "no such file")
    whole = write(path, members).read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "zip" if size else "an empty file")
    place = whole.index(members["archive/data/3"])
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    refused(path, "archive/data/.*damaged")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(write(path, members), "a") as archive:
        archive.writestr("archive/data/3", b"")
    refused(path, "archive/data/3: occurs twice")


CHANGED_MEMBERS = {
    "no pickle": (lambda m: m.pop("archive/data.pkl"), "no data.pkl"),
    "two pickles": (lambda m: m.update({"other/data.pkl": b""}), "no data.pkl in a folder of its own"),
    "missing": (lambda m: m.pop("archive/data/0"), "data.pkl: archive/data/0: missing"),
    "short": (lambda m: m.update({"archive/data/0": b"1234"}), "data/0: 4 bytes, but 288 numbers of float32"),
    "too much": (lambda m: m.update({"archive/data/x": bytes(100 << 20)}), "bytes in all, want at most"),
    "byte order": (lambda m: m.update({"archive/byteorder": b"middle"}), "byteorder: got b'middle'"),
}


@pytest.mark.parametrize(("change", "match"), CHANGED_MEMBERS.values(), ids=CHANGED_MEMBERS.keys())
def test_members_are_checked(tmp_path, change, match):
    members = saved(content())
    change(members)
    refused(write(tmp_path / "x.ckpt", members), match)


def zip64(entries, directory_bytes, where=0):
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, directory_bytes, 0)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, where, 1) + b"PK\5\6" + bytes(18)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (zip64(10**9, 100), "declares 1000000000 members"),
        (zip64(1, 1 << 40), "declares 1 members in 1099511627776 bytes"),
        (zip64(1, 100, where=5), "zip64 record is not where"),
        (zip64(1, 100)[20:], "zip64 record is not where"),
        (b"x" + zip64(1, 100)[1:], "no zip64 record"),
    ],
)
def test_the_zip64_record_is_checked_before_the_list_is_read(tmp_path, data, match):
    (tmp_path / "x.ckpt").write_bytes(data)
    refused(tmp_path / "x.ckpt", match)
    (tmp_path / "x.zip").write_bytes(data)
    refused(tmp_path / "x.zip", "a zip64 file, want an ordinary zip")


# --- the pickle


def torch_file(data, storage=bytes(24)):
    members = {"archive/data.pkl": b"\x80\x02" + data + b".", "archive/data/0": storage}
    stream = BytesIO()
    return TorchFile(ZipMembers(BytesIO(write(stream, members).getvalue())))


def test_tensors_are_views_of_their_storage():
    values = np.arange(6, dtype="f4")
    cases = {
        (0, (6,), (1,)): values,
        (1, (2, 2), (1, 3)): [[1, 4], [2, 5]],
        (5, (), ()): 5,
        (6, (0,), (1,)): [],
    }
    for (offset, shape, strides), want in cases.items():
        file = torch_file(tensor(b"0", 6, offset, shape, strides), values.tobytes())
        file.read_storages(1 << 20)
        got = file.array(file.content)
        assert got.shape == shape
        assert not got.flags.writeable
        np.testing.assert_array_equal(got, want)


HOSTILE = {
    "foreign": (b"cos\nsystem\n(Vtrue\ntR", "names os.system"),
    "builtin": (b"c__builtin__\neval\n(V1\ntR", "names __builtin__.eval"),
    "numpy": (b"cnumpy\ndtype\n(Vf4\n\x89\x88tR", "names numpy.dtype"),
    "a class as value": (b"ctorch\nFloatStorage\n", "a name where a value"),
    "calls a class": (b"ctorch\nFloatStorage\n)R", "calls torch.FloatStorage"),
    "cyclic": (b"]q\x00h\x00a", "nested too deeply"),
    "exponential": (b"]" + b"".join(b"q\x00](" + b"h\x00" * 100 + b"e" for _ in range(40)), "nested"),
    "unknown reference": (b"(Vmodule\ntQ", "not a storage"),
    "text reference": (b"P1\n", "PERSID"),
    "path": (tensor(b"../../x", 6, 0, (6,), (1,)), "missing"),
    "huge": (tensor(b"0", 6, 0, (2**40, 2**40), (1, 1)), r"shape \(1099511627776"),
    "huge storage": (tensor(b"0", 2**62, 0, (2**62,), (1,)), "24 bytes"),
    "huge and empty": (tensor(b"0", 6, 0, (0, 2**62), (1, 1)), "leave its 6"),
    "repeated": (tensor(b"0", 6, 0, (2**30,), (0,)), "leave its 6"),
    "beyond": (tensor(b"0", 6, 1, (6,), (1,)), "leave its 6"),
    "before": (tensor(b"0", 6, -1, (2,), (1,)), "leave its 6"),
    "backwards": (tensor(b"0", 6, 5, (6,), (-1,)), "unknown shape"),
    "strides": (tensor(b"0", 6, 0, (2, 2), (5, 1)), "leave its 6"),
    "axes": (tensor(b"0", 6, 0, (1,) * 40, (1,) * 40), "unknown shape"),
    "another type": (tensor(b"0", 6, 0, (6,), (1,), "Double"), "numbers of float64"),
    "unknown type": (tensor(b"0", 6, 0, (6,), (1,), "Quantized"), "names torch.QuantizedStorage"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "match"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_read_not_run(data, match):
    with pytest.raises(ArchiveError, match=f"^archive/data.pkl: .*{match}"):
        torch_file(data)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=4))
def test_damaged_pickles_never_escape(tmp_path, where, value):
    members = saved(content())
    data = bytearray(members["archive/data.pkl"])
    place = int(where * len(data))
    data[place : place + len(value)] = value
    path = write(tmp_path / "x.ckpt", {**members, "archive/data.pkl": bytes(data)})
    try:
        load_checkpoint(path)
    except ArchiveError:
        return
