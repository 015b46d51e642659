"""Archives of this library: a model survives saving and loading."""

import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_backends.archive.model_file import inspect_archive, load_archive, save_archive
from ptycho_backends.config import LATER_FIELDS, ModelConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError, ConfigError, OutputError
from ptycho_backends.files import exact_json
from ptycho_backends.files.safe_hdf5 import hdf5_bytes
from ptycho_backends.params import bridge, params
from ptycho_backends.reference.initial_weights import initial_weights, weight_shapes
from ptycho_backends.values import EpochRecord, TrainedModel, TrainingState

HISTORY = (
    EpochRecord(1, 0.1 + 0.2, None, 1e-3, 12.5),
    EpochRecord(2, -1234.5678901234567, 1 / 3, 5e-4, 1e-300),
)


@pytest.fixture(autouse=True)
def live_params():
    """The live dictionary, put back as it was."""
    before = copy.deepcopy(params.cfg)
    params.cfg.clear()
    params.cfg.update(params.defaults())
    yield params.cfg
    params.cfg.clear()
    params.cfg.update(before)


def trained(config=None, seed=0, **fields):
    # by name, because the default is the framework that is installed
    config = config or TrainingConfig(
        model=ModelConfig(n_filters_scale=1), nphotons=1e6, backend="tensorflow"
    )
    generator = np.random.default_rng(seed)
    side = config.model.N
    probe = generator.normal(size=(side, side)) + 1j * generator.normal(size=(side, side))
    weights = initial_weights(config.model, seed, probe=probe, intensity_scale=31.25)
    for name in weights:
        if name.endswith("/bias"):
            weights[name] = generator.normal(size=weights[name].shape).astype(np.float32)
    return TrainedModel(
        config, weights, **{"intensity_scale": 31.3, "history": HISTORY, "backend": "torch"} | fields
    )


def state_of(model, dtype=np.float32):
    generator = np.random.default_rng(7)

    def moment(name, value):
        kind = np.dtype(dtype) if value.dtype.kind == "f" else np.result_type(dtype, np.complex64)
        return np.asarray(generator.normal(size=value.shape) + (1j if kind.kind == "c" else 0)).astype(kind)

    first = {name: moment(name, value) for name, value in model.weights.items()}
    second = {name: moment(name, value) ** 2 for name, value in model.weights.items() if name != "log_scale"}
    schedule = {"best": -math.inf, "wait": 1, "rate": 5e-4, "name": "Default", "none": None, "pair": (1, 2.5)}
    return TrainingState(41, 2, 3, -0.0, first, second, schedule)


def assert_same_arrays(got, want):
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        assert got[name].tobytes() == np.asarray(value).tobytes(), name


def assert_same_model(got, want):
    assert got.config == want.config
    assert_same_arrays(got.weights, want.weights)
    for field in ("intensity_scale", "backend", "interrupted"):
        assert getattr(got, field) == getattr(want, field)
    assert tuple(got.history) == tuple(want.history)
    assert (got.training_state is None) == (want.training_state is None)


FAST = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MODELS = st.builds(
    ModelConfig,
    n_filters_scale=st.just(1),
    gridsize=st.integers(1, 3),
    amp_activation=st.sampled_from(["sigmoid", "silu", "softplus", "relu"]),
    object_big=st.booleans(),
    probe_big=st.booleans(),
    pad_object=st.booleans(),
    probe_mask=st.booleans(),
    probe_scale=st.floats(1e-3, 1e3),
    offset=st.integers(0, 100),
)
CONFIGS = st.builds(
    TrainingConfig,
    model=MODELS,
    nphotons=st.floats(1e-3, 1e12),
    train_data_file=st.none() | st.just(Path("scans/größe 1.npz")),
    n_subsample=st.none() | st.integers(1, 10**9),
    backend=st.sampled_from(["torch", "tf", "another"]),
    output_dir=st.sampled_from([Path("out"), Path("/absolute/out")]),
)


@FAST
@given(config=CONFIGS, seed=st.integers(0, 99), interrupted=st.booleans())
def test_what_is_saved_is_loaded(tmp_path, config, seed, interrupted):
    model = trained(config, seed, interrupted=interrupted)
    assert_same_model(load_archive(save_archive(model, tmp_path)), model)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_state_survives_bit_for_bit(tmp_path, dtype):
    model = trained()
    model = dataclasses.replace(model, training_state=state_of(model, dtype))
    got, want = load_archive(save_archive(model, tmp_path)).training_state, model.training_state
    for field in ("step", "epoch", "batches_done", "schedule"):
        assert getattr(got, field) == getattr(want, field)
    assert math.copysign(1, got.loss_sum) == -1
    assert type(got.schedule["pair"]) is tuple
    assert_same_arrays(got.first_moments, want.first_moments)
    assert_same_arrays(got.second_moments, want.second_moments)


