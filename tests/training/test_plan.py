import dataclasses

import numpy as np
import pytest

from ptycho_backends.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.params import params
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training import plan as preparation


def scan(count=41, N=64):
    generator = np.random.default_rng(0)
    x, y = generator.uniform(0, 50, (2, count))
    return Scan(x, y, generator.integers(0, 9, (count, N, N)).astype(np.uint16))


def config(**changes):
    return TrainingConfig(**{"model": ModelConfig(N=0), "batch_size": 8, **changes})


def test_every_group_trains_once_an_epoch_and_in_another_order_each_time():
    plan = preparation.plan_training(scan(), config(), "torch")
    assert len(plan.validation_indices) == 2  # 5 % of 41
    together = np.sort(np.concatenate([plan.train_indices, plan.validation_indices]))
    np.testing.assert_array_equal(together, np.arange(41))
    first, again, second = plan.epoch_batches(1), plan.epoch_batches(1), plan.epoch_batches(2)
    assert [len(batch) for batch in first] == [8, 8, 8, 8, 7]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    np.testing.assert_array_equal(np.sort(np.concatenate(second)), plan.train_indices)
    np.testing.assert_array_equal(np.concatenate(plan.validation_batches()), plan.validation_indices)


def test_both_backends_get_the_same_plan():
    torch, tensorflow = (
        preparation.plan_training(scan(), config(), name) for name in ("torch", "tensorflow")
    )
    assert (torch.config.backend, tensorflow.config.backend) == ("torch", "tensorflow")
    np.testing.assert_array_equal(torch.groups.nn_indices, tensorflow.groups.nn_indices)
    for name, value in torch.start.weights.items():
        np.testing.assert_array_equal(value, tensorflow.start.weights[name])
    first, second = (plan.gather(torch.train_indices[:3]) for plan in (torch, tensorflow))
    np.testing.assert_array_equal(first.diffraction_amplitude, second.diffraction_amplitude)


def test_the_configuration_that_was_given_stays_as_it_was():
    given = config()
    completed = preparation.complete_config(given, scan(), "torch")
    assert (given.model.N, given.backend) == (0, "tensorflow")
    assert (completed.model.N, completed.backend) == (64, "torch")
    assert params.cfg["N"] == 64
    assert params.cfg["batch_size"] == 8


def test_a_single_group_trains_and_none_validates():
    plan = preparation.plan_training(scan(1), config(), "torch")
    assert len(plan.train_indices) == 1
    assert plan.validation_batches() == []


@pytest.mark.parametrize(
    ("count", "share", "held_out"), [(41, 0.0, 0), (41, 0.01, 1), (41, 0.25, 10), (2, 0.99, 1), (1, 0.5, 0)]
)
def test_a_share_of_the_groups_validates(count, share, held_out):
    plan = preparation.plan_training(scan(count), config(validation_share=share), "torch")
    assert (len(plan.train_indices), len(plan.validation_indices)) == (count - held_out, held_out)


def test_an_auxiliary_loss_is_something_to_minimise():
    nothing = {"nll_weight": 0.0, "amp_loss": "Total_Variation", "amp_loss_coeff": 0.0}
    with pytest.raises(ConfigError, match="nothing to minimise"):
        preparation.complete_config(config(**nothing), scan(), "torch")
    for some in (
        {"amp_loss_coeff": 1.0},
        {"phase_loss": "Mean_Deviation"},
        {"amplitude_variance_coeff": 0.1},
    ):
        preparation.complete_config(config(**nothing | some), scan(), "torch")


def test_a_scan_without_a_probe_gets_the_default_one():
    plan = preparation.plan_training(scan(), config(), "torch")
    assert plan.start.probe.shape == (64, 64)
    assert np.abs(plan.start.probe[32, 32]) > 1


def test_grouped_data_are_taken_as_they_are():
    groups = group_scan(scan(), gridsize=2, seed=3)
    plan = preparation.plan_training(groups, config(model=ModelConfig(gridsize=2)), "torch")
    assert plan.groups is groups
    with pytest.raises(ConfigError, match="gridsize: got 1, but the data are grouped with 2"):
        preparation.plan_training(groups, config(), "torch")


def test_inference_uses_every_position_unless_told_otherwise():
    plan = preparation.plan_training(
        scan(), config(model=ModelConfig(gridsize=3), neighbor_count=9, n_groups=41), "torch"
    )
    model = plan.start
    assert preparation.inference_groups(model, scan()).nn_indices.shape == (41, 9)
    fewer = InferenceConfig(n_groups=5, neighbor_count=9)
    assert preparation.inference_groups(model, scan(), fewer).nn_indices.shape == (5, 9)
    groups = group_scan(scan(), gridsize=1)
    with pytest.raises(ConfigError, match=r"groups of 1\^2, want 64 pixels and 3\^2"):
        preparation.inference_groups(model, groups)
    with pytest.raises(ConfigError, match="128 x 128"):
        preparation.inference_groups(model, scan(41, 128))


def test_a_resumed_model_keeps_its_weights_and_history():
    plan = preparation.plan_training(scan(), config(), "torch")
    changed = dataclasses.replace(plan.start, intensity_scale=5.0)
    resumed = preparation.plan_training(scan(), config(nepochs=9), "torch", resume_from=changed)
    assert resumed.start.intensity_scale == 5.0
    assert resumed.config.nepochs == 9
    assert resumed.epochs_done == 0
