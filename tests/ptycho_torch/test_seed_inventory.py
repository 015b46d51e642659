"""Every name of the legacy port, run on a part of a real scan."""

import importlib
import re
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import ptycho_torch
from ptycho_backends.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.legacy.raw_data import RawData
from ptycho_backends.scans.scan_files import load_scan
from ptycho_torch import config_bridge, config_params, datagen, inference, train, train_utils
from ptycho_torch.api import example_train, example_use
from ptycho_torch.api.base_api import ConfigManager, PtychoDataLoader, PtychoModel
from ptycho_torch.api.trainer_api import setup_lightning_trainer
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
from ptycho_torch.dataloader import PtychoDataset
from ptycho_torch.memmap_bridge import MemmapDatasetBridge
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.model_manager_torch import TorchModelManager
from ptycho_torch.raw_data_bridge import RawDataTorch
from ptycho_torch.reassembly import reconstruct_image_barycentric
from ptycho_torch.workflows import components

M = 16
PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows" / "pytorch.md"
ONE = {"N": 64, "C": 1, "grid_size": (1, 1), "n_subsample": 1, "x_bounds": (0.0, 1.0), "y_bounds": (0.0, 1.0)}
ONE_MODEL = {"C_model": 1, "C_forward": 1, "decoder_last_amp_channels": 1, "n_filters_scale": 1}
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def real(shared):
    return load_scan(shared / "data" / "siemens_star_64.npz")


@pytest.fixture(scope="module")
def folder(real, tmp_path_factory):
    """A folder with a part of the scan, written as the port's users have it."""
    folder = tmp_path_factory.mktemp("real")
    part = RawData(
        real.xcoords[:M], real.ycoords[:M], None, None, real.patterns[:M], real.probe_guess,
        objectGuess=real.object_guess, measurement=real.measurement,
    )  # fmt: skip
    part.to_file(folder / "scan.npz")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """The best checkpoint of `example_train`, which is one of the names."""
    return example_train.main(folder, epochs=1)


def config(gridsize=1, **changes):
    model = ModelConfig(N=64, gridsize=gridsize, n_filters_scale=1)
    return TrainingConfig(model=model, nepochs=1, batch_size=8, n_groups=M, backend="torch", **changes)


def manager(**training):
    return ConfigManager(ONE, ONE_MODEL, {"epochs": 1, "device": "cpu", "num_workers": 0, **training})


ROWS = {}


def row(name):
    def add(test):
        ROWS[name] = test
        return test

    return add


@row("run_cdi_example_torch")
def _(folder, trained, tmp_path):
    raw = RawData.from_file(folder / "scan.npz")
    amplitude, phase, results = ptycho_torch.run_cdi_example_torch(raw, raw, config())
    assert amplitude.shape == phase.shape
    assert amplitude.std() > 0
    assert results["backend"] == "torch"
    assert ptycho_torch.run_cdi_example_torch is components.run_cdi_example_torch


@row("train_cdi_model_torch")
def _(folder, trained, tmp_path):
    results = ptycho_torch.train_cdi_model_torch(RawData.from_file(folder / "scan.npz"), None, config())
    assert np.isfinite(results["history"]["loss"]).all()


@row("load_inference_bundle_torch")
def _(folder, trained, tmp_path):
    TorchModelManager.save(TorchModelManager.load(trained), tmp_path)
    model, stored = components.load_inference_bundle_torch(tmp_path)
    grouped = RawData.from_file(folder / "scan.npz").generate_grouped_data(64, nsamples=4, gridsize=1)
    patches = model.predict([grouped["X_full"], grouped["coords_relative"]])
    assert (patches.shape, stored.model.N, model.backend.name) == ((4, 64, 64, 1), 64, "torch")


@row("train.main")
def _(folder, trained, tmp_path):
    (tmp_path / "scan.npz").symlink_to(folder / "scan.npz")
    best = train.main(tmp_path, existing_config=manager(), disable_mlflow=True)
    assert TorchModelManager.load(best).history


@row("inference.load_and_predict")
def _(folder, trained, tmp_path):
    image = inference.load_and_predict(
        trained, folder, output_path=tmp_path / "image.npz", relative_mlflow_path="mlruns"
    )
    assert image.object.std() > 0
    assert (tmp_path / "image.npz").is_file()
    with pytest.raises(ConfigError, match="got both"):
        inference.load_and_predict(trained, folder, tracking_uri="x", relative_mlflow_path="mlruns")


