"""Door 1, called as Ptychodus calls it: train, find the file, open it elsewhere, make an image."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ptycho_backends.archive.lightning_checkpoint import load_checkpoint
from ptycho_backends.errors import (
    ArchiveError,
    BackendUnavailableError,
    ConfigError,
    GroupingError,
    ScanError,
)
from ptycho_backends.params import params
from ptycho_backends.reference import physics
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_torch import scan_folder
from ptycho_torch.api.base_api import (
    ConfigManager,
    DataloaderFormats,
    InferenceEngine,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
    training_plan,
)
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.training import TrainingRun
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.inference import load_and_predict
from ptycho_torch.lightning_module import PtychoPINN_Lightning
from ptycho_torch.lightning_utils import find_best_checkpoint
from ptycho_torch.train import main

POSITIONS = 12
ONE = {"C": 1, "grid_size": (1, 1), "C_model": 1, "C_forward": 1, "decoder_last_amp_channels": 1}
# as small as can be: groups of one, few filters, no attention
SMALL = {
    **ONE, "n_filters_scale": 1, "cbam_encoder": False, "epochs": 2, "batch_size": 8, "num_workers": 0,
    "learning_rate": 1e-4, "x_bounds": (0.0, 1.0), "y_bounds": (0.0, 1.0), "notes": "beamtime 7",
}  # fmt: skip


def manager(**changed):
    changed = {**SMALL, **changed}
    configs = [
        dataclasses.replace(cls(), **{name: v for name, v in changed.items() if hasattr(cls, name)})
        for cls in (DataConfig, ModelConfig, TrainingConfig)
    ]
    inference = {name.removeprefix("image_"): v for name, v in changed.items() if name.startswith("image_")}
    return ConfigManager(
        data_config=configs[0],
        model_config=configs[1],
        training_config=configs[2],
        inference_config=InferenceConfig(**inference),
        datagen_config=DatagenConfig(),
    )


SCAN = simulate_star(64, POSITIONS)


def export(path, scan=SCAN, **changed):
    """As `ptychodus.api.io.save_ptychopinn_training_data` does: counts, modes, its own half pixel."""
    entries = {
        "xcoords": scan.xcoords - 0.5,
        "ycoords": scan.ycoords - 0.5,
        "xcoords_start": scan.xcoords - 0.5,
        "ycoords_start": scan.ycoords - 0.5,
        "diff3d": scan.patterns.astype(np.float32),
        "bad_pixels": np.zeros((scan.N, scan.N), bool),
        "probeGuess": scan.probe_guess[None].astype(np.complex128),
        "objectGuess": scan.object_guess,
        "scan_index": np.zeros(len(scan), int),
    }
    np.savez(path, **{**entries, **changed})


class Losses(Callback):
    """The history that Ptychodus collects."""

    def __init__(self, train_name, val_name):
        self.names = train_name, val_name
        self.train, self.val = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.train.append((trainer.current_epoch, float(trainer.callback_metrics[self.names[0]])))

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.val.append((trainer.current_epoch, float(trainer.callback_metrics[self.names[1]])))


def trained(folder, **changed):
    """The calls of Ptychodus's child process, in their order; the file, the losses and the module."""
    configs = manager(**changed)
    configs.training_config.n_devices = 1
    data = PtychoDataLoader(
        data_dir=folder,
        config_manager=configs,
        data_format=DataloaderFormats("lightning_only_module"),
        output_dir=folder,
    )
    model = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=configs)
    trainer = Trainer._from_lightning(
        model=model, dataloader=data, orchestration="lightning", config_manager=configs
    )
    losses = Losses(model.model.loss_name, model.model.val_loss_name)
    trainer._trainer.callbacks.append(losses)
    trainer.train(orchestration="lightning", experiment_name="")
    return find_best_checkpoint(Path(data.output_dir)), losses, model.model


@pytest.mark.parametrize(("where", "processes"), [("memory", 0), ("file", 2)])
def test_processes_gather_only_from_files(tmp_path, monkeypatch, where, processes):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    export(tmp_path / "scan.npz")
    configs = manager(num_workers=4)
    data = PtychoDataLoader(
        data_dir=tmp_path, config_manager=configs, data_format=DataloaderFormats("lightning_only_module")
    )
    if where == "file":
        np.save(tmp_path / "patterns.npy", data.groups.scan.patterns)
        mapped = np.load(tmp_path / "patterns.npy", mmap_mode="r")
        data.groups = dataclasses.replace(
            data.groups, scan=dataclasses.replace(data.groups.scan, patterns=mapped)
        )
    model = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=configs)
    asked = []
    monkeypatch.setattr(TrainingRun, "__init__", lambda self, *_, execution, **__: asked.append(execution))
    monkeypatch.setattr(TrainingRun, "trainer", None, raising=False)
    Trainer._from_lightning(model=model, dataloader=data, config_manager=configs)
    assert asked[0].num_workers == processes


def opened(path):
    """The calls of Ptychodus's child process that open a model; the engine, and the configurations."""
    data, network, run, image = PtychoModel._extract_configs_from_checkpoint(str(path))
    configs = {
        "model_config": network, "data_config": data, "training_config": run, "inference_config": image,
    }  # fmt: skip
    model = PtychoModel(**configs)
    model.model = PtychoPINN_Lightning.load_from_checkpoint(Path(path), **configs)
    found = ConfigManager.from_loaded_model(model)
    found.validate_arch_compatibility(model)
    return InferenceEngine(config_manager=found, ptycho_model=model), found


def image_of(path, scan=SCAN, **image):
    engine, configs = opened(path)
    engine._settings = dataclasses.replace(configs.inference_config, **image)
    loader = PtychoDataLoader.from_np(
        diff_patterns=scan.patterns,
        probe=scan.probe_guess[None],
        positions=np.stack([scan.ycoords, scan.xcoords], axis=1) - 0.5,
        config_manager=configs,
    )
    return engine.predict_and_stitch(loader)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    export(folder / "train_data.npz")
    path, losses, module = trained(folder)
    return folder, path, losses, module


def test_training_tells_its_losses_every_epoch(run):
    folder, path, losses, module = run
    assert [epoch for epoch, _ in losses.train] == [epoch for epoch, _ in losses.val] == [0, 1]
    recorded = [(r.epoch - 1, r.train_loss, r.val_loss) for r in module.history]
    told = [(*train, val[1]) for train, val in zip(losses.train, losses.val, strict=True)]
    np.testing.assert_allclose(told, recorded, rtol=1e-6)
    assert losses.train[1][1] < losses.train[0][1]
    assert path.suffix == ".ckpt"
    assert path.parent.parent.name.startswith("run_")
    assert path.parent.parent.parent == folder
    # the folder is also where training data are looked for
    assert [p.name for p in folder.rglob("*.npz")] == ["train_data.npz"]


def test_the_file_needs_nothing_beside_it(run, tmp_path):
    _, path, _, module = run
    copy = shutil.copyfile(path, tmp_path / "model.ckpt")
    torch.load(copy, weights_only=True)
    data, network, training, image = PtychoModel._extract_configs_from_checkpoint(str(copy))
    want = manager()
    # the size is that of the data by now
    assert data == dataclasses.replace(want.data_config, N=64)
    assert (network, training, image) == (want.model_config, want.training_config, want.inference_config)
    assert training.notes == "beamtime 7"
    assert network.mode == "Unsupervised"
    both = TorchBackend().load(copy), load_checkpoint(copy)
    best = min(range(2), key=lambda epoch: module.history[epoch].val_loss)
    for model in both:
        assert len(model.history) == best + 1
        assert model.intensity_scale == pytest.approx(10000.0)
        np.testing.assert_array_equal(model.weights["probe"], both[0].weights["probe"])


def test_the_image_lies_where_ptychodus_wants_it(run):
    image = image_of(run[1])
    assert image.dtype == np.complex64
    assert np.isfinite(image).all()
    height, width = (int(np.ceil(np.ptp(c))) + 64 for c in (SCAN.ycoords, SCAN.xcoords))
    assert image.shape == (height, width)
    assert (image[:20] == 1).all()
    assert (image[:, -20:] == 1).all()
    # nothing was written, and nothing is remembered from one image to the next
    np.testing.assert_array_equal(image_of(run[1]), image)


def test_image_settings(run):
    path = run[1]
    image = image_of(path, window=0)
    side = 64
    # only the middle of each patch is used, so the rest of the probe's width is not known
    assert (image[:15] == 1).all()
    assert (image[:30] != 1).any()
    wide = image_of(path, window=0, middle_trim=64)
    assert (wide[:15] != 1).any()
    window = image_of(path, window=25)
    assert (window[:25] == 1).all()
    np.testing.assert_array_equal(window[25:-25, 25:-25], image[25:-25, 25:-25])
    bare = image_of(path, window=0, pad_eval=False)
    np.testing.assert_array_equal(bare, image[16:-16, 16:-16])
    uniform = image_of(path, window=0, patch_weighting="uniform")
    assert uniform.shape == image.shape
    assert np.abs(uniform - image).max() > 1e-4
    np.testing.assert_allclose(image_of(path, window=0, batch_size=5), image, atol=1e-5)
    assert image.shape[0] > side
    with pytest.raises(ConfigError, match="window: got 60, which leaves nothing of an image of"):
        image_of(path, window=60)


def test_a_trim_wider_than_the_patterns_is_refused_before_training(run):
    with pytest.raises(ConfigError, match="middle_trim: got 66, want at most 64"):
        PtychoDataLoader(run[0], manager(image_middle_trim=66), output_dir=run[0])


def test_a_scan_of_another_size_is_refused(run):
    other = simulate_star(128, 4)
    with pytest.raises(ConfigError, match="got patterns of 128 pixels"):
        image_of(run[1], other)
    with pytest.raises(ScanError, match=r"positions: got shape \(12,\)"):
        PtychoDataLoader.from_np(SCAN.patterns, SCAN.probe_guess[None], SCAN.xcoords, manager())


def test_supervised(tmp_path):
    export(tmp_path / "a.npz")
    path, losses, module = trained(tmp_path, mode="Supervised", epochs=1)
    assert module.config.model.model_type == "supervised"
    assert losses.train[0][1] > 0
    assert opened(path)[1].model_config.mode == "Supervised"
    assert np.isfinite(image_of(path)).all()
    # an object that nobody knows, as Ptychodus writes it
    export(tmp_path / "a.npz", objectGuess=np.ones((99, 99), complex))
    with pytest.raises(ScanError, match="but Supervised training learns from it"):
        PtychoDataLoader(tmp_path, manager(mode="Supervised"), output_dir=tmp_path)


def test_labels_are_cut_where_the_patterns_were_measured(tmp_path):
    """Ptychodus's patch lies half a pixel beside ours; the content of its file must still fit together."""
    y, x = SCAN.ycoords[5] - 0.5, SCAN.xcoords[5] - 0.5
    rows, columns = (np.arange(64) - 63 / 2 + c for c in (y, x))
    truth = SCAN.object_guess
    patch = np.array([[bilinear(truth, r, c) for c in columns] for r in rows])
    export(tmp_path / "a.npz")
    scan = scan_folder.load_training_scan(tmp_path / "a.npz")
    ours = physics.extract_patches(scan.object_guess, scan.scan_positions_px[5:6], 64)[0]
    np.testing.assert_allclose(ours, patch, atol=1e-5)


def bilinear(image, y, x):
    top, left = int(np.floor(y)), int(np.floor(x))
    fy, fx = y - top, x - left
    upper = (1 - fx) * image[top, left] + fx * image[top, left + 1]
    lower = (1 - fx) * image[top + 1, left] + fx * image[top + 1, left + 1]
    return (1 - fy) * upper + fy * lower


def test_several_files_are_trained_on_together(tmp_path):
    other = simulate_star(64, 9, seed=3)
    export(tmp_path / "a.npz")
    export(tmp_path / "b.npz", other, probeGuess=np.roll(other.probe_guess, 9, axis=1)[None])
    four = dict.fromkeys(("C", "C_model", "C_forward", "decoder_last_amp_channels"), 4)
    configs = manager(**four, grid_size=(2, 2), n_subsample=1, num_datasets=2)
    loader = PtychoDataLoader(tmp_path, configs, output_dir=tmp_path)
    groups = loader.groups
    assert len(groups) == POSITIONS + 9
    # each group within its own file
    of_file = groups.nn_indices >= POSITIONS
    assert (of_file == of_file[:, :1]).all()
    assert groups.probe_count == 2
    np.testing.assert_array_equal(groups.part_of_group, [0] * POSITIONS + [1] * 9)
    # patterns and labels are those of the single files
    alone = scan_folder.load_training_scan(tmp_path / "b.npz")
    first = int(np.argmax(of_file[:, 0]))
    batch = groups.batch(np.array([first]), with_truth=True)
    places = alone.scan_positions_px[groups.nn_indices[first] - POSITIONS]
    np.testing.assert_allclose(
        np.moveaxis(batch.object_patches[0], -1, 0),
        physics.extract_patches(alone.object_guess, places, 64),
        atol=1e-5,
    )
    with pytest.raises(ConfigError, match="num_datasets: got 3, but there are 2 training files"):
        PtychoDataLoader(tmp_path, manager(num_datasets=3), output_dir=tmp_path)
    export(tmp_path / "c.npz", simulate_star(128, 4))
    with pytest.raises(ScanError, match="c: has patterns of 128, but a patterns of 64"):
        PtychoDataLoader(tmp_path, manager(), output_dir=tmp_path)


def test_all_modes_that_ptychodus_hands_over_are_used(tmp_path, caplog):
    modes = np.stack([0.5 * np.roll(SCAN.probe_guess, 5, axis=0), SCAN.probe_guess])
    export(tmp_path / "a.npz", probeGuess=modes.astype(np.complex128))
    path, losses, module = trained(tmp_path, epochs=1, probe_ramp_removal=True)
    assert module.config.model.n_probe_modes == params.cfg["n_probe_modes"] == 2
    model = load_checkpoint(path)
    assert model.weights["probe"].shape == (2, 64, 64)
    powers = np.sum(np.abs(model.probe_modes) ** 2, axis=(1, 2))
    assert powers[1] / powers[0] == pytest.approx(0.25, rel=1e-3)
    assert "probe modes are used" not in caplog.text
    assert np.isfinite(losses.val[0][1])
    engine, configs = opened(path)
    loader = PtychoDataLoader.from_np(
        SCAN.patterns, modes, np.stack([SCAN.ycoords, SCAN.xcoords], axis=1), configs
    )
    assert len(loader.scan.probe_modes) == 2
    assert np.isfinite(engine.predict_and_stitch(loader)).all()


def test_modes_as_they_are_given_where_they_are_not_normalised(tmp_path):
    modes = np.stack([SCAN.probe_guess, 0.5 * np.roll(SCAN.probe_guess, 5, axis=0)])
    export(tmp_path / "a.npz", probeGuess=modes)
    export(tmp_path / "b.npz", simulate_star(64, 9, seed=3))
    configs = manager(probe_normalize=False)
    loader = PtychoDataLoader(tmp_path, configs, output_dir=tmp_path)
    plan = training_plan(loader.groups, configs)
    assert plan.config.model.n_probes == plan.config.model.n_probe_modes == 2
    probe = plan.start.weights["probe"]
    np.testing.assert_array_equal(probe[0], modes)
    # the second scan has one, so the other is made from it
    np.testing.assert_array_equal(probe[1, 0], loader.groups.parts[1].probe_guess)
    assert np.linalg.norm(probe[1, 1]) == pytest.approx(np.sqrt(0.06) * np.linalg.norm(probe[1, 0]), rel=1e-4)


def test_bad_pixels_of_training_files_take_no_part(tmp_path):
    bad = np.zeros((64, 64), bool)
    bad[3:5, 7] = True
    export(tmp_path / "a.npz", bad_pixels=bad)
    loader = PtychoDataLoader(tmp_path, manager(), output_dir=tmp_path)
    np.testing.assert_array_equal(loader.scan.valid_pixels, ~bad)
    assert loader.groups.is_masked


def test_sizes_that_disagree_are_told(tmp_path, caplog):
    export(tmp_path / "a.npz")
    configs = manager(N=100)
    PtychoDataLoader(tmp_path, configs, output_dir=tmp_path)
    assert configs.data_config.N == 64
    assert (
        "N (model_size): the setting is 100, but the patterns are 64 x 64 pixels; 64 is used" in caplog.text
    )
    export(
        tmp_path / "a.npz",
        diff3d=SCAN.patterns[:, :48, :48],
        probeGuess=SCAN.probe_guess[None, :48, :48],
        bad_pixels=np.zeros((48, 48), bool),
    )
    with pytest.raises(ConfigError, match="the patterns are 48 x 48 pixels, want one of 64, 128, 256"):
        PtychoDataLoader(tmp_path, manager(), output_dir=tmp_path)


def test_counts_below_zero_are_set_to_zero_and_told(tmp_path, caplog):
    patterns = SCAN.patterns.astype(np.int32)
    patterns[3, 7, 7] = -2
    export(tmp_path / "a.npz", diff3d=patterns)
    scan = scan_folder.load_training_scan(tmp_path / "a.npz")
    assert scan.measurement == "intensity"
    assert scan.patterns.min() == 0
    assert "1 negative counts are set to 0" in caplog.text
    assert (
        scan_folder.live_scan(patterns, SCAN.probe_guess[None], np.zeros((POSITIONS, 2))).patterns.min() == 0
    )


def test_a_file_of_this_library_says_what_it_holds(tmp_path):
    amplitude = dataclasses.replace(SCAN, patterns=SCAN.diffraction_amplitude(), measurement="amplitude")
    save_scan(amplitude, tmp_path / "a.npz")
    scan = scan_folder.load_training_scan(tmp_path / "a.npz")
    assert scan.measurement == "amplitude"
    np.testing.assert_array_equal(scan.xcoords, SCAN.xcoords)


def test_what_is_wrong_with_the_data_is_told_before_training(tmp_path):
    with pytest.raises(ScanError, match=r"no \*.npz file in it; export training data"):
        PtychoDataLoader(tmp_path, manager(), output_dir=tmp_path)
    export(tmp_path / "a.npz")
    with pytest.raises(GroupingError, match=r"x_bounds=.* leave none"):
        PtychoDataLoader(tmp_path, manager(x_bounds=(0.0, 1e-9), y_bounds=(0.0, 1e-9)), output_dir=tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    with pytest.raises(ScanError, match=r"a\.npz"):
        PtychoDataLoader(tmp_path, manager(), output_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


def test_params_cfg_is_filled_before_data_are_read(tmp_path, monkeypatch):
    """Rule CONFIG-001, for training and for inference, at every entrance."""
    seen = []

    def before_reading(*args, **kwargs):
        seen.append(
            {key: params.cfg[key] for key in ("N", "gridsize", "nepochs", "model_type", "n_filters_scale")}
        )
        raise ScanError("read")

    monkeypatch.setattr(scan_folder, "load_scan", before_reading)
    monkeypatch.setattr(scan_folder, "Scan", before_reading)
    export(tmp_path / "a.npz")
    configs = manager(N=128, epochs=17)
    want = {"N": 128, "gridsize": 1, "nepochs": 17, "model_type": "pinn", "n_filters_scale": 1}
    for enter in (
        lambda: PtychoDataLoader(tmp_path, configs, output_dir=tmp_path),
        lambda: PtychoDataLoader.from_np(SCAN.patterns, SCAN.probe_guess, np.zeros((12, 2)), configs),
        lambda: main(tmp_path, existing_config=configs),
    ):
        params.cfg.update(params.defaults())
        with pytest.raises(ScanError, match="read"):
            enter()
        assert seen.pop() == want


def test_inference_fills_params_cfg_before_data_are_read(run, tmp_path, monkeypatch):
    export(tmp_path / "a.npz")
    gridsizes = []

    def before_reading(*args, **kwargs):
        gridsizes.append(params.cfg["gridsize"])
        raise ScanError("read")

    monkeypatch.setattr(scan_folder, "load_scan", before_reading)
    params.cfg["gridsize"] = 5
    with pytest.raises(ScanError, match="read"):
        load_and_predict(run[1], tmp_path / "a.npz")
    assert gridsizes == [1]


def test_main_and_load_and_predict(run, tmp_path):
    path = run[1]
    export(tmp_path / "scan.npz")
    (tmp_path / "settings.yaml").write_text(
        "data: {C: 1, grid_size: [1, 1]}\n"
        "model: {C_model: 1, C_forward: 1, decoder_last_amp_channels: 1, n_filters_scale: 1}\n"
        "training: {epochs: 1, batch_size: 8, num_workers: 0, learning_rate: 1e-3}\n"
    )
    best = main(tmp_path, tmp_path / "settings.yaml")
    assert best.parent.parent.parent == tmp_path
    image = load_and_predict(path, tmp_path, output_path=tmp_path / "out" / "image.npz")
    np.testing.assert_allclose(image.object, image_of(path), atol=1e-5)
    assert (tmp_path / "out" / "image.npz").is_file()
    # the same weights from an archive, whose settings are those that describe its model
    archive = TorchBackend().save(TorchBackend().load(path), tmp_path / "wts.h5.zip")
    np.testing.assert_allclose(
        load_and_predict(archive, tmp_path / "scan.npz").object, image.object, atol=1e-5
    )
    with pytest.raises(BackendUnavailableError, match="pip install mlflow"):
        load_and_predict("0123456789abcdef" * 2, tmp_path / "scan.npz")
    with pytest.raises(ArchiveError):
        load_and_predict(tmp_path / "scan.npz", tmp_path / "scan.npz")


def test_settings_files_with_mistakes_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text('{"data": {"M": 3}, "modle": {}, "training": 7}')
    with pytest.raises(
        ConfigError, match=r"modle: unknown, want one of data.*data.M: unknown.*training: want a map"
    ):
        main(tmp_path, tmp_path / "settings.json")
    with pytest.raises(ConfigError, match="got both"):
        main(tmp_path, tmp_path / "settings.json", existing_config=manager())


def test_configurations_of_another_model_are_refused(run):
    module = run[3]
    model = PtychoModel(module.model_config, module.data_config)
    model.model = module
    wrong = ConfigManager(dataclasses.replace(module.data_config, N=128), ModelConfig(mode="Supervised"))
    with pytest.raises(ConfigError, match="N: got 128, but the model has 64; mode: got 'Supervised'"):
        wrong.validate_arch_compatibility(model)


def test_the_best_checkpoint_is_that_of_the_smallest_loss(tmp_path):
    assert find_best_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    for name in (
        "best-epoch=1-val_loss=-2.5",
        "best-epoch=3-val_loss=-3e+06-v1",
        "best-epoch=2-train_loss=nan",
    ):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    assert find_best_checkpoint(tmp_path).name == "best-epoch=3-val_loss=-3e+06-v1.ckpt"
