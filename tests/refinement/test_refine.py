"""A refinement as its callers meet it: plan, frames, start, Ctrl-C, checkpoints, the environment variable."""

import dataclasses
import logging
import os
import signal

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends import RefinementConfig, compare, workflows
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.refinement import refine
from ptycho_backends.refinement.checkpoint import NAME, load_state, save_state
from ptycho_backends.refinement.environment import VARIABLE, refined_if_wanted, wanted_refinement
from ptycho_backends.refinement.plan import on_canvas, plan_refinement, resumed_plan
from ptycho_backends.refinement.schedule import PACES, batches_of_passes, pace_of, phases
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.interrupts import Terminated

FEW = RefinementConfig(passes=4)


@pytest.fixture(scope="module")
def scan():
    return simulate_star(32, 60, n_photons=1e5, step_px=4.0)


@pytest.fixture(scope="module")
def backend():
    """Refines with the NumPy default of the base class."""
    return OracleBackend()


def test_a_flat_start_becomes_the_object(backend, scan):
    image = backend.refine(None, scan, RefinementConfig(passes=8))
    metrics = compare(image, scan, trim_px=4)
    assert metrics.phase_correlation_ramp_removed > 0.97
    assert [record.number for record in image.passes] == list(range(1, 9))
    assert image.passes[-1].error < 0.2 * image.passes[0].error
    assert image.probe_modes.shape == (1, 32, 32)
    # given and not asked for: neither probe nor positions move
    given = scan.probe_modes * np.sqrt(np.mean(scan.pattern_energies) / np.sum(np.abs(scan.probe_modes) ** 2))
    np.testing.assert_allclose(
        np.abs(image.probe_modes), np.abs(given), rtol=1e-5, atol=1e-5 * np.abs(given).max()
    )
    np.testing.assert_array_equal(image.positions_px, scan.scan_positions_px)


def test_an_image_is_refined_from_where_it_is(backend, scan):
    first = backend.refine(None, scan, FEW)
    again = backend.refine(first, scan, FEW)
    assert again.passes[0].error < 0.5 * first.passes[0].error
    assert again.start is first
    # on another canvas, and with another constant phase
    moved = dataclasses.replace(
        first,
        object=np.pad(1j * first.object, 7),
        coverage=np.pad(first.coverage, 7),
        origin_px=first.origin_px - 7,
    )
    assert backend.refine(moved, scan, FEW).passes[0].error == pytest.approx(again.passes[0].error, rel=1e-4)


def test_a_file_starts_it_too(backend, scan, tmp_path):
    from ptycho_backends.images.results import save_reconstruction

    first = backend.refine(None, scan, FEW)
    save_reconstruction(first, tmp_path / "reconstruction.npz")
    from_folder = backend.refine(tmp_path, scan, FEW)
    np.testing.assert_allclose(from_folder.object, backend.refine(first, scan, FEW).object, atol=1e-5)
    with pytest.raises(ScanError, match=r"nowhere.*no such file"):
        backend.refine(tmp_path / "nowhere", scan, FEW)


def test_frames_that_measure_nothing_are_left_out_and_named(backend, scan, caplog):
    patterns = np.asarray(scan.patterns).copy()
    patterns[3] = 0
    patterns[5] = patterns[5] * 20
    with caplog.at_level(logging.WARNING):
        plan = plan_refinement(None, dataclasses.replace(scan, patterns=patterns))
    assert set(range(60)) - set(plan.used) == {3, 5}
    assert "1 frames are left out (empty): 3" in caplog.text
    assert "times as bright as most): 5" in caplog.text


def test_a_stray_position_is_refused_by_name(backend, scan):
    x = scan.xcoords.copy()
    x[7] = 1e6
    stray = dataclasses.replace(scan, xcoords=x, xcoords_start=None, ycoords_start=None)
    with pytest.raises(ScanError, match=r"far from all others: 7 at x = 1e\+06"):
        backend.refine(None, stray)


def test_a_scan_without_a_probe_gets_one_and_the_log_states_how_far_to_trust_it(backend, scan, caplog):
    blind = dataclasses.replace(scan, probe_guess=None, probe_modes=None)
    with caplog.at_level(logging.WARNING):
        image = backend.refine(None, blind, RefinementConfig(passes=8))
    assert "no probe in the scan" in caplog.text
    assert "of the intensity unexplained" in caplog.text
    assert image.passes[-1].error < 0.1


def test_missing_modes_are_made_and_moved(scan):
    plan = plan_refinement(None, scan, RefinementConfig(n_probe_modes=3))
    assert plan.state.probe.shape == (3, 32, 32)
    assert plan.config.refine_probe is True
    assert plan_refinement(None, scan).config.refine_probe is False


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("passes", [1, 2, 5, 13, 40])
def test_the_schedule_has_as_many_passes_as_asked_for_and_ends_whole(passes, pace):
    batches = batches_of_passes(phases(passes, pace))
    assert len(batches) == passes
    assert batches[-1] == 1
    assert sorted(batches, reverse=True) == batches


@pytest.mark.parametrize(("pace", "passes"), [("thorough", 13), ("fast", 6)])
def test_the_schedule_is_the_paces_own_where_no_number_is_asked_for(pace, passes):
    assert phases(passes, pace) == phases(None, pace) == PACES[pace].phases


