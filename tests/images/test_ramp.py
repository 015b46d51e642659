"""The phase ramp between two images: found to a fraction of its own uncertainty, at any size."""

import time

import numpy as np
import pytest

from ptycho_backends.images.ramp import linear_ramp, own_ramp, without_ramp


def product(shape, ramp, noise=0.5, seed=0):
    generator = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    phase = ramp[0] * columns + ramp[1] * rows + noise * generator.normal(size=shape)
    return generator.random(shape) * np.exp(1j * phase)


@pytest.mark.parametrize("ramp", [(0.0, 0.0), (0.004, -0.01), (0.3, -1.1), (2.9, 1.5)])
@pytest.mark.parametrize("shape", [(120, 117), (33, 200)])
def test_a_ramp_under_noise(shape, ramp):
    values = product(shape, ramp)
    values[: shape[0] // 2, : shape[1] // 3] = 0
    found = linear_ramp(values)
    # the least error that noise of this size allows, a few times over
    height, width = shape
    rows = np.indices(shape)[0][values != 0]
    uncertainty = 0.5 / np.sqrt(len(rows)) / np.array([width, height]) * np.sqrt(12)
    np.testing.assert_array_less(np.abs(found - ramp), 5 * uncertainty)
    np.testing.assert_array_equal(found, linear_ramp(values))


def test_it_is_the_maximum_of_the_coherence():
    values = product((80, 90), (0.02, -0.05), noise=0.8)
    found = linear_ramp(values)
    best = abs(without_ramp(values, found).sum())
    for step in ((1e-4, 0), (-1e-4, 0), (0, 1e-4), (0, -1e-4)):
        assert abs(without_ramp(values, found + step).sum()) < best


def test_large_images_are_quick_and_exact():
    values = product((900, 1100), (0.05, -0.12), noise=0.2)
    started = time.process_time()
    found = linear_ramp(values)
    assert time.process_time() - started < 2
    assert found == pytest.approx((0.05, -0.12), abs=1e-5)


def test_degenerate_images():
    assert linear_ramp(np.zeros((20, 20))).tolist() == [0.0, 0.0]
    row = np.exp(0.1j * np.arange(50))[None]
    assert linear_ramp(row) == pytest.approx((0.1, 0.0))
    assert linear_ramp(np.ones((1, 1))).tolist() == [0.0, 0.0]


def test_the_lines_of_a_grating_are_no_ramp():
    columns = np.arange(120)[None] + np.zeros((100, 1))
    # most of the light is in the first orders
    grating = np.exp(1j * np.pi * 0.9 * np.sign(np.sin(2 * np.pi * columns / 10)) / 2)
    # its frequency is 0.63 rad per pixel; a tilt of one radian in all is left by where it is cut
    assert np.abs(own_ramp(grating)).max() < 0.01
    assert np.abs(linear_ramp(grating)).max() > 0.5
    tilted = without_ramp(grating, np.array([-0.01, 0.02]))
    assert own_ramp(tilted) - own_ramp(grating) == pytest.approx((0.01, -0.02), abs=1e-3)
