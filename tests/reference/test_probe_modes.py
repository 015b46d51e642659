"""Modes of a probe: made from the main one, orthogonal, normalised together; intensities add up."""

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.reference import physics, probe
from ptycho_backends.scans.simulate import focused_probe


def complex_noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def gram(modes):
    flat = np.asarray(modes, np.complex128).reshape(len(modes), -1)
    return flat.conj() @ flat.T


@pytest.mark.parametrize("side", [16, 48, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_missing_modes_are_made_from_the_main_one(side, count):
    # a strong phase: without conjugation the modes would be orthogonal in the wrong sense
    main = (focused_probe(side) * np.exp(1j * np.linspace(0, 9, side))[None]).astype(np.complex64)
    modes = probe.probe_with_modes(main, count)
    assert modes.shape == (count, side, side)
    np.testing.assert_array_equal(modes[0], main)
    matrix = gram(modes)
    power = np.real(np.diag(matrix))
    np.testing.assert_allclose(power[1:] / power[0], 0.06, rtol=1e-5)
    assert np.abs(matrix - np.diag(np.diag(matrix))).max() < 1e-6 * power[0]


def test_given_modes_come_first_by_falling_power():
    given = complex_noise(3, 16, 16) * np.array([1.0, 3.0, 2.0])[:, None, None]
    modes = probe.probe_with_modes(given, 4)
    np.testing.assert_array_equal(modes[:3], given[[1, 2, 0]].astype(np.complex64))
    # the new one is orthogonal to them, though they are not orthogonal to one another
    matrix = gram(modes)
    unlike = np.abs(np.linalg.lstsq(modes[:3].reshape(3, -1).T, modes[3].ravel(), rcond=None)[0])
    assert np.isfinite(matrix).all()
    assert unlike.max() < 0.2
    np.testing.assert_array_equal(probe.probe_with_modes(given, 2), given[[1, 2]].astype(np.complex64))


def test_modes_that_cannot_be_made():
    dark = np.zeros((16, 16))
    with pytest.raises(ScanError, match="zero everywhere"):
        probe.probe_with_modes(dark, 2)
    point = dark.copy()
    point[8, 8] = 1
    with pytest.raises(ScanError, match="n_probe_modes: got 3, but only 1 modes can be made"):
        probe.probe_with_modes(point, 3)
    with pytest.raises(ShapeError, match="probeGuess"):
        probe.probe_with_modes(np.ones((2, 16, 15)), 2)


def test_orthogonal_modes_are_the_same_illumination():
    modes = complex_noise(4, 32, 32)
    mixed = probe.orthogonal_modes(modes)
    matrix = gram(mixed)
    power = np.real(np.diag(matrix))
    assert np.abs(matrix - np.diag(np.diag(matrix))).max() < 1e-12 * power[0]
    assert (np.diff(power) < 0).all()
    view = complex_noise(32, 32, seed=1)
    for image in (1.0, view):
        intensities = [
            np.sum(physics.diffraction_amplitude(stack * image) ** 2, axis=0) for stack in (modes, mixed)
        ]
        np.testing.assert_allclose(
            intensities[1], intensities[0], rtol=1e-12, atol=1e-12 * intensities[0].max()
        )
        summed = [np.sum(np.abs(stack * image) ** 2, axis=0) for stack in (modes, mixed)]
        np.testing.assert_allclose(summed[1], summed[0], rtol=1e-12, atol=1e-12 * summed[0].max())
    np.testing.assert_allclose(probe.orthogonal_modes(mixed), mixed, atol=1e-10)
    single = probe.orthogonal_modes(modes[:1].astype(np.complex64))
    assert single.dtype == np.complex64
    np.testing.assert_allclose(single, modes[:1], rtol=1e-5)


def test_modes_are_normalised_together():
    modes = complex_noise(3, 32, 32)
    normalised = probe.normalise_probe(modes, 4.0)
    mask = probe.circular_mask(32)
    assert np.mean(mask * probe.total_amplitude(normalised)) == pytest.approx(1 / 4, rel=1e-5)
    np.testing.assert_allclose(normalised / normalised[0, 3, 3], modes / modes[0, 3, 3], rtol=1e-4)
    # a stack of one is the probe itself
    np.testing.assert_allclose(
        probe.normalise_probe(modes[:1], 4.0)[0], probe.normalise_probe(modes[0], 4.0), rtol=1e-6
    )


def test_modes_lose_one_ramp():
    side = 32
    axis = np.arange(side) - (side - 1) / 2
    smooth = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 50)
    modes = np.stack([smooth, 0.3 * axis[:, None] * smooth]).astype(np.complex64)
    ramp = np.exp(1j * (0.4 * axis[:, None] - 0.9 * axis[None, :])).astype(np.complex64)
    levelled = probe.without_phase_ramp(modes * ramp)
    np.testing.assert_allclose(levelled, modes, atol=1e-3)


def test_intensities_of_modes_add_up():
    config = ModelConfig(N=64)
    config.N = 32
    views, modes = complex_noise(2, 3, 32, 32), complex_noise(2, 32, 32, seed=1)
    together = physics.diffraction_amplitude(physics.exit_waves(views, modes, config))
    assert together.shape == (2, 3, 2, 32, 32)
    single = [physics.diffraction_amplitude(physics.exit_waves(views, mode, config)) for mode in modes]
    np.testing.assert_allclose(
        physics.summed_amplitude(together) ** 2, single[0] ** 2 + single[1] ** 2, rtol=1e-12
    )
    probes = np.stack([modes, 2 * modes[::-1]])
    np.testing.assert_array_equal(physics.chosen_probe(probes, np.array([1, 0, 1])), probes[[1, 0, 1]])
    np.testing.assert_array_equal(physics.chosen_probe(probes, None), modes)
    assert physics.chosen_probe(modes, np.array([0])) is modes
