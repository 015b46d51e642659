"""Groups of several scans: the share of each."""

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import GroupingError, ScanError
from ptycho_backends.scans.merging import groups_of_scans
from ptycho_backends.scans.simulate import simulate_star

SCANS = [simulate_star(64, count, seed=count) for count in (60, 30, 10)]


def config(**settings):
    return TrainingConfig(model=ModelConfig(N=64, gridsize=settings.pop("gridsize", 1)), **settings)


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"n_groups": 100}, (60, 30, 10)),
        ({"n_groups": 50}, (30, 15, 5)),
        ({"n_groups": 7}, (4, 2, 1)),
        # none is left out
        ({"n_groups": 2}, (1, 1, 1)),
        ({"n_groups": 100, "n_subsample": 50}, (30, 15, 5)),
        ({"n_groups": 100, "gridsize": 2}, (60, 30, 10)),
    ],
)
def test_each_scan_has_its_share(settings, shares):
    groups = groups_of_scans(SCANS, config(**settings))
    assert len(groups) == sum(shares)
    owners = groups.scan.scan_index[groups.nn_indices]
    # no group has positions of two scans
    assert (owners == owners[:, :1]).all()
    np.testing.assert_array_equal(np.bincount(owners[:, 0]), shares)


def test_one_scan_is_grouped_as_it_is_alone():
    groups = groups_of_scans(SCANS[:1], config(n_groups=25))
    assert groups.scan is SCANS[0]
    assert len(groups) == 25


def test_counts_become_amplitudes_where_others_are():
    roots = simulate_star(64, 30, measurement="amplitude")
    groups = groups_of_scans([SCANS[2], roots], config(n_groups=40))
    assert groups.scan.measurement == "amplitude"
    np.testing.assert_array_equal(groups.scan.patterns[:10], SCANS[2].diffraction_amplitude())
    np.testing.assert_allclose(groups.scan.pattern_energies[:10], SCANS[2].pattern_energies, rtol=1e-5)


def test_scans_that_are_too_small_or_differ():
    with pytest.raises(GroupingError):
        groups_of_scans([SCANS[0], simulate_star(64, 3)], config(n_groups=63, gridsize=2))
    with pytest.raises(ScanError, match="patterns of 128"):
        groups_of_scans([SCANS[0], simulate_star(128, 20)], config(n_groups=80))
