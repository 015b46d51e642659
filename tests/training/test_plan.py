import dataclasses

import numpy as np
import pytest

from ptycho_backends.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, GroupingError, ScanError
from ptycho_backends.params import params
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.merging import merge_groups
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.statistics import mean_photons
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


def test_defaults_come_from_the_data():
    data = scan()
    given = TrainingConfig(model=ModelConfig(N=0, gridsize=3))
    completed = preparation.complete_config(given, data, "torch")
    assert (given.nphotons, given.n_groups, given.neighbor_count) == (None, None, 4)
    assert (completed.nphotons, completed.n_groups, completed.neighbor_count) == (mean_photons(data), 41, 9)
    assert (params.cfg["nphotons"], params.cfg["n_groups"]) == (completed.nphotons, 41)
    chosen = config(nphotons=7.0, n_groups=5, neighbor_count=6, model=ModelConfig(gridsize=2))
    kept = preparation.complete_config(chosen, data, "torch")
    assert (kept.nphotons, kept.n_groups, kept.neighbor_count) == (7.0, 5, 6)
    assert preparation.complete_config(config(n_subsample=9), data, "torch").n_groups == 9
    with pytest.raises(GroupingError, match="neighbor_count: got 5"):
        preparation.plan_training(data, config(model=ModelConfig(gridsize=3), neighbor_count=5), "torch")


def test_measured_photons_of_several_scans_and_of_what_are_no_counts(caplog):
    bright = Scan(*np.random.default_rng(1).uniform(0, 50, (2, 10)), np.full((10, 64, 64), 4, np.uint16))
    groups = merge_groups([group_scan(scan()), group_scan(bright)])
    completed = preparation.complete_config(config(), groups, "torch")
    assert completed.n_groups == 51
    assert completed.nphotons == pytest.approx(mean_photons(groups.scan))
    assert "no whole counts" not in caplog.text
    fractions = dataclasses.replace(
        bright, patterns=bright.patterns * np.float32(0.3), measurement="intensity"
    )
    preparation.complete_config(config(), fractions, "torch")
    assert "no whole counts (nor roots of counts), so 4915 photons a pattern is a guess" in caplog.text


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


def test_groups_of_an_epoch_are_drawn_anew_around_positions_that_are_not_held_out():
    settings = {"n_groups": 20, "batch_size": 4, "validation_share": 0.25, "resample_groups": True}
    plan = preparation.plan_training(scan(), config(**settings), "torch")
    held_out, seen = plan.groups.nn_indices[plan.validation_indices], []
    for epoch in range(1, 9):
        groups = plan.epoch_groups(epoch)
        assert plan.epoch_groups(epoch) is groups
        trained = groups.nn_indices[np.concatenate(plan.epoch_batches(epoch))]
        assert len(np.unique(trained)) == 15
        assert not np.isin(trained, held_out).any()
        np.testing.assert_array_equal(groups.nn_indices[plan.validation_indices], held_out)
        seen.append(trained)
    assert len(np.unique(np.concatenate(seen))) == 41 - 5
    again = preparation.plan_training(scan(), config(**settings), "tensorflow")
    np.testing.assert_array_equal(again.epoch_groups(3).nn_indices, plan.epoch_groups(3).nn_indices)
    other = preparation.plan_training(scan(), config(**settings, subsample_seed=1), "torch")
    assert not np.array_equal(other.epoch_groups(3).nn_indices, plan.epoch_groups(3).nn_indices)


def test_resampled_groups_have_the_scale_of_their_epoch():
    given = config(model=ModelConfig(gridsize=2), neighbor_count=7, n_groups=12, resample_groups=True)
    plan = preparation.plan_training(scan(), given, "torch")
    numbers = plan.epoch_batches(2)[0]
    first, batch = plan.gather(numbers), plan.gather(numbers, 2)
    assert not np.array_equal(first.relative_offsets_px, batch.relative_offsets_px)
    groups = plan.epoch_groups(2)
    assert groups.normalisation != plan.groups.normalisation
    np.testing.assert_array_equal(batch.diffraction_amplitude, groups.batch(numbers).diffraction_amplitude)


def test_an_epoch_may_be_of_another_scan():
    plan = preparation.plan_training(scan(), config(data_scaling="Max", n_groups=41), "torch")
    others = [group_scan(scan(41), seed=epoch) for epoch in range(3)]
    brighter = dataclasses.replace(others[1].scan, patterns=np.asarray(others[1].scan.patterns) * 3 + 1)
    others[1] = dataclasses.replace(others[1], scan=brighter)
    plan = dataclasses.replace(plan, resample=lambda epoch: others[epoch])
    for epoch in (1, 2):
        want = others[epoch].as_configured(plan.config)
        got = plan.gather(plan.train_indices, epoch).diffraction_amplitude
        np.testing.assert_array_equal(got, want.batch(plan.train_indices).diffraction_amplitude)
    fewer = dataclasses.replace(plan, resample=lambda epoch: group_scan(scan(40)))
    with pytest.raises(GroupingError, match="resample: epoch 1 has groups: 40, want 41"):
        fewer.gather(plan.train_indices, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_groups": 9, "sequential_sampling": True},
        {"model": ModelConfig(gridsize=2)},
        {"n_subsample": 9},
    ],
)
def test_nothing_is_resampled_where_there_are_no_other_groups(settings, caplog):
    given = config(**{"n_groups": 41, "resample_groups": True, **settings})
    if "n_subsample" in settings:
        given.n_groups = 9
    plan = preparation.plan_training(scan(), given, "torch")
    assert plan.resample is None
    assert plan.epoch_groups(3) is plan.groups
    assert "resample_groups: there are no other groups to draw" in caplog.text


def test_impossible_resampling_is_refused():
    groups = group_scan(scan(), gridsize=2, seed=3)
    given = config(model=ModelConfig(gridsize=2), resample_groups=True, neighbor_count=6, n_groups=50)
    with pytest.raises(ConfigError, match="resample_groups: got True, but the data are grouped already"):
        preparation.plan_training(groups, given, "torch")
    given.enable_oversampling = True
    with pytest.raises(ConfigError, match=r"50 groups for 41 positions; .* at most 41"):
        preparation.plan_training(scan(), given, "torch")


def test_a_resumed_model_keeps_its_weights_and_history():
    plan = preparation.plan_training(scan(), config(), "torch")
    changed = dataclasses.replace(plan.start, intensity_scale=5.0)
    resumed = preparation.plan_training(scan(), config(nepochs=9), "torch", resume_from=changed)
    assert resumed.start.intensity_scale == 5.0
    assert resumed.config.nepochs == 9
    assert resumed.epochs_done == 0


def test_groups_whose_labels_lie_outside_the_object_are_refused():
    patterns = scan().patterns
    x, y = np.random.default_rng(1).uniform(40, 60, (2, 41))
    labelled = Scan(x, y, patterns, object_guess=np.ones((100, 100), complex))
    beside = Scan(x + 1000, y, patterns, object_guess=np.ones((100, 100), complex))
    settings = config(model=ModelConfig(N=0, gridsize=1, model_type="supervised"))
    good, bad = (group_scan(each, gridsize=1, seed=0) for each in (labelled, beside))
    preparation.plan_training(good, settings, "torch")
    for groups in (bad, merge_groups([good, bad])):
        with pytest.raises(ScanError, match=r"41 of .* patches reach beyond objectGuess"):
            preparation.plan_training(groups, settings, "torch")
