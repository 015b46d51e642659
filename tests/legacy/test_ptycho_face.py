"""`ptycho` and `legacy/`, as far as they need no framework."""

import ast
import dataclasses
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ptycho.config.config
import ptycho.loader
import ptycho.model_manager
import ptycho.params
import ptycho.probe
import ptycho.raw_data
import ptycho.tf_helper
import ptycho.workflows.components
from ptycho_backends import config as neutral_config
from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.errors import (
    ArchiveError,
    BackendUnavailableError,
    ConfigError,
    GroupingError,
    ScanError,
)
from ptycho_backends.legacy import components, framework_choice, model_manager
from ptycho_backends.legacy.model_manager import InferenceModel
from ptycho_backends.params import params
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import probe as probes
from ptycho_backends.reference import stitching
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.values import EpochRecord, Reconstruction, TrainedModel

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = sorted((REPOSITORY / "ptycho").rglob("*.py"))
M, N = 12, 64
RawData = ptycho.raw_data.RawData
ModelConfig = ptycho.config.config.ModelConfig
TrainingConfig = ptycho.config.config.TrainingConfig


def given(**changes):
    """The arguments of Ptychodus; the patterns are counts in floating point."""
    generator = np.random.default_rng(0)
    return {
        "xcoords": generator.uniform(40, 60, M) ** 1.02,
        "ycoords": generator.uniform(40, 60, M),
        "diff3d": generator.poisson(9.0, (M, N, N)).astype(np.float32),
        "probeGuess": np.ones((2, N, N), np.complex128) * np.array([1, 2])[:, None, None],
        "scan_index": np.zeros(M, int),
        "objectGuess": np.exp(1j * generator.uniform(0, 1, (120, 110))),
        **changes,
    }


def ptychodus_file(path, **changes):
    entries = given(**changes)
    entries |= {f"{axis}coords_start": entries[f"{axis}coords"] for axis in "xy"}
    np.savez(path, bad_pixels=np.zeros((N, N), bool), **entries)
    return path


def test_a_model_of_two_modes_opens_again(tmp_path, caplog):
    config = TrainingConfig(model=ModelConfig(N=N, n_filters_scale=1, n_probe_modes=2))
    weights = initial_weights(config.model, 3, probe=np.ones((2, N, N), np.complex64), intensity_scale=20.0)
    save_archive(
        TrainedModel(config=config, weights=weights, intensity_scale=20.0, backend="torch"), tmp_path
    )
    before = dict(params.cfg)
    try:
        model = model_manager.load_inference_model(tmp_path)
        assert model.trained.probe_modes.shape == (2, N, N)
        assert params.cfg["n_probe_modes"] == 2
        assert params.cfg["probe"].shape == (N, N, 1)
    finally:
        params.cfg.clear()
        params.cfg.update(before)
    assert "n_probe_modes" not in caplog.text


def test_all_modes_that_are_handed_over_are_used(tmp_path, caplog):
    raw = RawData.from_coords_without_pc(**given())
    completed = components.completed_for(TrainingConfig(model=ModelConfig(N=N)), raw)
    assert completed.model.n_probe_modes == 2
    chosen = components.completed_for(TrainingConfig(model=ModelConfig(N=N, n_probe_modes=4)), raw)
    assert chosen.model.n_probe_modes == 4
    single = RawData.from_coords_without_pc(
        **given(probeGuess=np.ones((N, N), complex)), measurement="intensity"
    )
    assert components.completed_for(TrainingConfig(model=ModelConfig(N=N)), single).model.n_probe_modes == 1
    loaded = RawData.from_file(ptychodus_file(tmp_path / "a.npz"))
    assert len(loaded.scan.probe_modes) == 2
    assert "probe modes are used" not in caplog.text


# --- the face itself


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_face_has_no_logic_of_its_own(path):
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        if isinstance(node, ast.ImportFrom):
            assert node.module.startswith("ptycho_backends.")
        else:
            assert isinstance(node, ast.Assign)
            assert node.targets[0].id == "__all__"


def test_the_configuration_alone_is_cheap_to_import(tmp_path):
    foreign = {"torch", "tensorflow", "scipy", "h5py", "matplotlib", "skimage"}
    code = f"import ptycho.config.config, sys; print(sorted(set(sys.modules) & {foreign!r}))"
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_configuration_is_made_before_the_data_are_seen():
    config = TrainingConfig(model=ModelConfig(N=0), train_data_file=Path(), output_dir=Path(), nphotons=1e6)
    config = pickle.loads(pickle.dumps(config))
    config.model.N = N
    ptycho.config.config.update_legacy_dict(ptycho.params.cfg, config)
    assert (ptycho.params.get("N"), ptycho.params.params()["nphotons"]) == (N, 1e6)
    assert ptycho.params.cfg is params.cfg
    ptycho.params.set("gridsize", 1)
    ptycho.params.validate()
    with pytest.raises(KeyError, match="no 'gridsiz'; did you mean 'gridsize'"):
        ptycho.params.get("gridsiz")