def test_fields_that_came_later_are_there_only_if_they_differ(tmp_path):
    """So older files load, and a file that does not use them is the same as before they came."""
    for config, written in (
        (TrainingConfig(), set()),
        (TrainingConfig(amp_loss="Mean_Deviation", validation_share=0.2), {"amp_loss", "validation_share"}),
    ):
        path = save_archive(trained(config), tmp_path)
        with zipfile.ZipFile(path) as members:
            training = json.loads(members.read("config.json"))["training"]
        assert set(training) & set(LATER_FIELDS) == written
        assert load_archive(path).config == config


def test_archive_is_what_other_tools_expect(tmp_path):
    model = trained()
    path = save_archive(model, tmp_path)
    assert path == tmp_path / "wts.h5.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        assert set(archive.namelist()) == {"manifest.json", *manifest["members"]}
        assert manifest["models"] == ["autoencoder", "diffraction_to_obj"]
        assert manifest["backend"] == "torch"
        for name, entry in manifest["members"].items():
            data = archive.read(name)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
        (tmp_path / "weights.h5").write_bytes(archive.read("weights.h5"))
        assert len(archive.read("history.csv").splitlines()) == 1 + len(HISTORY)
    # pyfive reads it in load_archive; h5py reads the same
    with h5py.File(tmp_path / "weights.h5") as file:
        assert_same_arrays(
            {name: file[name][()] for name in weight_shapes(model.config.model)}, model.weights
        )


def test_same_model_gives_the_same_bytes(tmp_path):
    contents = []
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(save_archive(trained(), tmp_path / name)) as archive:
            infos = [(info.filename, info.date_time, info.compress_size) for info in archive.infolist()][1:]
            contents.append((infos, [archive.read(name) for name, _, _ in infos]))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("form", ["zip", "folder", "unpacked", "outer zip", "outer zip with folder"])
def test_every_form_of_path_is_found(tmp_path, form):
    model = trained()
    path = save_archive(model, tmp_path / "run" / "wts.h5.zip")
    if form == "folder":
        path = path.parent
    elif form == "unpacked":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "unpacked")
        path = tmp_path / "unpacked"
        (path / "notes.txt").write_text("anything may lie beside it")
    elif form.startswith("outer"):
        outer = tmp_path / "model.zip"
        with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, "run 12:30/wts.h5.zip" if "folder" in form else "wts.h5.zip")
            archive.writestr("log.txt", "text")
        path = outer
    assert_same_model(load_archive(str(path)), model)


@pytest.mark.parametrize(("given_path", "written"), [("run", "run/wts.h5.zip"), ("net.zip", "net.zip")])
def test_a_path_without_suffix_is_a_folder(tmp_path, given_path, written):
    assert save_archive(trained(), tmp_path / given_path) == tmp_path / written


def test_loading_fills_params_at_the_end(tmp_path, live_params):
    live_params["label"] = "mine"
    model = trained()
    load_archive(save_archive(model, tmp_path))
    # where files are is for the host program to say
    places = {"output_prefix", "train_data_file_path", "test_data_file_path"}
    assert live_params["output_prefix"] == params.defaults()["output_prefix"]
    for key, value in bridge.dataclass_to_legacy_dict(model.config).items():
        assert value is None or key in places or live_params[key] == value
    assert live_params["label"] == ""  # a default, as every key of the snapshot that no field decides
    assert live_params["intensity_scale"] == model.intensity_scale
    assert live_params["probe"].shape == (64, 64, 1)
    np.testing.assert_array_equal(live_params["probe"][..., 0], model.probe)
    params.validate()


