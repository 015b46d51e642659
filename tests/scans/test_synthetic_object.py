"""Synthetic objects: their ranges, their variety, their determinism, their speed."""

import time

import numpy as np
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.scans import synthetic_object as module
from ptycho_backends.scans.synthetic_object import STRUCTURES, synthetic_object

KINDS = tuple(STRUCTURES)


def some(count, kind=None, shape=(96, 128)):
    return [synthetic_object(shape, np.random.default_rng(seed), kind) for seed in range(count)]


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_ranges_of_amplitude_and_phase(kind):
    for image in some(40, kind):
        amplitude, phase = np.abs(image), np.angle(image)
        assert image.shape == (96, 128)
        assert image.dtype == np.complex64
        assert amplitude.min() >= 0.3 - 1e-6
        assert amplitude.max() <= 1.1 + 1e-6
        assert 0.75 < amplitude.mean() < 0.95
        assert 0.02 < np.ptp(phase) <= 3.0
        assert np.abs(phase).max() <= 1.5


def test_contrasts_vary_from_hardly_any_to_strong():
    images = some(80)
    contrasts = [np.abs(image).std() for image in images]
    assert min(contrasts) < 0.01
    assert max(contrasts) > 0.1
    ranges = [np.ptp(np.angle(image)) for image in images]
    assert min(ranges) < 0.5
    assert max(ranges) > 2.0


def test_amplitude_and_phase_share_structure_to_a_varying_degree():
    together = [abs(np.corrcoef(np.abs(o).ravel(), np.angle(o).ravel())[0, 1]) for o in some(60)]
    assert np.mean(np.array(together) > 0.8) > 0.2
    assert np.mean(np.array(together) < 0.4) > 0.1


@pytest.mark.parametrize("kind", ["leaves", "lines"])
def test_edges_are_smooth_but_sharp(kind):
    for image in some(20, kind):
        steps = np.abs(np.diff(np.angle(image), axis=1)).max() / max(np.ptp(np.angle(image)), 1e-6)
        # an edge takes more than a pixel, and hardly any object is without one
        assert 0.02 < steps < 0.97


def test_textures_follow_a_power_law():
    exponents = []
    for seed in range(30):
        texture = module._texture((128, 128), np.random.default_rng(seed))
        power = np.abs(np.fft.fft2(texture)) ** 2
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128)] * 2))
        fitted = (frequency > 0.05) & (frequency < 0.5)
        exponents.append(-np.polyfit(np.log(frequency[fitted]), np.log(power[fitted]), 1)[0])
    assert 1.6 < min(exponents) < 2.8
    assert 4.0 < max(exponents) < 5.4


def test_objects_are_drawn_anew_and_again():
    images = [*some(6), *(image for kind in KINDS for image in some(2, kind))]
    for number, image in enumerate(images):
        assert all(not np.array_equal(image, other) for other in images[:number])
    np.testing.assert_array_equal(images[0], some(1)[0])


def test_all_kinds_are_drawn(monkeypatch):
    drawn = set()

    def noted(name):
        return lambda shape, generator: drawn.add(name) or module._texture(shape, generator)

    monkeypatch.setattr(module, "STRUCTURES", {name: noted(name) for name in KINDS})
    some(40, shape=(16, 16))
    assert drawn == set(KINDS)


def test_shapes_of_any_size():
    for shape in ((16, 16), (16, 300), (257, 131)):
        for kind in KINDS:
            image = synthetic_object(shape, np.random.default_rng(0), kind)
            assert image.shape == shape
            assert np.isfinite(image).all()


def test_bad_arguments_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ScanError, match=r"shape: got \(15, 64\)"):
        synthetic_object((15, 64), generator)
    with pytest.raises(ScanError, match=r"kind: got 'stars', want one of leaves, texture, lines, mixed"):
        synthetic_object((64, 64), generator, "stars")  # type: ignore[arg-type]


def test_speed():
    started = time.process_time()
    some(20, shape=(256, 256))
    # about 15 ms each on one core; the limit is for busy machines
    assert (time.process_time() - started) / 20 < 0.15