@row("api.example_use")
def _(folder, trained, tmp_path):
    image = np.load(example_use.main(trained, folder / "scan.npz", tmp_path / "out" / "image.npy"))
    np.testing.assert_array_equal(image, inference.load_and_predict(trained, folder).object)


@row("api.example_train")
def _(folder, trained, tmp_path):
    assert trained.suffix == ".ckpt"
    assert len(TorchModelManager.load(trained).history) == 1


@row("api.trainer_api.setup_lightning_trainer")
def _(folder, trained, tmp_path):
    loader = PtychoDataLoader(folder, manager(), output_dir=tmp_path)
    model = PtychoModel._new_model(PtychoPINN_Lightning, loader.config_manager)
    trainer = setup_lightning_trainer(model, loader.config_manager.training_config, tmp_path / "fit")
    assert isinstance(trainer, lightning.Trainer)
    values, *_ = zip(*(PtychoDataset(folder, ONE_MODEL, ONE)[i] for i in range(4)), strict=True)
    batch = {
        "diffraction": torch.stack([value["images"] for value in values]),
        "offsets": torch.stack([value["coords_relative"][:, 0] for value in values]),
    }
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    trainer.fit_loop.max_epochs = 1
    batches = DataLoader([batch], batch_size=None)
    trainer.fit(model.model, batches, batches)
    assert any(not torch.equal(before[name], value) for name, value in model.model.state_dict().items())
    assert (tmp_path / "fit" / "best-checkpoint.ckpt").is_file()


@row("api.base_api")
def _(folder, trained, tmp_path):
    assert {"ConfigManager", "InferenceEngine", "PtychoDataLoader", "PtychoModel", "Trainer"} <= set(
        vars(importlib.import_module("ptycho_torch.api.base_api"))
    )
    assert len(PtychoDataLoader(folder, manager(), output_dir=tmp_path).groups) == M


@row("dataloader.PtychoDataset")
def _(folder, trained, tmp_path, real):
    dataset = PtychoDataset(folder, ONE_MODEL, {**ONE, "phase_subtraction": False})
    values, probe, scale = dataset[3]
    (position,) = values["nn_indices"].tolist()
    amplitude = (
        np.sqrt(real.patterns[position]) if real.measurement == "intensity" else real.patterns[position]
    )
    np.testing.assert_allclose(values["images"][0], amplitude * scale.item(), rtol=1e-5)
    np.testing.assert_allclose(values["coords_global"][0, 0], real.scan_positions_px[position])
    assert values["Y"].dtype == torch.complex64
    torch.testing.assert_close(torch.polar(values["label_amp"], values["label_phase"]), values["Y"])
    # the patch lies at its position in the object
    corner = values["coords_global"][0, 0].numpy() - 32
    x, y = np.rint(corner).astype(int)
    wanted = real.object_guess[y : y + 64, x : x + 64]
    got = values["Y"][0].numpy()
    assert abs(np.vdot(wanted, got)) > 0.99 * np.linalg.norm(wanted) * np.linalg.norm(got)
    assert probe.shape == (1, 64, 64)
    (batch, _, scales) = next(iter(DataLoader(dataset, batch_size=4)))
    assert (batch["images"].shape, scales.shape) == ((4, 1, 64, 64), (4,))
    with pytest.raises(IndexError, match="group 16 of 16"):
        dataset[M]


@row("memmap_bridge.MemmapDatasetBridge.generate_grouped_data")
def _(folder, trained, tmp_path):
    bridge = MemmapDatasetBridge(folder / "scan.npz", config(2), tmp_path)
    grouped = bridge.generate_grouped_data(nsamples=5)
    want = RawData.from_file(folder / "scan.npz").generate_grouped_data(64, K=4, nsamples=5, gridsize=2)
    np.testing.assert_array_equal(grouped["X_full"], want["X_full"])
    np.testing.assert_array_equal(bridge.get_grouped_data(64, 4, 5, 2)["nn_indices"], want["nn_indices"])


@row("data_container_bridge.PtychoDataContainerTorch")
def _(folder, trained, tmp_path, real):
    raw = RawData.from_file(folder / "scan.npz")
    container = PtychoDataContainerTorch(
        raw.generate_grouped_data(64, nsamples=3, gridsize=1), raw.probeGuess
    )
    assert container.probe is container.probeGuess
    np.testing.assert_array_equal(container.probe.numpy(), real.probe_guess)


