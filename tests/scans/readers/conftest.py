"""A small scan of counts, for the files of other programs that the tests write."""

import numpy as np
import pytest

from ptycho_backends.scans.simulate import simulate_star


@pytest.fixture(scope="session")
def scan():
    return simulate_star(64, 12, n_photons=1e4, seed=5)


@pytest.fixture(scope="session")
def counts(scan):
    return np.asarray(scan.patterns, np.uint16)


@pytest.fixture(scope="session")
def metres(scan):
    """(M, 2) positions [x, y] for an object pixel of 10 nm."""
    return scan.scan_positions_px * 1e-8
