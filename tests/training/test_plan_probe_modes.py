"""Modes and probes from the scan to the plan, the archive and `params.cfg`."""

import dataclasses
import json
import logging
import zipfile

import numpy as np
import pytest

from ptycho_backends.archive.genuine_export import write_genuine_archive
from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.config import LATER_MODEL_FIELDS, ModelConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.params import bridge, params
from ptycho_backends.reference.probe import probe_with_modes, total_amplitude
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.merging import merge_groups
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import first_probe, inference_groups, new_model, plan_training

SCAN = simulate_star(64, 12)
MODES = probe_with_modes(SCAN.probe_guess, 3) * np.array([1, 3, 2])[:, None, None]
OTHER = simulate_star(64, 12, seed=3).with_probe(np.roll(MODES, 5, axis=-1))


def config(modes=1, **changes):
    model = ModelConfig(N=64, n_filters_scale=1, n_probe_modes=modes)
    return TrainingConfig(model=model, batch_size=4, n_groups=12, nphotons=1e9, **changes)


def plan(data, modes=1):
    return plan_training(data, config(modes), "torch")


def two_scans():
    return merge_groups([group_scan(scan, gridsize=1) for scan in (SCAN.with_probe(MODES), OTHER)])


@pytest.mark.parametrize("used", [1, 2, 3, 5])
def test_modes_left_out_are_stated_once(used, caplog):
    power = np.array([1, 9 * 0.06, 4 * 0.06])
    start = plan(SCAN.with_probe(MODES), used).start
    left_out = 100 * power[used:].sum() / power.sum()
    text = f"{used} of 3 probe modes are used; the others hold {left_out:.1f} % of the intensity"
    assert caplog.text.count("probe modes are used") == (used < 3)
    assert (text in caplog.text) == (used < 3)
    assert start.probe_modes.shape == (used, 64, 64)


def test_one_mode_is_the_main_one_as_before():
    one, several = plan(SCAN).start, plan(SCAN.with_probe(MODES)).start
    assert one.weights["probe"].shape == (64, 64)
    np.testing.assert_array_equal(one.weights["probe"], several.weights["probe"])
    np.testing.assert_array_equal(one.probe, one.weights["probe"])
    np.testing.assert_array_equal(one.probe_modes, one.probe[None])


def test_modes_of_the_scan_come_first():
    start = plan(SCAN.with_probe(MODES), 5).start
    assert start.weights["probe"].shape == (5, 64, 64)
    given = SCAN.with_probe(MODES).probe_modes
    ratio = start.probe_modes[:3] / start.probe_modes[0, 32, 32]
    np.testing.assert_allclose(ratio, given / given[0, 32, 32], rtol=1e-4, atol=1e-5)
    scale = np.mean(total_amplitude(start.probe_modes[:, 16:48, 16:48]))
    assert scale == pytest.approx(np.mean(np.abs(plan(SCAN).start.probe[16:48, 16:48])), rel=0.2)
    raw = first_probe(SCAN.with_probe(MODES), config(3), normalised=False)
    np.testing.assert_array_equal(raw, given)


def test_without_a_probe_modes_are_made_from_the_default_one():
    bare = dataclasses.replace(SCAN, probe_guess=None, probe_modes=None)
    assert plan(bare, 2).start.probe_modes.shape == (2, 64, 64)
    assert new_model(None, config(2), "torch").weights["probe"].shape == (2, 64, 64)


@pytest.mark.parametrize("modes", [1, 3])
def test_scans_trained_together_have_a_probe_each(modes, caplog):
    together = plan(two_scans(), modes)
    assert together.config.model.n_probes == 2
    probe = together.start.weights["probe"]
    assert probe.shape == (2, modes, 64, 64)
    for number, scan in enumerate((SCAN.with_probe(MODES), OTHER)):
        alone = plan(scan, modes).start
        np.testing.assert_array_equal(probe[number], alone.probe_modes)
    np.testing.assert_array_equal(together.start.probe, probe[0, 0])
    np.testing.assert_array_equal(together.start.probe_modes, probe[0])
    batch = together.gather(np.arange(24))
    np.testing.assert_array_equal(batch.probe_index, [0] * 12 + [1] * 12)
    # the user's own number does not count
    wrong = config(modes)
    wrong.model.n_probes = 7
    assert plan_training(SCAN, wrong, "torch").config.model.n_probes == 1