def test_the_fast_pace_keeps_the_usual_metric_for_few_positions(backend, scan):
    fast = backend.refine(None, scan, RefinementConfig(pace="fast"))
    assert [record.batches for record in fast.passes] == [8, 8, 8, 3, 3, 1]
    assert compare(fast, scan, trim_px=4).phase_correlation_ramp_removed > 0.98
    usual, few, many = (pace_of(*asked) for asked in (("thorough", 249), ("fast", 249), ("fast", 250)))
    assert dataclasses.replace(few, phases=usual.phases) == usual
    assert many.slow_strength > few.slow_strength


def test_ctrl_c_keeps_the_image_and_resuming_gives_the_same_one(backend, scan, tmp_path, monkeypatch):
    config = RefinementConfig(passes=6, n_probe_modes=2, refine_positions=True)
    whole = backend.refine(None, scan, config)

    def stop(record):
        monkeypatch.chdir("/")  # the folder stays the one that was meant
        if record.number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.chdir(tmp_path.parent)
    part = backend.refine(None, scan, config, output_dir=tmp_path.name, on_pass=stop)
    assert part.interrupted
    # Ctrl-C ends after the next step, within the pass
    assert len(part.passes) == 3
    resumed = backend.refine(None, scan, config, output_dir=tmp_path, resume_from=tmp_path)
    assert len(resumed.passes) == 6
    assert not resumed.interrupted
    assert not (tmp_path / NAME).exists()
    assert [record.error for record in resumed.passes] == [record.error for record in whole.passes]
    for name in ("object", "probe_modes", "positions_px", "origin_px"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_a_schedulers_signal_keeps_the_image_and_ends_with_128_and_n(backend, scan, tmp_path):
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated) as ended:
            workflows.refine(
                scan,
                tmp_path,
                backend=backend,
                config=RefinementConfig(passes=3),
                on_pass=lambda record: os.kill(os.getpid(), signal.SIGUSR1),
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.value.code == 128 + signal.SIGUSR1
    assert ended.value.result.interrupted
    assert load_reconstruction(tmp_path / "reconstruction.npz").interrupted
    assert len(load_state(tmp_path).passes) == 1


def test_an_error_of_a_callback_leaves_a_checkpoint(backend, scan, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        backend.refine(None, scan, FEW, output_dir=tmp_path, on_pass=_interrupt)
    assert len(load_state(tmp_path).passes) == 1


def _interrupt(record):
    raise KeyboardInterrupt


def test_a_checkpoint_gives_back_everything(scan, tmp_path):
    plan = plan_refinement(None, scan, FEW)
    state = plan.state
    state.step, state.misfit, state.trust, state.dose = 0.25, 3.5, 0.125, 1e5
    back = load_state(save_state(state, tmp_path / "state.npz"))
    for field in dataclasses.fields(state):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(state, field.name))
    with pytest.raises(ConfigError, match=r"resume_from: its canvas has shape \(72, 72\), want \(76, 76\)"):
        resumed_plan(plan_refinement(None, scan, RefinementConfig(n_probe_modes=2)), back)
    with pytest.raises(ConfigError, match="seed: got 3, want 0 as in the refinement that is resumed"):
        resumed_plan(plan_refinement(None, scan, dataclasses.replace(FEW, seed=3)), back)
    reversed_frames = dataclasses.replace(scan, patterns=np.asarray(scan.patterns)[::-1])
    with pytest.raises(ConfigError, match="resume_from: it is of another scan"):
        resumed_plan(plan_refinement(None, reversed_frames, FEW), back)
    back.origin = None  # of an earlier version
    assert resumed_plan(plan_refinement(None, reversed_frames, FEW), back).state is back
    (tmp_path / "other.npz").write_bytes(b"PK nothing")
    with pytest.raises(ScanError, match="no checkpoint of a refinement"):
        load_state(tmp_path / "other.npz")


def test_the_environment_asks_for_passes(monkeypatch, backend, scan):
    monkeypatch.delenv(VARIABLE, raising=False)
    image = backend.refine(None, scan, FEW)
    assert refined_if_wanted(image, scan, backend.refine) is image
    monkeypatch.setenv(VARIABLE, "3")
    refined = refined_if_wanted(image, scan, backend.refine)
    assert len(refined.passes) == 3
    assert refined.object.shape == image.object.shape
    np.testing.assert_array_equal(refined.origin_px, image.origin_px)
    assert compare(refined, scan, trim_px=4).phase_correlation > 0.97
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(ConfigError, match="PTYCHO_REFINE: got 'many', want a number of passes"):
        wanted_refinement()


def test_another_canvas_shows_the_same_image(backend, scan):
    image = backend.refine(None, scan, FEW)
    shape = (image.object.shape[0] + 9, image.object.shape[1] + 11)
    moved = on_canvas(image, image.origin_px - 4, shape)
    known = image.coverage > 0
    turn = np.vdot(image.object[known], moved[4:-5, 4:-7][known])
    turn /= abs(turn)
    np.testing.assert_allclose(moved[4:-5, 4:-7][known], turn * image.object[known], atol=1e-5)
    assert np.all(moved[:4] == 1)


@pytest.mark.parametrize(("modes", "made"), [(1, 1), (2, 3)])
def test_the_metric_of_slow_phases_is_made_once_for_each_probe(scan, monkeypatch, modes, made):
    widths = []
    make = refine.slow_gain
    monkeypatch.setattr(
        refine, "slow_gain", lambda shape, width, *rest: widths.append(width) or make(shape, width, *rest)
    )
    OracleBackend().refine(None, scan, RefinementConfig(passes=4, n_probe_modes=modes, probe_from=2))
    assert len(widths) == len(set(widths)) == made