# --- the patterns of Ptychodus


def test_a_file_that_ptychodus_wrote_holds_counts_in_any_dtype(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = ptychodus_file(tmp_path / "train_data.npz")
    raw = RawData.from_file(path)
    assert raw.measurement == load_scan(path).measurement == "intensity"
    assert "was written by Ptychodus, so its patterns are counts" in caplog.text
    assert RawData.from_file(path, measurement="amplitude").measurement == "amplitude"
    np.testing.assert_array_equal(raw.probeGuess, np.full((N, N), 2))

    raw.to_file(tmp_path / "ours.npz")
    assert RawData.from_file(tmp_path / "ours.npz").measurement == "intensity"
    incomplete = given()
    incomplete["diff3d"] = incomplete["diff3d"] + 0.5  # fractions are amplitudes
    np.savez(tmp_path / "other.npz", **incomplete)
    assert RawData.from_file(tmp_path / "other.npz").measurement == "amplitude"


@pytest.mark.parametrize(
    ("probe", "measurement"), [(np.ones((1, N, N)), "intensity"), (np.ones((N, N)), "amplitude")]
)
def test_a_call_with_a_stack_of_modes_is_one_of_ptychodus(probe, measurement, caplog):
    caplog.set_level(logging.INFO)
    fractions = given()["diff3d"] + 0.5
    raw = RawData.from_coords_without_pc(**given(probeGuess=probe, diff3d=fractions))
    assert raw.measurement == measurement
    assert ("stack of probe modes" in caplog.text) == (measurement == "intensity")


def test_labels_are_cut_where_ptychodus_says_the_middle_of_the_probe_is(tmp_path):
    raw = RawData.from_file(ptychodus_file(tmp_path / "train_data.npz"))
    np.testing.assert_array_equal(raw.xcoords, given()["xcoords"])
    np.testing.assert_array_equal(raw.labelled_scan.ycoords, given()["ycoords"] + 0.5)
    assert raw.labelled_scan.measurement == "intensity"
    other = RawData.from_coords_without_pc(**given())
    assert other.labelled_scan is other.scan


# --- groups, container, image


def test_groups_are_the_same_each_time_and_errors_speak_the_callers_language():
    raw = RawData.from_coords_without_pc(**given())
    first, second = (raw.generate_grouped_data(N, K=7, nsamples=6, gridsize=2) for _ in range(2))
    np.testing.assert_array_equal(first["nn_indices"], second["nn_indices"])
    assert len(raw.generate_grouped_data(N, K=7, nsamples=1, gridsize=1)["X_full"]) == 1
    # more than all of them, each one once, are all of them
    assert len(raw.generate_grouped_data(N, K=0, nsamples=500, gridsize=1)["X_full"]) == M
    with pytest.raises(GroupingError, match="nsamples: got 13 groups, but the scan has 12 positions"):
        raw.generate_grouped_data(N, K=7, nsamples=13, gridsize=2)
    with pytest.raises(GroupingError, match="K: got 7 nearest neighbours, want at least 9"):
        raw.generate_grouped_data(N, K=7, nsamples=1, gridsize=3)
    with pytest.raises(GroupingError, match="nsamples: got 0"):
        raw.generate_grouped_data(N, nsamples=0, gridsize=1)


def test_large_arrays_are_gathered_when_they_are_asked_for(monkeypatch):
    raw = RawData.from_coords_without_pc(**given())
    grouped = raw.generate_grouped_data(N, K=7, nsamples=6, gridsize=2)
    eager = grouped.groups.to_legacy_dict()
    assert (set(grouped), len(grouped)) == (set(eager), len(eager))
    asked = []
    gather = grouped._gather
    monkeypatch.setattr(grouped, "_gather", lambda key: asked.append(key) or gather(key))
    container = ptycho.loader.load(lambda: grouped, raw.probeGuess)
    assert asked == ["X_full"]
    assert container.Y is container.Y is grouped["Y"]
    assert asked == ["X_full", "Y"]
    for key, value in {**grouped}.items():
        np.testing.assert_array_equal(value, eager[key], err_msg=key)


def test_a_container_holds_what_is_fed():
    raw = RawData.from_coords_without_pc(**given())
    grouped = raw.generate_grouped_data(N, K=7, nsamples=6, gridsize=2)
    container = ptycho.loader.load(lambda: grouped, raw.probeGuess, which=None, create_split=False)
    assert repr(container) == "PtychoDataContainer(6 groups of 4 patterns of 64 x 64 pixels)"
    assert (container.X * 31.25).dtype == np.float32
    assert container.X.shape == container.Y.shape == (6, N, N, 4)
    assert container.local_offsets.shape == container.coords_nominal.shape == (6, 1, 2, 4)
    np.testing.assert_allclose(
        container.global_offsets - container.coords_true, container.coords_nn, rtol=1e-6
    )
    np.testing.assert_array_equal(container.nn_indices, grouped["nn_indices"])
    np.testing.assert_allclose(container.Y_I * np.exp(1j * container.Y_phi), container.Y, rtol=1e-6)
    assert container.probeGuess is raw.probeGuess


def test_a_container_of_a_part():
    raw = RawData.from_coords_without_pc(**given())
    grouped = raw.generate_grouped_data(N, nsamples=M, gridsize=1)
    train, test = (
        ptycho.loader.load(lambda: (grouped, 0.75), None, which=which, create_split=True)
        for which in ("train", "test")
    )
    assert (len(train), len(test)) == (9, 3)
    np.testing.assert_array_equal(np.concatenate([train.X, test.X]), grouped["X_full"])
    with pytest.raises(GroupingError, match="which: got None, want 'train' or 'test'"):
        ptycho.loader.load(lambda: (grouped, 0.75), None, create_split=True)
    with pytest.raises(GroupingError, match="X_full, Y"):
        ptycho.loader.load(dict, None)


def test_the_canvas_is_that_of_the_whole_scan():
    raw = RawData.from_coords_without_pc(**given())
    grouped = raw.generate_grouped_data(N, nsamples=3, gridsize=1)
    patches = np.ones((3, N, N, 1), np.complex64)
    image = ptycho.tf_helper.reassemble_position(patches, grouped["coords_offsets"], M=20)
    positions = raw.scan.scan_positions_px
    low, high = positions.min(axis=0), positions.max(axis=0)
    assert image.shape == (*(np.ceil(high - low)[::-1] + N), 1)
    # where the patches lie, relative to the middle of the canvas
    lit = np.abs(image[..., 0]) > 0.5
    rows, columns = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
    height, width = lit.shape
    found = np.array([columns[0] + columns[-1] - width + 1, rows[0] + rows[-1] - height + 1]) / 2
    used = positions[grouped["nn_indices"][:, 0]]
    np.testing.assert_allclose(found, (used.min(axis=0) + used.max(axis=0) - low - high) / 2, atol=0.75)
    assert type(image) is np.ndarray
    assert image.dtype == np.complex64

    plain = np.array(grouped["coords_offsets"])
    for centres in (plain, grouped["coords_offsets"] + 0.0):
        np.testing.assert_array_equal(
            ptycho.tf_helper.reassemble_position(patches, centres, M=20),
            stitching.reassemble_position(patches, plain, 20),
        )


def test_the_probe_in_params():
    params.cfg.update(N=N, probe_scale=4.0)
    guess = np.exp(1j * np.linspace(0, 1, N))[:, None] * np.ones(N)
    kept = ptycho.probe.set_probe_guess(None, guess)
    np.testing.assert_array_equal(kept[..., 0], probes.normalise_probe(guess, 4.0))
    assert ptycho.probe.get_probe() is params.cfg["probe"] is kept
    np.testing.assert_array_equal(ptycho.probe.set_probe_guess(None, kept).shape, (N, N, 1))
    ptycho.probe.set_default_probe()
    expected = probes.normalise_probe(ptycho.probe.get_default_probe(N), 4.0)
    np.testing.assert_array_equal(ptycho.probe.get_probe()[..., 0], expected)
    np.testing.assert_array_equal(ptycho.probe.get_probe_mask(N)[..., 0], probes.circular_mask(N))
    with pytest.raises(ScanError, match="got 2 modes, want one"):
        ptycho.probe.set_probe_guess(None, np.ones((2, N, N)))


def test_what_filling_bad_pixels_leaves_below_zero(tmp_path, caplog):
    counts = given()["diff3d"]
    counts[3, 5, 5] = -2.0
    from_file = RawData.from_file(ptychodus_file(tmp_path / "train_data.npz", diff3d=counts))
    for raw in (RawData.from_coords_without_pc(**given(diff3d=counts)), from_file):
        assert raw.diff3d[3, 5, 5] == 0.0
        assert raw.diff3d.sum() == counts.sum() + 2.0
    assert caplog.text.count("1 negative counts are set to 0") == 2


# --- which framework


@pytest.fixture
def installed(monkeypatch):
    """A list of installed backends; `get_backend` returns the requested name."""
    names = ["torch", "tensorflow"]

    def get(name=None, *, config=None):
        chosen = name or framework_choice.os.environ.get("PTYCHO_BACKEND") or config.backend
        chosen = {"pytorch": "torch"}.get(chosen, chosen)
        if chosen not in names:
            raise BackendUnavailableError(f"{chosen} is not installed")
        return chosen

    monkeypatch.setattr(framework_choice, "installed_backends", lambda: tuple(names))
    monkeypatch.setattr(framework_choice, "get_backend", get)
    monkeypatch.delenv("PTYCHO_BACKEND", raising=False)
    return names


def test_who_trains(installed, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    choose = framework_choice.training_backend
    assert choose(TrainingConfig()) == "tensorflow"
    assert choose(TrainingConfig(backend="torch")) == "torch"
    installed.remove("tensorflow")
    assert choose(TrainingConfig()) == "torch"
    assert "tensorflow is not installed; computing with torch" in caplog.text
    installed[:] = ["tensorflow"]
    with pytest.raises(BackendUnavailableError):
        choose(TrainingConfig(backend="torch"))
    installed.append("torch")
    monkeypatch.setenv("PTYCHO_BACKEND", "torch")
    assert choose(TrainingConfig()) == "torch"
    monkeypatch.setenv("PTYCHO_BACKEND", "tensorflow")
    assert choose(TrainingConfig(backend="torch")) == "tensorflow"
    installed.remove("tensorflow")
    with pytest.raises(BackendUnavailableError):
        choose(TrainingConfig())


def test_who_reconstructs(installed, monkeypatch):
    choose = framework_choice.inference_backend
    assert (choose("torch"), choose("tensorflow"), choose("pytorch")) == ("torch", "tensorflow", "torch")
    assert choose("a third party's") == "torch"
    installed.remove("torch")
    assert choose("torch") == "tensorflow"
    monkeypatch.setenv("PTYCHO_BACKEND", "torch")
    with pytest.raises(BackendUnavailableError):
        choose("tensorflow")


# --- settings that the legacy interface lacks


def test_what_nobody_chose_is_filled_in():
    raw = RawData.from_coords_without_pc(**given())
    config = TrainingConfig(model=ModelConfig(N=0, gridsize=3))
    completed = components.completed_for(config, raw)
    assert (completed.model.N, completed.n_groups, completed.neighbor_count) == (N, M, 9)
    assert (config.model.N, config.n_groups, config.nphotons) == (0, 512, 1e9)
    neutral = components.completed_for(neutral_config.TrainingConfig(model=ModelConfig(N=0)), raw)
    assert (neutral.n_groups, neutral.nphotons) == (M, 1e9)
    chosen = TrainingConfig(model=ModelConfig(N=0), n_groups=5, neighbor_count=7, n_subsample=6)
    completed = components.completed_for(chosen, raw)
    assert (completed.n_groups, completed.neighbor_count) == (5, 7)
    assert components.completed_for(TrainingConfig(model=ModelConfig(N=0), n_subsample=6), raw).n_groups == 6
    with pytest.raises(ConfigError, match="positions_provided: got False, want True"):
        components.completed_for(TrainingConfig(model=ModelConfig(N=0), positions_provided=False), raw)
    with pytest.raises(ConfigError, match="N: got 128, but the patterns are 64 x 64"):
        components.completed_for(TrainingConfig(model=ModelConfig(N=128)), raw)


def test_labels_that_tell_nothing_are_refused():
    raw = RawData.from_coords_without_pc(**given(objectGuess=np.ones((120, 110), complex)))
    components.completed_for(TrainingConfig(model=ModelConfig(N=0)), raw)
    supervised = TrainingConfig(model=ModelConfig(N=0, model_type="supervised"))
    with pytest.raises(ScanError, match=r"objectGuess is 1\+0j everywhere, as where no object is known"):
        components.completed_for(supervised, raw)


def test_load_a_part(tmp_path):
    path = ptychodus_file(tmp_path / "scan.npz")
    load = ptycho.workflows.components.load_data
    assert len(load(path)) == M
    np.testing.assert_array_equal(load(path, n_images=5).xcoords, given()["xcoords"][:5])
    drawn = load(path, n_images=8, n_subsample=3, subsample_seed=1)
    assert (len(drawn), drawn.measurement, drawn.from_ptychodus) == (3, "intensity", True)
    np.testing.assert_array_equal(drawn.xcoords, load(path, 8, 3, 1).xcoords)
    with pytest.raises(ScanError, match="n_images: got 0"):
        load(path, n_images=0)


# --- models


class ReferenceBackend:
    name = "reference"

    def forward(self, config, weights, batch, *, execution=None):
        return reference.predict(config, weights, batch)


@pytest.fixture(scope="module")
def trained():
    config = TrainingConfig(model=ModelConfig(N=N, n_filters_scale=1), nepochs=1)
    weights = initial_weights(config.model, 3, probe=np.ones((N, N), np.complex64), intensity_scale=20.0)
    history = [EpochRecord(1, 2.0, None, 1e-3, 0.1)]
    return TrainedModel(config, weights, 20.0, history=history, backend="reference")


def test_predict(trained):
    raw = RawData.from_coords_without_pc(**given())
    container = ptycho.loader.load(lambda: raw.generate_grouped_data(N, nsamples=3, gridsize=1), None)
    inputs = [container.X * 20.0, container.local_offsets]
    image = InferenceModel(trained, ReferenceBackend()).predict(inputs, batch_size=2)
    both = InferenceModel(trained, ReferenceBackend(), "autoencoder").predict(inputs)
    assert image.shape == (3, N, N, 1)
    np.testing.assert_allclose(image, both[0], rtol=1e-6)
    np.testing.assert_allclose(both[1] ** 2, both[2])
    assert both[1].shape == (3, N, N, 1)


def test_a_model_trained_on_patterns_scaled_otherwise(trained, tmp_path):
    config = dataclasses.replace(trained.config, normalize="Group")
    path = save_archive(dataclasses.replace(trained, config=config), tmp_path)
    with pytest.raises(ConfigError, match=r"normalize='Group'.*want 'Batch' and 'Parseval'"):
        model_manager.ModelManager.load_multiple_models(path)


@pytest.mark.parametrize(
    ("fed", "offsets", "message"),
    [
        ((2, 32, 32, 1), (2, 1, 2, 1), "N: got patterns of shape"),
        ((2, N, N, 4), (2, 1, 2, 4), r"gridsize: got groups of 4 patterns.* set GridSize to 1"),
        ((2, N, N, 1), (3, 1, 2, 1), "local_offsets: got shape"),
        ((0, N, N, 1), (0, 1, 2, 1), "N: got patterns of shape"),
    ],
)
def test_groups_that_do_not_fit_the_model(trained, fed, offsets, message):
    with pytest.raises(ConfigError, match=message):
        InferenceModel(trained, ReferenceBackend()).predict([np.zeros(fed), np.zeros(offsets)])


def test_what_was_trained_last_is_saved(trained, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(model_manager, "_last_trained", None)
    with pytest.raises(ArchiveError, match="no model was trained in this process"):
        ptycho.model_manager.save(tmp_path)
    model_manager.remember(trained)
    folder = tmp_path / "with.a.dot"
    assert ptycho.model_manager.save(folder) == folder / "wts.h5.zip"
    assert [path.name for path in folder.iterdir()] == ["wts.h5.zip"]

    monkeypatch.setattr(model_manager, "inference_backend", lambda maker: ReferenceBackend())
    models = ptycho.model_manager.ModelManager.load_multiple_models(folder / "wts.h5")
    assert set(models) == {"autoencoder", "diffraction_to_obj"}
    assert ptycho.params.get("intensity_scale") == 20.0
    with pytest.raises(ArchiveError, match="no model other, want autoencoder or"):
        ptycho.model_manager.ModelManager.load_multiple_models(folder, ["other"])

    params.cfg.update(gridsize=4)
    model, config = ptycho.workflows.components.load_inference_bundle(folder)
    assert (model.trained.config, config.model.N) == (config, N)
    assert "trained with other settings, which count: gridsize 4 (the model: 1)" in caplog.text


def test_outputs(trained, tmp_path):
    image = np.exp(1j * np.linspace(0, 1, 30))[:, None] * np.ones(30, np.complex64)
    reconstruction = Reconstruction(
        image, np.ones((30, 30), np.float32), np.zeros(2), np.zeros((1, 2)), backend="reference"
    )
    results = {"reconstruction": reconstruction, "model": trained}
    save = ptycho.workflows.components.save_outputs
    save(np.abs(image), np.angle(image), results, str(tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"reconstruction.npy", "reconstruction.png", "history.csv", "history.png"}
    np.testing.assert_allclose(np.load(tmp_path / "out" / "reconstruction.npy"), image, rtol=1e-6)
    save(None, None, {}, tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []
