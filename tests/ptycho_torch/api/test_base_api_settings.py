"""Every setting of Ptychodus, one by one: its effect on the trained configuration or on the groups."""

import dataclasses

import numpy as np
import pytest
import torch

from ptycho_backends.config import TrainingConfig as NeutralTrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.finetuning import PARTS
from ptycho_backends.scans.simulate import simulate_star
from ptycho_torch import config_bridge, scan_folder
from ptycho_torch.api.base_api import ConfigManager, training_plan
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.lightning_module import PtychoPINN_Lightning
from ptycho_torch.settings_table import SETTINGS

STAGES_ON = {"enable_staged_finetuning": True, "finetune_skip_stage3": False}


def translated(**changed):
    """(model, training, execution) that settings become; `changed` finds its class by its name."""
    configs = with_fields(**changed)
    data, network, run, image = configs
    model = config_bridge.to_model_config(data, network)
    training = config_bridge.to_training_config(model, data, network, run)
    return model, training, config_bridge.to_execution_config(run, image, data)


def with_fields(**changed):
    configs = [DataConfig(N=64), ModelConfig(), TrainingConfig(device="cpu"), InferenceConfig()]
    return [
        dataclasses.replace(config, **{name: v for name, v in changed.items() if hasattr(config, name)})
        for config in configs
    ]


def rates(stage, part):
    return lambda all_: all_[2].finetune_stages[stage].rates[part]


def field(index, name):
    return lambda all_: getattr(all_[index], name)


MODEL, TRAINING, EXECUTION = 0, 1, 2
NINE = {"C": 9, "grid_size": (3, 3), "C_model": 9, "C_forward": 9, "decoder_last_amp_channels": 9}

# field: the changed settings, the place of the effect, and the value there
MAPPED = {
    "N": ({"N": 128}, field(MODEL, "N"), 128),
    "C": (NINE, field(MODEL, "group_size"), 9),
    "grid_size": (NINE, field(MODEL, "gridsize"), 3),
    "C_model": (NINE, field(MODEL, "group_size"), 9),
    "C_forward": (NINE, field(MODEL, "group_size"), 9),
    "decoder_last_amp_channels": (NINE, field(MODEL, "patch_channels"), 9),
    "normalize": ({"normalize": "Group"}, field(TRAINING, "normalize"), "Group"),
    "data_scaling": ({"data_scaling": "Max"}, field(TRAINING, "data_scaling"), "Max"),
    "phase_subtraction": ({"phase_subtraction": False}, field(TRAINING, "phase_subtraction"), False),
    "probe_scale": ({"probe_scale": 2.0}, field(MODEL, "probe_scale"), 2.0),
    "mode": ({"mode": "Supervised"}, field(MODEL, "model_type"), "supervised"),
    "object_big": ({"object_big": False}, field(MODEL, "object_big"), False),
    "probe_big": ({"probe_big": False}, field(MODEL, "probe_big"), False),
    "loss_function": ({"loss_function": "MAE"}, lambda t: (t[1].nll_weight, t[1].mae_weight), (0, 1)),
    "amp_activation": ({"amp_activation": "sigmoid"}, field(MODEL, "amp_activation"), "sigmoid"),
    "cbam_encoder": ({"cbam_encoder": False}, field(MODEL, "cbam_encoder"), False),
    "cbam_bottleneck": ({"cbam_bottleneck": True}, field(MODEL, "cbam_bottleneck"), True),
    "cbam_decoder": ({"cbam_decoder": True}, field(MODEL, "cbam_decoder"), True),
    "eca_encoder": ({"eca_encoder": True}, field(MODEL, "eca_encoder"), True),
    "eca_decoder": ({"eca_decoder": True}, field(MODEL, "eca_decoder"), True),
    "spatial_decoder": ({"spatial_decoder": True}, field(MODEL, "spatial_decoder"), True),
    "decoder_spatial_kernel": ({"decoder_spatial_kernel": 3}, field(MODEL, "decoder_spatial_kernel"), 3),
    "use_shared_decoder": ({"use_shared_decoder": True}, field(MODEL, "use_shared_decoder"), True),
    "batch_norm": ({"batch_norm": True}, field(MODEL, "batch_norm"), True),
    "edge_pad": ({"edge_pad": 4}, field(MODEL, "edge_pad"), 4),
    "decoder_last_c_outer_fraction": (
        {"decoder_last_c_outer_fraction": 0.25}, field(MODEL, "decoder_last_c_outer_fraction"), 0.25,
    ),
    "intensity_scale_trainable": (
        {"intensity_scale_trainable": True}, field(TRAINING, "intensity_scale_trainable"), True,
    ),
    # nphotons = (s N / 2)^2
    "intensity_scale": ({"intensity_scale": 5.0}, field(TRAINING, "nphotons"), (5 * 32) ** 2),
    "max_position_jitter": ({"max_position_jitter": 40}, field(MODEL, "max_position_jitter"), 40),
    "offset": ({"offset": 1}, field(MODEL, "offset"), 1),
    "n_filters_scale": ({"n_filters_scale": 1}, field(MODEL, "n_filters_scale"), 1),
    "probe_mask": ({"probe_mask": np.eye(64)}, field(MODEL, "probe_mask"), True),
    "amp_loss": ({"amp_loss": "Total_Variation"}, field(TRAINING, "amp_loss"), "Total_Variation"),
    "phase_loss": ({"phase_loss": "Mean_Deviation"}, field(TRAINING, "phase_loss"), "Mean_Deviation"),
    "amp_loss_coeff": ({"amp_loss_coeff": 0.5}, field(TRAINING, "amp_loss_coeff"), 0.5),
    "phase_loss_coeff": ({"phase_loss_coeff": 0.5}, field(TRAINING, "phase_loss_coeff"), 0.5),
    "amplitude_variance_loss": (
        {"amplitude_variance_loss": True}, field(TRAINING, "amplitude_variance_coeff"), 0.01,
    ),
    "amplitude_variance_coeff": (
        {"amplitude_variance_loss": True, "amplitude_variance_coeff": 0.3},
        field(TRAINING, "amplitude_variance_coeff"), 0.3,
    ),
    "epochs": ({"epochs": 3}, field(TRAINING, "nepochs"), 3),
    "batch_size": ({"batch_size": 4}, field(TRAINING, "batch_size"), 4),
    "learning_rate": ({"learning_rate": 1e-2}, field(EXECUTION, "learning_rate"), 1e-2),
    "num_workers": ({"num_workers": 0}, field(EXECUTION, "num_workers"), 0),
    "accum_steps": ({"accum_steps": 2}, field(EXECUTION, "accum_steps"), 2),
    "gradient_clip_val": ({"gradient_clip_val": 1.5}, field(EXECUTION, "gradient_clip_val"), 1.5),
    "nll": ({"nll": False}, lambda t: (t[1].nll_weight, t[1].mae_weight), (0, 1)),
    "device": ({"device": "auto"}, field(EXECUTION, "accelerator"), "auto"),
    "n_devices": ({"n_devices": 2}, field(EXECUTION, "devices"), 2),
    "strategy": ({"n_devices": 2, "strategy": "ddp"}, field(EXECUTION, "strategy"), "ddp"),
    "scheduler": ({"scheduler": "Cosine"}, field(EXECUTION, "scheduler"), "Cosine"),
    "warmup_epochs": ({"warmup_epochs": 2}, field(EXECUTION, "warmup_epochs"), 2),
    "min_lr_ratio": ({"min_lr_ratio": 0.2}, field(EXECUTION, "min_lr_ratio"), 0.2),
    "epochs_fine_tune": (
        {"epochs_fine_tune": 3}, lambda t: [(s.epochs, s.rates) for s in t[2].finetune_stages],
        [(3, dict.fromkeys(PARTS, 0.1))],
    ),
    "fine_tune_gamma": ({"epochs_fine_tune": 3, "fine_tune_gamma": 0.5}, rates(0, "decoder"), 0.5),
    "enable_staged_finetuning": (
        {"enable_staged_finetuning": True}, lambda t: [set(s.rates) for s in t[2].finetune_stages],
        [{"decoder", "phase_head"}, {"encoder_top", "decoder", "phase_head"}],
    ),
    "finetune_skip_stage3": (STAGES_ON, lambda t: len(t[2].finetune_stages), 3),
    "finetune_stage1_lr_decoder": ({"finetune_stage1_lr_decoder": 0.3}, rates(0, "decoder"), 0.3),
    "finetune_stage2_lr_encoder_top": ({"finetune_stage2_lr_encoder_top": 0.3}, rates(1, "encoder_top"), 0.3),
    "finetune_stage2_lr_decoder": ({"finetune_stage2_lr_decoder": 0.3}, rates(1, "decoder"), 0.3),
    "finetune_stage2_lr_phase_head": ({"finetune_stage2_lr_phase_head": 0.3}, rates(1, "phase_head"), 0.3),
    "finetune_stage3_lr_encoder_bottom": (
        {"finetune_stage3_lr_encoder_bottom": 0.3}, rates(2, "encoder_bottom"), 0.3,
    ),
    "finetune_stage3_lr_encoder_top": ({"finetune_stage3_lr_encoder_top": 0.3}, rates(2, "encoder_top"), 0.3),
    "finetune_stage3_lr_decoder": ({"finetune_stage3_lr_decoder": 0.3}, rates(2, "decoder"), 0.3),
    "finetune_stage3_lr_phase_head": ({"finetune_stage3_lr_phase_head": 0.3}, rates(2, "phase_head"), 0.3),
    "finetune_early_stop_patience": (
        {"finetune_early_stop_patience": 7}, field(EXECUTION, "finetune_early_stop_patience"), 7,
    ),
    "finetune_val_split": ({"finetune_val_split": 0.2}, field(TRAINING, "validation_share"), 0.2),
    **{
        f"finetune_stage{i}_epochs": (
            {f"finetune_stage{i}_epochs": 2}, lambda t, i=i: t[2].finetune_stages[i - 1].epochs, 2,
        )
        for i in (1, 2, 3)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPED)
def test_mapped_settings(name):
    changed, seen, want = MAPPED[name]
    # settings with an effect only in combination are changed together
    others = {
        "fine_tune_gamma": {"epochs_fine_tune": 3},
        "finetune_skip_stage3": {"enable_staged_finetuning": True},
        "strategy": {"n_devices": 2},
    }
    before = STAGES_ON if name.startswith("finetune_stage") else others.get(name, {})
    assert seen(translated(**before)) != want
    assert seen(translated(**{**before, **changed})) == want


def test_every_mapped_setting_has_its_test():
    mapped = {s.field for settings in SETTINGS.values() for s in settings if s.use == "mapped"}
    # the inference configuration has a batch_size of its own, which is no mapped one
    assert set(MAPPED) == mapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Training data as Ptychodus exports them: 25 positions, two modes, a probe with a phase ramp."""
    folder = tmp_path_factory.mktemp("data")
    scan = simulate_star(64, 25, pattern="raster")
    ramp = np.exp(0.1j * np.arange(64))
    np.savez(
        folder / "train_data.npz",
        xcoords=scan.xcoords - 0.5,
        ycoords=scan.ycoords - 0.5,
        diff3d=scan.patterns.astype(np.float64),
        probeGuess=np.stack([scan.probe_guess * ramp, 0.1 * scan.probe_guess]),
        objectGuess=scan.object_guess,
    )
    return folder


def groups_of(folder, **changed):
    data, network, *_ = with_fields(**{"n_subsample": 2, **changed})
    return scan_folder.training_groups(scan_folder.training_files(folder), data, network)[0]


def seeds_box(groups):
    """Extent of the groups' centres along x and y."""
    return np.ptp(groups.group_centres_px[:, 0, :, 0], axis=0)


def test_data_settings_that_choose_groups(folder, caplog):
    stock = groups_of(folder)
    positions = stock.scan.scan_positions_px
    assert len(groups_of(folder, n_subsample=3)) == 1.5 * len(stock)
    narrow_x = seeds_box(groups_of(folder, x_bounds=(0.4, 0.6)))
    assert narrow_x[0] < 0.7 * seeds_box(stock)[0]
    narrow_y = seeds_box(groups_of(folder, y_bounds=(0.4, 0.6)))
    assert narrow_y[1] < 0.7 * seeds_box(stock)[1]
    widest = {K: np.abs(groups_of(folder, K=K, n_subsample=7).relative_offsets_px).max() for K in (4, 12)}
    assert widest[4] < widest[12]
    ranged = groups_of(
        folder, neighbor_function="Min_dist", min_neighbor_distance=1.0, max_neighbor_distance=13.0
    )
    spread = positions[ranged.nn_indices]
    assert np.linalg.norm(spread[:, :, None] - spread[:, None], axis=-1).max() <= 26.0
    assert len(ranged) != len(groups_of(
        folder, neighbor_function="Min_dist", min_neighbor_distance=9.0, max_neighbor_distance=13.0
    ))  # fmt: skip
    quadrants = {
        K: groups_of(folder, neighbor_function="4_quadrant", K_quadrant=K, n_subsample=9).relative_offsets_px
        for K in (8, 24)
    }
    assert np.abs(quadrants[8]).max() < np.abs(quadrants[24]).max()
    rectangular = with_fields(scan_pattern="Rectangular")[0]
    assert config_bridge.neighbour_choice(rectangular).scan_pattern == "Rectangular"
    with pytest.raises(ConfigError, match="num_datasets: got 2, but there are 1 training files"):
        groups_of(folder, num_datasets=2)


def test_data_settings_that_make_the_probe(folder):
    def probe(**changed):
        manager = ConfigManager(*with_fields(n_filters_scale=1, **changed))
        return training_plan(groups_of(folder, **changed), manager).start.weights["probe"]

    given = groups_of(folder).scan.probe_modes
    np.testing.assert_array_equal(probe(probe_normalize=False), given)
    stock = probe()
    np.testing.assert_allclose(stock / stock[0, 32, 32], given / given[0, 32, 32], atol=1e-5)
    np.testing.assert_allclose(probe(probe_scale=2.0), 2 * stock, rtol=1e-5)
    # the far field of the probe shows the ramp
    assert far_field_centre(given)[1] > 0.5
    np.testing.assert_allclose(far_field_centre(probe(probe_ramp_removal=True)), 0, atol=1e-4)
    # the object keeps its amplitude, so the probe follows the patterns
    dimmer = probe(data_scaling="Max")
    gain = groups_of(folder).as_configured(NeutralTrainingConfig(data_scaling="Max")).probe_gain
    np.testing.assert_allclose(dimmer, gain * stock, rtol=1e-5)
    assert 0 < gain < 1


def far_field_centre(probe):
    """(y, x) of the centre of mass of all modes on the detector, pixels from its middle; around the circle."""
    intensity = np.sum(np.abs(np.fft.fft2(probe)) ** 2, axis=0)
    turns = np.exp(2j * np.pi * np.fft.fftfreq(len(intensity)))
    return [np.angle(intensity.sum(axis=axis) @ turns) * len(intensity) / (2 * np.pi) for axis in (1, 0)]


def test_data_and_image_settings_all_have_their_test():
    """The names that the tests here and in test_torch_door1.py change."""
    recorded = {s.field for settings in SETTINGS.values() for s in settings if s.use == "recorded"}
    refused = {s.field for settings in SETTINGS.values() for s in settings if s.use == "refused"}
    data = {s.field for settings in SETTINGS.values() for s in settings if s.use == "data"}
    image = {s.field for settings in SETTINGS.values() for s in settings if s.use == "image"}
    assert recorded == {"notes", "model_name"}
    assert refused == {"probe_reference_coeff", "framework", "orchestrator", "experiment_number"}
    assert data == {
        "neighbor_function", "scan_pattern", "probe_normalize", "x_bounds", "y_bounds", "min_neighbor_distance",
        "max_neighbor_distance", "K_quadrant", "n_subsample", "K", "probe_ramp_removal", "num_datasets",
    }  # fmt: skip
    assert image == {"batch_size", "middle_trim", "patch_weighting", "pad_eval", "window"}


def test_intensity_scale_is_the_models_scale(folder):
    manager = ConfigManager(*with_fields(n_filters_scale=1, intensity_scale=321.0))
    start = training_plan(groups_of(folder), manager).start
    assert start.intensity_scale == pytest.approx(321.0, rel=1e-9)
    assert np.exp(start.weights["log_scale"]) == pytest.approx(321.0, rel=1e-5)
    module = PtychoPINN_Lightning(*(manager.configs[i] for i in (1, 0, 2, 3)), start=start)
    assert not module.model.tensors["log_scale"].requires_grad


def test_photons_said_twice_must_agree():
    data, network, run, _ = with_fields(intensity_scale=10.0)
    model = config_bridge.to_model_config(data, network)

    def photons(asked, network=network):
        overrides = {"nphotons": asked}
        return config_bridge.to_training_config(model, data, network, run, overrides).nphotons

    assert photons(320.0**2) == pytest.approx(320.0**2)
    with pytest.raises(ConfigError, match=r"nphotons: got 1e\+06, but intensity_scale=10 means 102400"):
        photons(1e6)
    # a scale that was not set does not contradict
    assert photons(1e6, ModelConfig()) == 1e6


def test_overrides_are_fields():
    data, network, _, image = with_fields()
    model = config_bridge.to_model_config(data, network, {"gaussian_smoothing_sigma": 0.5})
    assert model.gaussian_smoothing_sigma == 0.5
    inference = config_bridge.to_inference_config(model, data, image, {"n_groups": 7})
    assert (inference.n_groups, inference.neighbor_count, inference.model) == (7, 6, model)
    with pytest.raises(
        ConfigError, match="gauss: no field of ModelConfig; did you mean 'gaussian_smoothing_sigma'"
    ):
        config_bridge.to_model_config(data, network, {"gauss": 1})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_missing_device_is_replaced_and_told(caplog):
    execution = config_bridge.to_execution_config(TrainingConfig(strategy="ddp_spawn", n_devices=2))
    assert (execution.accelerator, execution.strategy, execution.devices) == ("cpu", "auto", 1)
    assert "device: 'cuda' is not available here" in caplog.text


def test_several_devices_are_asked_for_together():
    run = TrainingConfig(device="cpu", strategy="ddp_spawn", n_devices=2)
    execution = config_bridge.to_execution_config(run)
    assert (execution.accelerator, execution.strategy, execution.devices) == ("cpu", "ddp_spawn", 2)
    # one device needs no strategy, whatever it is called
    execution = config_bridge.to_execution_config(dataclasses.replace(run, n_devices=1, strategy="fsdp"))
    assert (execution.strategy, execution.devices) == ("auto", 1)