@row("raw_data_bridge.RawDataTorch")
def _(folder, trained, tmp_path, real):
    path = folder / "scan.npz"
    for raw in (
        RawDataTorch(config(2), path),
        RawDataTorch(config=config(2), npz_path=path),
        RawDataTorch(InferenceConfig(model=ModelConfig(gridsize=2)), str(path)),
    ):
        np.testing.assert_array_equal(raw.diff3d, real.patterns[:M])
        assert raw.generate_grouped_data()["X_full"].shape == (M, 64, 64, 4)
    with pytest.raises(ScanError, match="xcoords, ycoords, diff3d missing"):
        RawDataTorch(config())
    with pytest.raises(ScanError, match="arrays or a file"):
        RawDataTorch(real.xcoords, npz_path=path)


@row("config_bridge.to_model_config")
def _(folder, trained, tmp_path):
    data, model = config_params.DataConfig(**ONE), config_params.ModelConfig(**ONE_MODEL)
    assert config_bridge.to_model_config(data, model).n_filters_scale == 1
    with pytest.raises(ConfigError, match=r"data: got ModelConfig.*want DataConfig.*model: got dict"):
        config_bridge.to_model_config(model, {})


@row("config_bridge.to_training_config")
def _(folder, trained, tmp_path):
    data, model = config_params.DataConfig(**ONE), config_params.ModelConfig(**ONE_MODEL)
    network = config_bridge.to_model_config(data, model)
    run = config_params.TrainingConfig(epochs=3)
    assert config_bridge.to_training_config(network, data, model, run).nepochs == 3
    with pytest.raises(ConfigError, match="training: got dict"):
        config_bridge.to_training_config(network, data, model, {})


@row("config_bridge.to_inference_config")
def _(folder, trained, tmp_path):
    data = config_params.DataConfig(**ONE)
    network = config_bridge.to_model_config(data, config_params.ModelConfig(**ONE_MODEL))
    assert config_bridge.to_inference_config(network, data, config_params.InferenceConfig()).model is network
    with pytest.raises(ConfigError, match="inference: got NoneType"):
        config_bridge.to_inference_config(network, data, None)


@row("model_manager_torch.TorchModelManager")
def _(folder, trained, tmp_path):
    model = TorchModelManager.load(trained)
    again = TorchModelManager.load(TorchModelManager.save(model, tmp_path))
    assert all(np.array_equal(again.weights[name], model.weights[name]) for name in model.weights)


@row("reassembly.reconstruct_image_barycentric")
def _(folder, trained, tmp_path):
    raw = RawData.from_file(folder / "scan.npz")
    grouped = raw.generate_grouped_data(64, nsamples=M, gridsize=1)
    image, coverage, _ = reconstruct_image_barycentric(
        torch.as_tensor(grouped["Y"]),
        torch.as_tensor(np.array(grouped["coords_offsets"])),
        weighting="uniform",
    )
    assert np.isfinite(image).all()
    assert coverage.max() > 1


@row("datagen.simulate_training_data")
def _(folder, trained, tmp_path, real):
    scan = datagen.simulate_training_data(real.object_guess, real.probe_guess, n_positions=9)
    assert scan.patterns.shape == (9, 64, 64)
    assert scan.patterns.sum() > 0


@row("train_utils.PtychoDataModule")
def _(folder, trained, tmp_path):
    module = MemmapDatasetBridge(folder / "scan.npz", config(), tmp_path).data_module()
    assert isinstance(module, train_utils.PtychoDataModule)


@row("train_utils.find_learning_rate")
def _(folder, trained, tmp_path):
    bridge = MemmapDatasetBridge(folder / "scan.npz", config(), tmp_path)
    module = PtychoPINN_Lightning(ONE_MODEL, ONE)
    found = train_utils.find_learning_rate(module, bridge.data_module(), steps=10, largest=1e-2)
    assert 1e-6 <= found.suggestion <= 1e-2


@row("train_utils.set_seed")
def _(folder, trained, tmp_path):
    draws = []
    for _ in range(2):
        train_utils.set_seed(3)
        draws.append(torch.rand(2))
    torch.testing.assert_close(*draws, rtol=0, atol=0)


# Lightning's own calls of torch, with a trainer of its own
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*`srun` command is available")
@pytest.mark.parametrize("name", ROWS)
def test_a_name_of_the_port_works(name, folder, trained, tmp_path, real):
    test = ROWS[name]
    more = {"real": real} if "real" in test.__code__.co_varnames[: test.__code__.co_argcount] else {}
    test(folder, trained, tmp_path, **more)


def test_the_page_lists_the_names_that_are_tested():
    listed = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(ROWS)