def test_groups_that_fit_a_model_of_several_probes():
    model = plan(two_scans()).start
    assert len(inference_groups(model, SCAN)) == 12
    assert inference_groups(model, two_scans()).probe_count == 2
    three = merge_groups([group_scan(s, gridsize=1) for s in (SCAN.with_probe(MODES), OTHER, SCAN)])
    assert three.probe_count == 3
    with pytest.raises(ConfigError, match="got groups of 3 probes, want 2"):
        inference_groups(model, three)


@pytest.mark.parametrize("data", [SCAN, SCAN.with_probe(MODES), two_scans()], ids=["one", "modes", "probes"])
@pytest.mark.parametrize("modes", [1, 2])
def test_archives(data, modes, tmp_path):
    model = plan(data, modes).start
    path = save_archive(model, tmp_path)
    again = load_archive(path)
    assert again.config == model.config
    assert list(again.weights) == list(model.weights)
    for name, value in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)
    np.testing.assert_array_equal(params.cfg["probe"], model.probe[..., None])
    expected = {
        name for name in LATER_MODEL_FIELDS if getattr(model.config.model, name) != getattr(ModelConfig, name)
    }
    with zipfile.ZipFile(path) as members:
        stored = json.loads(members.read("config.json"))["training"]["model"]
        flat = json.loads(members.read("params.json"))
    assert set(stored) & set(LATER_MODEL_FIELDS) == expected
    assert set(flat) & set(LATER_MODEL_FIELDS) == set(params.cfg) & set(LATER_MODEL_FIELDS) == expected


def test_archives_whose_probe_does_not_fit(tmp_path):
    model = plan(SCAN, 2).start
    for probe in (model.probe, model.weights["probe"][None], model.weights["probe"][:, :32]):
        wrong = dataclasses.replace(model, weights={**model.weights, "probe": probe})
        with pytest.raises(ArchiveError, match=r"probe: got complex64 .*want complex64 \(2, 64, 64\)"):
            save_archive(wrong, tmp_path)
    huge = dataclasses.replace(
        model.config, model=dataclasses.replace(model.config.model, n_probe_modes=10**9)
    )
    with pytest.raises(ArchiveError, match="the weights would take"):
        save_archive(dataclasses.replace(model, config=huge), tmp_path)


@pytest.mark.parametrize(
    ("data", "modes", "field"), [(SCAN, 2, "n_probe_modes"), (two_scans(), 1, "n_probes")]
)
def test_ptychopinn_takes_one_mode_of_one_probe(data, modes, field, tmp_path):
    with pytest.raises(ConfigError, match=f"{field}: got 2, but an archive of PtychoPINN holds one mode"):
        write_genuine_archive(plan(data, modes).start, tmp_path / "wts.h5.zip")
    assert not list(tmp_path.iterdir())


def test_params_cfg_has_them_only_where_they_differ():
    bridge.update_legacy_dict(params.cfg, config(3))
    assert params.cfg["n_probe_modes"] == 3
    assert bridge.training_config_from_legacy_dict(params.cfg).model.n_probe_modes == 3
    params.validate()
    bridge.update_legacy_dict(params.cfg, config())
    assert not set(params.cfg) & set(LATER_MODEL_FIELDS)
    assert "n_probe_modes" not in params.snapshot(config(), {"n_probe_modes": 4})
    assert params.snapshot(config(2), {"n_probe_modes": 4})["n_probe_modes"] == 2


def test_modes_of_a_resumed_model_must_agree():
    first = plan(SCAN, 2).start
    with pytest.raises(ConfigError, match="n_probe_modes: got 1, want 2"):
        plan_training(SCAN, config(1), "torch", resume_from=first)


def test_the_log_is_quiet_where_all_modes_are_used(caplog):
    with caplog.at_level(logging.INFO):
        plan(SCAN.with_probe(MODES), 3)
    assert "probe modes" not in caplog.text