PARAMS_MEMBER = """{
 "N": 64, "offset": 4, "gridsize": 1, "outer_offset_train": null, "outer_offset_test": null, "batch_size": 16,
 "nepochs": 50, "n_filters_scale": 1, "output_prefix": "training_outputs", "big_gridsize": 10,
 "max_position_jitter": 10, "sim_jitter_scale": 0.0, "default_probe_scale": 0.7, "mae_weight": 0.0,
 "nll_weight": 1.0, "tv_weight": 0.0, "realspace_mae_weight": 0.0, "realspace_weight": 0.0, "nphotons": 1000000.0,
 "nimgs_train": 9, "nimgs_test": 3, "data_source": "generic", "probe.trainable": false,
 "intensity_scale.trainable": true, "positions.provided": true, "object.big": true, "probe.big": true,
 "probe_scale": 4.0, "set_phi": false, "probe.mask": false, "pad_object": true, "model_type": "pinn", "label": "",
 "size": 392, "amp_activation": "sigmoid", "h5_path": "wts.h5", "npseed": 42, "debug": true,
 "gaussian_smoothing_sigma": 0.0, "use_xla_translate": true, "architecture": "cnn", "cbam_encoder": false,
 "cbam_bottleneck": false, "cbam_decoder": false, "eca_encoder": false, "eca_decoder": false,
 "spatial_decoder": false, "decoder_spatial_kernel": 7, "use_shared_decoder": false, "edge_pad": 0,
 "decoder_last_c_outer_fraction": 0.125, "batch_norm": false, "n_groups": 512, "neighbor_count": 4,
 "enable_oversampling": false,
 "sequential_sampling": false, "normalize": "Batch", "data_scaling": "Parseval", "phase_subtraction": false,
 "backend": "tensorflow", "amp_loss_coeff": 1.0, "phase_loss_coeff": 1.0, "amplitude_variance_coeff": 0.0,
 "validation_share": 0.05, "resample_groups": false,
 "intensity_scale": 31.3
}"""
"""Snapshot of `trained()`, as the first version of the library wrote it in a fresh process."""


def without_manifest(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


def test_nothing_in_an_archive_is_from_the_process(tmp_path, live_params):
    model = dataclasses.replace(trained(), training_state=state_of(trained()))
    clean = without_manifest(save_archive(model, tmp_path / "clean.zip"))
    assert clean["params.json"].decode() == json.dumps(json.loads(PARAMS_MEMBER), indent=1) + "\n"
    for key in live_params:
        live_params[key] = "of another run"
    live_params |= {
        "my.own": 1,
        "handle": open,
        "probe": np.ones(3),
        "intensity_scale": 7.0,
        "model_path": "x",
    }
    assert without_manifest(save_archive(model, tmp_path / "filled.zip")) == clean


def test_values_of_params_in_archives_of_earlier_versions_are_still_loaded(tmp_path, live_params):
    members = without_manifest(save_archive(trained(), tmp_path / "new.zip"))
    values = json.loads(members["params.json"])
    values |= {
        "label": "kept",
        "my.own": {"$tuple": [1, {"$array": "params/0"}, {"$numpy": ["float32", 0.5]}]},
    }
    values |= {"N": 256, "nphotons": 1.0}  # config.json decides these
    with h5py.File(io.BytesIO(members["weights.h5"])) as file:
        weights = {name: file[name][()] for name in weight_shapes(trained().config.model)}
    members["params.json"] = json.dumps(values).encode()
    members["weights.h5"] = hdf5_bytes({**weights, "params/0": np.arange(6.0).reshape(2, 3)})
    with zipfile.ZipFile(tmp_path / "new.zip") as archive:
        manifest = json.loads(archive.read("manifest.json"))
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in members.items()
    }
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        for name, data in {"manifest.json": json.dumps(manifest).encode(), **members}.items():
            archive.writestr(name, data)
    load_archive(tmp_path / "old.zip")
    assert (live_params["label"], live_params["N"], live_params["nphotons"]) == ("kept", 64, 1e6)
    one, array, half = live_params["my.own"]
    assert (one, type(half), float(half)) == (1, np.float32, 0.5)
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3))


def test_changing_params_leaves_the_model_alone(tmp_path, live_params):
    model = load_archive(save_archive(trained(), tmp_path))
    before = model.probe.copy()
    live_params["probe"][:] = 0
    np.testing.assert_array_equal(model.probe, before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop("log_scale"), "log_scale missing"),
        (lambda w: w.update(extra=np.zeros(3, np.float32)), "unknown extra"),
        (lambda w: w.update(log_scale=np.float32("nan")), "log_scale: 1 of 1 values"),
        (lambda w: w.update(log_scale=np.float64(3)), "log_scale: got float64"),
        (lambda w: w.update(probe=w["probe"][:32]), r"probe: got complex64 \(32, 64\)"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change, match):
    path = save_archive(trained(), tmp_path)
    before = path.read_bytes()
    weights = dict(trained().weights)
    change(weights)
    with pytest.raises(ArchiveError, match=match):
        save_archive(dataclasses.replace(trained(), weights=weights), tmp_path)
    assert path.read_bytes() == before


