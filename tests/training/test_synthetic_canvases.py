"""Training on refined images of synthetic scans: parts, their truth, epochs, and one whole training."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends import get_backend, workflows
from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.recipes import synthetic_recipe, training_recipe
from ptycho_backends.reference import model as reference
from ptycho_backends.scans.simulate import focused_probe, simulate_star
from ptycho_backends.scans.synthetic import SyntheticScans
from ptycho_backends.training.synthetic_canvases import SyntheticCanvases, parts_of_scan
from ptycho_backends.values import Reconstruction

N = 32
SCANS = SyntheticScans(focused_probe(N), photons=1e4, step_px=4.0, patterns=80, seed=3)


def perfect(scan):
    """An image that is the known object itself, at the scale of refinements, with half a pixel of it between."""
    energy = float(np.mean(scan.pattern_energies, dtype=np.float64))
    scale = np.sqrt(np.sum(np.abs(scan.probe_modes) ** 2) / energy)
    known = scan.object_guess.astype(np.complex128) * scale
    lit = np.zeros(known.shape, np.float32)
    lit[6:-6, 6:-6] = 1
    probe = scan.probe_modes / np.sqrt(np.sum(np.abs(scan.probe_modes) ** 2) / energy)
    return Reconstruction(
        object=np.where(lit > 0, known * np.exp(0.7j), 0).astype(np.complex64),
        coverage=lit,
        origin_px=np.zeros(2),
        group_centres_px=scan.scan_positions_px,
        positions_px=scan.scan_positions_px,
        probe_modes=probe.astype(np.complex64),
    )


def test_the_truth_of_a_perfect_image_is_the_image():
    scan = SCANS.scan(1, 0)
    parts = parts_of_scan(scan, perfect(scan), 5, np.random.default_rng(0))
    assert len(parts) == 5
    for canvas, light, truth in parts:
        np.testing.assert_allclose(truth, canvas, atol=2e-5 * np.abs(canvas).max())
        assert 0 < light.max() <= 1
    # normalised over the whole scan, not part by part
    sizes = [np.sqrt(np.mean(np.abs(canvas) ** 2)) for canvas, _, _ in parts]
    assert 0.5 < np.mean(sizes) < 2
    assert np.ptp(sizes) > 0


def test_dark_pixels_have_nothing_to_learn():
    scan = SCANS.scan(1, 0)
    image = perfect(scan)
    wrong = dataclasses.replace(image, object=2 * image.object)
    unlit = 0
    for canvas, _, truth in parts_of_scan(scan, wrong, 8, np.random.default_rng(1)):
        same = truth == canvas
        unlit += same.sum()
        if same.any():
            # unlit pixels are 1 before they are normalised
            assert np.ptp(np.abs(canvas[same])) < 1e-6
    assert unlit > 0


def test_every_epoch_has_scans_of_its_own_and_the_same_ones_again():
    draw = SyntheticCanvases(SCANS, 6, 2, perfect)
    first, again, second = draw(1), draw(1), draw(2)
    assert len(first) == 6
    assert first.gridsize == 2
    np.testing.assert_array_equal(first.canvases, again.canvases)
    assert not np.array_equal(first.canvases, second.canvases)
    batch = first.batch(np.array([4, 0]), with_truth=True)
    np.testing.assert_array_equal(batch.canvas, first.canvases[[4, 0]])
    np.testing.assert_array_equal(batch.object_patches[..., 3], first.truths[[4, 0]])
    assert batch.diffraction_amplitude.shape == (2, N, N, 4)


def test_scans_without_a_lit_square_are_named():
    narrow = dataclasses.replace(SCANS, patterns=4)
    with pytest.raises(ConfigError, match="synthetic scans of 4 patterns have no lit square of 32 pixels"):
        SyntheticCanvases(
            narrow, 4, 1, lambda scan: dataclasses.replace(perfect(scan), coverage=0 * perfect(scan).coverage)
        )(1)


@pytest.mark.parametrize("name", ["torch", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_a_correction_that_is_learned_lowers_the_error(tmp_path, monkeypatch, name):
    """Trained on one backend, taken by a refinement of it at few photons; the same loss in the reference."""
    measured = simulate_star(N, 60, n_photons=300, seed=1)
    config = synthetic_recipe()
    config.nepochs, config.model.n_filters_scale = 3, 1
    drawn = []

    def kept(*given):
        drawn.append(SyntheticCanvases(*given))
        return drawn[0]

    monkeypatch.setattr("ptycho_backends.workflows.training.SyntheticCanvases", kept)
    execution = ExecutionConfig(
        accelerator="cpu", learning_rate=4e-3, enable_progress_bar=False, enable_checkpointing=False
    )
    result = workflows.train_synthetic(
        measured, 240, config, tmp_path, backend=name, execution=execution, patterns=60
    )
    # on scans that no epoch has trained on, before any correction and after it
    held_out = drawn[0](9).batch(with_truth=True)
    learned = result.model.weights
    nothing = learned | {name: 0 * learned[name] for name in ("decoder/head/kernel", "decoder/head/bias")}
    before, after = (
        reference.loss(result.model.config, weights, held_out)["total"] for weights in (nothing, learned)
    )
    assert after < 0.98 * before
    assert np.any(result.model.weights["decoder/head/kernel"])
    backend = get_backend(name)
    plain = backend.refine(None, measured, RefinementConfig(passes=4), execution=execution)
    corrected = backend.refine(
        None,
        measured,
        RefinementConfig(passes=4, held_out_fraction=0.0),
        execution=execution,
        model=result.model,
    )
    assert corrected.corrected
    assert not plain.corrected
    again = backend.load(result.files["archive"])
    np.testing.assert_array_equal(
        again.weights["decoder/head/kernel"], result.model.weights["decoder/head/kernel"]
    )


def test_synthetic_training_is_of_unrolled_alone(tmp_path):
    measured = simulate_star(N, 60)
    with pytest.raises(ConfigError, match="want 'unrolled', 'supervised'"):
        workflows.train_synthetic(measured, 100, training_recipe("cnn"), tmp_path / "run", backend="torch")
    with pytest.raises(ConfigError, match="parts: got 3, want at least one for each of 20 epochs"):
        workflows.train_synthetic(measured, 3, None, tmp_path / "run", backend="torch")
    assert not (tmp_path / "run").exists()
