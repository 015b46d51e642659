"""Refinement on PyTorch in several processes, and of scans that do not fit on the device."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends import ExecutionConfig, RefinementConfig, compare, get_backend, load_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_torch.backend import refinement

CONFIG = RefinementConfig(passes=4, n_probe_modes=2, refine_positions=True)
DOUBLE = ExecutionConfig(precision="64-true", accelerator="cpu")


@pytest.fixture(scope="module")
def scan():
    return simulate_star(32, 50, n_photons=1e5, step_px=4.0)


@pytest.fixture(scope="module")
def alone(scan):
    return get_backend("torch").refine(None, scan, CONFIG, execution=DOUBLE)


def same(image, want):
    np.testing.assert_allclose(image.object, want.object, atol=1e-5)
    np.testing.assert_allclose(image.probe_modes, want.probe_modes, atol=1e-4)
    np.testing.assert_allclose(image.positions_px, want.positions_px, atol=1e-6)
    for got, expected in zip(image.passes, want.passes, strict=True):
        assert got.error == pytest.approx(expected.error, rel=1e-9)


@pytest.mark.slow
def test_two_processes_refine_as_one(scan, alone):
    seen = []
    both = get_backend("torch").refine(
        None, scan, CONFIG, execution=dataclasses.replace(DOUBLE, devices=2), on_pass=seen.append
    )
    same(both, alone)
    assert [record.number for record in seen] == [1, 2, 3, 4]


def test_patterns_that_stay_on_the_host_give_the_same(scan, alone, monkeypatch):
    monkeypatch.setattr(refinement, "RESIDENT_BYTES_ON_HOST", 0)
    same(get_backend("torch").refine(None, scan, CONFIG, execution=DOUBLE), alone)


def test_the_fast_pace_reaches_what_ten_usual_passes_reach(shared):
    scan = load_scan(shared / "data" / "sim_n64_test.npz")
    usual, fast = (
        get_backend("torch").refine(None, scan, config)
        for config in (RefinementConfig(passes=10), RefinementConfig(pace="fast"))
    )
    reached, found = (compare(image, scan).phase_correlation_ramp_removed for image in (usual, fast))
    assert found >= reached > 0.997