def test_an_invalid_configuration_is_not_saved(tmp_path):
    model = trained()
    model.config.model.N = 0
    with pytest.raises(ConfigError, match="N: got 0"):
        save_archive(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_archive(tmp_path, monkeypatch):
    path = save_archive(trained(), tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        save_archive(trained(seed=1), tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["wts.h5.zip"]


def test_small_and_fast(tmp_path):
    """The smallest network: at most 3 MB, and a tenth of a second of the processor each way."""
    model, path = trained(), tmp_path / "wts.h5.zip"
    seconds = {"save": [], "load": []}
    for _ in range(4):
        for name, action in (
            ("save", lambda: save_archive(model, path)),
            ("load", lambda: load_archive(path)),
        ):
            start = time.process_time()
            action()
            seconds[name].append(time.process_time() - start)
    assert path.stat().st_size <= 3e6
    assert min(seconds["save"]) < 0.1
    assert min(seconds["load"]) < 0.1


def test_summary_of_a_whole_archive(tmp_path, live_params):
    model = trained()
    model = dataclasses.replace(model, training_state=state_of(model), interrupted=True)
    path = save_archive(model, tmp_path)
    before = copy.deepcopy(live_params)
    summary = inspect_archive(tmp_path)
    assert live_params == before
    assert summary.whole
    assert (summary.format, summary.version) == ("ptycho-backends model", "1.0")
    assert summary.config == model.config
    assert (summary.backend, summary.epochs, summary.train_loss) == ("torch", 2, HISTORY[-1].train_loss)
    assert summary.weight_count == len(model.weights)
    assert summary.parameter_count == sum(w.size for w in model.weights.values()) + 64 * 64
    assert summary.interrupted
    assert summary.resumable
    assert dict(summary.members)["weights.h5"] > 2e6
    for text in (str(path.parent), "torch", "gridsize=1", "2 epochs", "resumable", "weights.h5"):
        assert text in str(summary)


def test_summary_of_a_damaged_archive_names_the_damage(tmp_path):
    path = save_archive(trained(), tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    summary = inspect_archive(path)
    assert not summary.whole
    assert summary.problem.startswith("weights.h5: ")
    assert summary.config is None
    assert "no: weights.h5" in str(summary)
    path.write_bytes(b"no zip at all")
    with pytest.raises(ArchiveError, match="not a zip"):
        inspect_archive(path)


def test_loading_imports_no_c_parser_and_no_framework(tmp_path):
    save_archive(trained(), tmp_path)
    code = (
        "import sys; from ptycho_backends.archive import load_archive; load_archive(sys.argv[1]);"
        "print([m for m in ('h5py', 'torch', 'tensorflow', 'keras', 'dill', 'pickle5') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.builds(np.float32, st.floats(width=32, allow_nan=False)),
    st.builds(np.int16, st.integers(-99, 99)),
    st.builds(Path, st.sampled_from(["a", "/b/c"])),
)
KEYS = st.text(max_size=4) | st.sampled_from(["$tuple", "$"]) | st.integers(0, 9)


def containers(inner):
    lists, tuples = st.lists(inner, max_size=3), st.tuples(inner, inner)
    return lists | tuples | st.dictionaries(KEYS, inner, max_size=3)


PLAIN = st.recursive(SCALARS, containers, max_leaves=8)


def types_of(value):
    if isinstance(value, dict):
        return [(type(key), key, types_of(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return (type(value), [types_of(item) for item in value])
    return type(value)


@settings(max_examples=150, deadline=None)
@given(value=PLAIN)
def test_json_keeps_exact_types(value):
    got = exact_json.loads(exact_json.dumps(value), "x.json")
    assert got == value
    assert types_of(got) == types_of(value)


def test_more_arrays_than_can_be_read_again_are_not_written(live_params, tmp_path):
    with pytest.raises(ArchiveError, match="more than the 2000 that can be read again"):
        hdf5_bytes({str(number): np.zeros(1) for number in range(2001)})
    live_params |= {f"mine{number}": np.zeros(2) for number in range(3000)}
    load_archive(save_archive(trained(), tmp_path))
