"""Choice of a group's members: the promise of each setting, checked on the groups."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends.errors import ConfigError, GroupingError
from ptycho_backends.scans.neighbours import NeighbourChoice, axis_steps_px, group_around, seeds_within
from ptycho_backends.scans.scan import Scan


def scan_at(positions):
    patterns = np.ones((len(positions), 4, 4), np.uint16)
    return Scan(positions[:, 0], positions[:, 1], patterns)


def scattered(count, seed=0):
    return scan_at(np.random.default_rng(seed).uniform(0, 30, (count, 2)))


def raster(columns, rows, step_x, step_y, jitter=0.0):
    x, y = np.meshgrid(np.arange(columns) * step_x, np.arange(rows) * step_y)
    noise = np.random.default_rng(0).uniform(-jitter, jitter, (columns * rows, 2))
    return np.stack([x.ravel(), y.ravel()], axis=1) + noise


def distances(groups, seeds, rounds):
    positions = groups.scan.scan_positions_px
    return np.linalg.norm(
        positions[groups.nn_indices] - positions[np.repeat(seeds, rounds)][:, None], axis=-1
    )


@given(seed=st.integers(0, 1000), K=st.integers(4, 9), rounds=st.integers(1, 5))
def test_nearest(seed, K, rounds):
    scan, seeds = scattered(25, seed), np.array([3, 0, 17])
    choice = NeighbourChoice(neighbor_count=K, groups_per_seed=rounds)
    groups = group_around(scan, seeds, choice, seed=seed)
    possible = 1 if K == 4 else rounds
    assert groups.nn_indices.shape == (3 * possible, 4)
    positions = scan.scan_positions_px
    for number, members in enumerate(groups.nn_indices):
        here = seeds[number // possible]
        pool = np.argsort(np.linalg.norm(positions - positions[here], axis=1))[1 : K + 1]
        assert set(members) <= set(pool)
        assert len(set(members)) == 4
    assert len({(n // possible, *sorted(m)) for n, m in enumerate(groups.nn_indices.tolist())}) == len(groups)
    again = group_around(scan, seeds, choice, seed=seed)
    np.testing.assert_array_equal(again.nn_indices, groups.nn_indices)


def test_every_subset_is_found_where_all_are_asked_for():
    groups = group_around(scattered(60), np.arange(60), NeighbourChoice(groups_per_seed=15))
    assert len(groups) == 60 * 15
    assert len({(n // 15, *sorted(m)) for n, m in enumerate(groups.nn_indices.tolist())}) == 900


@given(seed=st.integers(0, 1000), low=st.sampled_from([0.0, 4.0]))
def test_members_lie_between_the_distances(seed, low):
    scan = scattered(300, seed)
    choice = NeighbourChoice(function="Min_dist", min_distance_px=low, max_distance_px=9.0, groups_per_seed=1)
    groups = group_around(scan, np.array([5]), choice, seed=seed)
    apart = distances(groups, np.array([5]), 1)
    assert apart.min() >= low
    assert apart.max() <= 9.0


@given(seed=st.integers(0, 1000))
def test_one_from_each_quadrant(seed):
    scan = scattered(300, seed)
    positions = scan.scan_positions_px
    middle = int(np.argmin(np.linalg.norm(positions - 15, axis=1)))
    choice = NeighbourChoice(function="4_quadrant", quadrant_count=60, groups_per_seed=3)
    groups = group_around(scan, np.array([middle]), choice, seed=seed)
    assert len(groups) == 3
    offsets = positions[groups.nn_indices] - positions[middle]
    np.testing.assert_array_equal(offsets[..., 0] >= 0, [[False, True, False, True]] * 3)
    np.testing.assert_array_equal(offsets[..., 1] >= 0, [[False, False, True, True]] * 3)
    assert (
        np.linalg.norm(offsets, axis=-1).max()
        <= np.sort(np.linalg.norm(positions - positions[middle], axis=1))[60]
    )


def test_seeds_without_partners_are_left_out_or_get_their_nearest(caplog):
    # four close together, and one far from everything
    positions = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [50, 50]], float)
    choice = NeighbourChoice(function="Min_dist", groups_per_seed=1)
    alone = group_around(scan_at(positions), np.arange(5), choice)
    np.testing.assert_array_equal(np.sort(alone.nn_indices), [[0, 1, 2, 3]] * 4)
    everyone = group_around(scan_at(positions), np.arange(5), choice, leave_none_out=True)
    assert len(everyone) == 5
    assert "1 of 5 positions have no partners" in caplog.text


def test_fewer_groups_than_asked_for_are_logged(caplog):
    groups = group_around(scattered(5), np.arange(5), NeighbourChoice(neighbor_count=4))
    assert len(groups) == 5
    assert "n_subsample: 7 groups around each position asked for, 1 can be formed" in caplog.text


def test_groups_of_one_are_the_seeds():
    groups = group_around(scattered(9), np.array([4, 2]), NeighbourChoice(group_size=1, neighbor_count=0))
    np.testing.assert_array_equal(groups.nn_indices, [[4], [2]])


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_a_rectangular_scan_is_measured_in_its_own_steps(jitter):
    positions = raster(12, 12, 1.5, 9.0, jitter)
    np.testing.assert_allclose(axis_steps_px(positions), [1.5, 9.0], rtol=0.15)
    seeds = np.array([5 * 12 + 5])
    rows = {}
    for pattern in ("Isotropic", "Rectangular"):
        choice = NeighbourChoice(neighbor_count=8, groups_per_seed=20, scan_pattern=pattern)
        groups = group_around(scan_at(positions), seeds, choice, seed=0)
        rows[pattern] = set(groups.nn_indices.ravel() // 12)
    assert rows == {"Isotropic": {5}, "Rectangular": {4, 5, 6}}


def test_a_line_of_positions_has_no_steps_to_compare():
    np.testing.assert_array_equal(axis_steps_px(raster(9, 1, 2.0, 1.0)), [1, 1])


def test_bounds_are_fractions_of_the_bounding_box():
    scan = scan_at(raster(11, 11, 2.0, 3.0) + 100)
    inside = seeds_within(scan, (0.1, 0.9), (0.5, 1.0))
    np.testing.assert_array_equal(np.unique(scan.xcoords[inside]), 100 + 2.0 * np.arange(1, 10))
    np.testing.assert_array_equal(np.unique(scan.ycoords[inside]), 100 + 3.0 * np.arange(5, 11))
    assert len(seeds_within(scan_at(raster(9, 1, 2.0, 1.0)), (0, 1), (0.1, 0.9))) == 9
    with pytest.raises(ConfigError, match=r"y_bounds: got 0.9 .. 0.1, want 0 <= low < high <= 1"):
        seeds_within(scan, (0, 1), (0.9, 0.1))
    with pytest.raises(GroupingError, match=r"x_bounds=\(0.41, 0.49\).* leave none of its 121 positions"):
        seeds_within(scan, (0.41, 0.49), (0, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbor_count": 3}, "K: got 3 nearest neighbours, want at least the 4"),
        ({"function": "Closest"}, "neighbor_function: got 'Closest'"),
        ({"scan_pattern": "Spiral"}, "scan_pattern: got 'Spiral'"),
        ({"groups_per_seed": 0}, "n_subsample: got 0"),
        ({"function": "Min_dist", "min_distance_px": 3.0}, "min_neighbor_distance, max_neighbor_distance"),
        ({"function": "4_quadrant", "group_size": 9}, "C is 9; set C=4"),
        ({"function": "4_quadrant", "quadrant_count": 3}, "K_quadrant: got 3"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        NeighbourChoice(**settings)


@pytest.mark.parametrize(
    ("choice", "positions", "message"),
    [
        (NeighbourChoice(function="Min_dist"), raster(5, 5, 9.0, 9.0), "max_neighbor_distance=3 pixels"),
        (NeighbourChoice(function="4_quadrant"), raster(25, 1, 1.0, 1.0), "K_quadrant=30 nearest"),
        (NeighbourChoice(), raster(3, 1, 1.0, 1.0), "3 positions, want at least 4"),
    ],
)
def test_scans_without_groups_are_refused(choice, positions, message):
    with pytest.raises(GroupingError, match=message):
        group_around(scan_at(positions), np.arange(len(positions)), choice)


@pytest.mark.parametrize("function", ["Nearest", "Min_dist", "4_quadrant"])
def test_large_scans_are_grouped_in_seconds(function):
    positions = np.random.default_rng(0).uniform(0, 200, (10_000, 2))
    started = time.perf_counter()
    choice = NeighbourChoice(function=function, max_distance_px=8.0)
    groups = group_around(scan_at(positions), np.arange(10_000), choice, seed=0)
    assert len(groups) > 68_000  # at the edges some quadrants are empty
    assert time.perf_counter() - started < 10
