"""`ptycho` computing with PyTorch, and the names of the legacy port; on a real scan."""

import dataclasses
import logging
import zipfile

import numpy as np
import pytest
import torch

import ptycho.loader
import ptycho.model_manager
import ptycho.params
import ptycho.tf_helper
from ptycho.workflows.components import load_data, load_inference_bundle, run_cdi_example
from ptycho_backends.config import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import GroupingError, ScanError
from ptycho_backends.reference import stitching
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
from ptycho_torch.raw_data_bridge import RawDataTorch
from ptycho_torch.reassembly import reconstruct_image_barycentric
from ptycho_torch.workflows import run_cdi_example_torch, train_cdi_model_torch

M, N = 12, 64
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def scans(shared):
    path = shared / "data" / "siemens_star_64.npz"
    return load_data(path, n_images=M), load_data(path, n_images=9)


def configuration(**changes):
    model = ModelConfig(N=0, n_filters_scale=1, gridsize=changes.pop("gridsize", 1))
    return TrainingConfig(model=model, nepochs=2, nphotons=1e6, batch_size=4, **changes)


@pytest.fixture
def with_torch(monkeypatch):
    monkeypatch.setenv("PTYCHO_BACKEND", "torch")


def test_train_save_load_reconstruct(scans, with_torch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train, test = scans
    amplitude, phase, results = run_cdi_example(train, test, configuration(gridsize=2))
    assert results["backend"] == "torch"
    assert [len(results["history"][name]) for name in ("loss", "val_loss")] == [2, 2]
    assert "epoch 2/2: loss" in caplog.text
    image = results["reconstruction"].object
    assert (amplitude.dtype, phase.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(amplitude * np.exp(1j * phase), image, atol=1e-6)
    np.testing.assert_array_equal(
        stitching.reassemble_position(results["obj_tensor_full"], results["global_offsets"])[..., 0], image
    )

    packed = ptycho.model_manager.save(tmp_path)
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(unpacked)
    grouped = test.generate_grouped_data(N, K=7, nsamples=9, gridsize=2)
    container = ptycho.loader.load(lambda: grouped, test.probeGuess, which=None, create_split=False)
    images = []
    for folder in (tmp_path, unpacked):
        model, config = load_inference_bundle(folder)
        assert (config.n_groups, config.model.gridsize, model.backend.name) == (M, 2, "torch")
        patches = model.predict([container.X * ptycho.params.get("intensity_scale"), container.local_offsets])
        images.append(ptycho.tf_helper.reassemble_position(patches, container.global_offsets, M=20))
    np.testing.assert_array_equal(*images)
    assert np.isfinite(images[0]).all()


def test_one_patch_each_is_what_the_library_infers(scans, with_torch):
    train, test = scans
    _, _, results = run_cdi_example(train, None, configuration())
    model = results["model_instance"]
    grouped = test.generate_grouped_data(N, nsamples=9, gridsize=1, sequential_sampling=True)
    patches = model.predict([grouped["X_full"] * results["intensity_scale"], grouped["coords_relative"]])
    expected = model.backend.infer(results["model"], test.scan).object_patches
    np.testing.assert_allclose(patches, expected, atol=1e-6)


def test_the_names_of_the_port_always_mean_torch(scans, monkeypatch):
    monkeypatch.setenv("PTYCHO_BACKEND", "tensorflow")
    quiet = ExecutionConfig(enable_progress_bar=False, accelerator="cpu")
    train, test = scans
    amplitude, phase, results = run_cdi_example_torch(train, test, configuration(), execution=quiet)
    assert results["backend"] == results["model"].backend == "torch"
    assert amplitude.shape == phase.shape == results["reconstruction"].object.shape
    again = train_cdi_model_torch(train, None, configuration(), execution=quiet)
    assert again["history"]["loss"] == results["history"]["loss"]
    assert "reconstruction" not in again


def test_what_cannot_be_reconstructed_is_said_before_training(scans, with_torch):
    train, test = scans
    test = load_part(test, 3)
    with pytest.raises(GroupingError, match="3 positions, want at least 4"):
        run_cdi_example(train, test, configuration(gridsize=2, nll_weight=1.0))
    supervised = configuration()
    supervised.model.model_type = "supervised"
    blank = RawDataTorch(
        train.xcoords, train.ycoords, train.diff3d, train.probeGuess, objectGuess=np.ones((200, 200), complex)
    )
    with pytest.raises(ScanError, match="everywhere, as where no object is known"):
        run_cdi_example(blank, None, supervised)


def load_part(raw, count, known=None):
    return RawDataTorch(
        raw.xcoords[:count], raw.ycoords[:count], raw.diff3d[:count], raw.probeGuess, objectGuess=known
    )


def test_raw_data_groups_as_its_configuration_says(scans):
    train, _ = scans
    config = InferenceConfig(model=ModelConfig(N=N, gridsize=2), neighbor_count=6)
    raw = RawDataTorch(train.xcoords, train.ycoords, train.diff3d, train.probeGuess, config=config)
    assert (ptycho.params.get("gridsize"), raw.measurement) == (2, "intensity")
    grouped = raw.generate_grouped_data()
    expected = train.generate_grouped_data(N, K=6, nsamples=M, gridsize=2)
    np.testing.assert_array_equal(grouped["nn_indices"], expected["nn_indices"])
    assert len(raw.generate_grouped_data(nsamples=2, gridsize=1)["X_full"]) == 2
    with pytest.raises(GroupingError, match="a config for RawDataTorch"):
        RawDataTorch(train.xcoords, train.ycoords, train.diff3d, None).generate_grouped_data()


def test_a_container_of_tensors(scans):
    train, _ = scans
    grouped = train.generate_grouped_data(N, nsamples=5, gridsize=1)
    container = PtychoDataContainerTorch(grouped, train.probeGuess)
    assert repr(container) == "PtychoDataContainerTorch(5 groups of 1 patterns of 64 x 64 pixels)"
    assert (container.X.dtype, container.Y.dtype) == (torch.float32, torch.complex64)
    torch.testing.assert_close(torch.polar(container.Y_I, container.Y_phi), container.Y)
    plain = ptycho.loader.load(lambda: grouped, train.probeGuess)
    for name, value in vars(container).items():
        np.testing.assert_array_equal(value.numpy(), getattr(plain, name), err_msg=name)
    without = PtychoDataContainerTorch(ptycho.loader.load(lambda: {**grouped, "Y": None}, None))
    assert without.Y is without.Y_I is without.Y_phi is without.probeGuess is None


def test_barycentric_stitching_of_tensors(scans):
    train, _ = scans
    grouped = train.generate_grouped_data(N, nsamples=M, gridsize=1)
    patches, centres = grouped["Y"], np.array(grouped["coords_offsets"])
    want = stitching.reconstruct_image_barycentric(patches, centres, train.probeGuess)
    got = reconstruct_image_barycentric(
        torch.as_tensor(patches).requires_grad_(), torch.as_tensor(centres), torch.as_tensor(train.probeGuess)
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    # patches of the object, put where they were cut, are the object
    image, coverage, origin = reconstruct_image_barycentric(patches, centres, weighting="uniform")
    x, y = np.rint(origin).astype(int) + 200
    truth = np.pad(train.objectGuess, 200)[y : y + len(image), x : x + len(image)]
    inside = coverage > 2
    error = np.abs(image - truth)[inside]
    assert np.median(error) < 0.05 * np.abs(truth[inside]).mean()


# --- every setting of Ptychodus for this interface has an effect

STOCK = {"gridsize": 2, "n_filters_scale": 1}
CHANGES = [
    {"gridsize": 1}, {"n_filters_scale": 2}, {"amp_activation": "softplus"}, {"object_big": False},
    {"probe_big": False}, {"probe_mask": True}, {"pad_object": False}, {"probe_scale": 8.0},
    {"gaussian_smoothing_sigma": 0.7}, {"nphotons": 1e5}, {"batch_size": 2}, {"nepochs": 2}, {"mae_weight": 0.5},
    {"nll_weight": 0.5}, {"realspace_weight": 1.0, "realspace_mae_weight": 1.0}, {"probe_trainable": True},
    {"intensity_scale_trainable": False}, {"model_type": "supervised"},
]  # fmt: skip


def losses_and_weights(raw, **changes):
    model_fields = {field.name for field in dataclasses.fields(ModelConfig)}
    values = {**STOCK, **changes}
    model = ModelConfig(N=0, **{name: value for name, value in values.items() if name in model_fields})
    rest = {name: value for name, value in values.items() if name not in model_fields}
    results = train_cdi_model_torch(
        raw, None, TrainingConfig(model=model, **{"nepochs": 1, "batch_size": 4, "nphotons": 1e6, **rest})
    )
    return results["history"]["loss"], results["model"].weights


@pytest.fixture(scope="module")
def stock(scans):
    return losses_and_weights(load_part(scans[0], 5, scans[0].objectGuess))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_each_setting_has_its_effect(scans, stock, change):
    losses, weights = losses_and_weights(load_part(scans[0], 5, scans[0].objectGuess), **change)
    assert np.isfinite(losses).all()
    if change in ({"probe_trainable": True}, {"intensity_scale_trainable": False}):
        # trainable or not: the first step differs, the first loss does not
        (name,) = {"probe_trainable": ["probe"], "intensity_scale_trainable": ["log_scale"]}[
            next(iter(change))
        ]
        assert not np.array_equal(weights[name], stock[1][name])
    else:
        assert losses != stock[0]
