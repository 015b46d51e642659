import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ptycho_backends.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import GroupingError, ScanError
from ptycho_backends.reference import physics
from ptycho_backends.scans.grouping import group_scan, groups_for_inference, groups_for_training, nearest
from ptycho_backends.scans.scan import Scan


def scattered(count, seed=0, N=8, **more):
    generator = np.random.default_rng(seed)
    x, y = generator.uniform(10, 60, (2, count))
    patterns = generator.integers(0, 50, (count, N, N)).astype(np.uint16)
    return Scan(x, y, patterns, **more)


@given(count=st.integers(4, 60), seed=st.integers(0, 1000), K=st.integers(4, 9))
def test_groups_are_chosen_among_the_nearest_neighbours(count, seed, K):
    scan = scattered(count, seed)
    groups = group_scan(scan, gridsize=2, neighbor_count=K, sequential_sampling=True, seed=seed)
    assert groups.nn_indices.shape == (count, 4)
    positions = scan.scan_positions_px
    for own, members in enumerate(groups.nn_indices):
        assert len(set(members.tolist())) == 4
        distances = np.linalg.norm(positions - positions[own], axis=1)
        if count - 1 >= K:
            assert own not in members
            distances[own] = np.inf
        reach = np.sort(distances)[: min(K, count)].max()
        assert np.all(np.linalg.norm(positions[members] - positions[own], axis=1) <= reach + 1e-9)


@given(seed=st.integers(0, 1000), gridsize=st.sampled_from([1, 2, 3]))
def test_offsets_are_minus_the_distance_from_the_mean(seed, gridsize):
    scan = scattered(30, seed)
    groups = group_scan(scan, gridsize=gridsize, neighbor_count=9, seed=seed)
    members = scan.scan_positions_px[groups.nn_indices]  # (B, C, 2)
    r = np.moveaxis(groups.relative_offsets_px[:, 0], -1, 1)
    centres = groups.group_centres_px[:, 0, :, 0]
    assert groups.relative_offsets_px.dtype == np.float32
    np.testing.assert_allclose(centres, members.mean(axis=1))
    np.testing.assert_allclose(members, centres[:, None] - r, atol=1e-4)
    np.testing.assert_allclose(r.mean(axis=1), 0, atol=1e-5)


@given(seed=st.integers(0, 100))
def test_the_same_seed_gives_the_same_groups(seed):
    scan = scattered(40)
    first, second = (
        group_scan(scan, gridsize=2, n_groups=20, neighbor_count=7, seed=seed, n_subsample=30)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.nn_indices, second.nn_indices)
    other = group_scan(scan, gridsize=2, n_groups=20, neighbor_count=7, seed=seed + 1, n_subsample=30)
    assert not np.array_equal(first.nn_indices, other.nn_indices)


def test_gridsize_one_uses_each_seed_position_once():
    scan = scattered(20)
    in_order = group_scan(scan, n_groups=7, sequential_sampling=True)
    np.testing.assert_array_equal(in_order.nn_indices, np.arange(7)[:, None])
    drawn = group_scan(scan, n_groups=20, seed=3)
    np.testing.assert_array_equal(np.sort(drawn.nn_indices[:, 0]), np.arange(20))
    capped = group_scan(scan, n_groups=500, seed=3)
    assert len(capped) == 20


def test_subsample_keeps_groups_within_it():
    scan = scattered(50)
    groups = group_scan(scan, gridsize=2, n_subsample=12, neighbor_count=5, seed=1)
    assert len(np.unique(groups.nn_indices)) <= 12
    assert len(groups) == 12


def test_positions_measured_twice_are_not_their_own_neighbours_twice():
    scan = scattered(3)
    doubled = Scan(
        np.repeat(scan.xcoords, 3), np.repeat(scan.ycoords, 3), np.repeat(scan.patterns, 3, axis=0)
    )
    groups = group_scan(doubled, gridsize=2, neighbor_count=4, sequential_sampling=True)
    for own, members in enumerate(groups.nn_indices):
        assert own not in members
        assert len(set(members.tolist())) == 4


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (3, {"gridsize": 2}, "3 positions, want at least 4"),
        (20, {"gridsize": 2, "neighbor_count": 3}, "neighbor_count: got 3 neighbours, want at least 4"),
        (20, {"gridsize": 2, "n_groups": 21}, "set enable_oversampling=True"),
        (
            6,
            {"gridsize": 2, "n_groups": 7, "neighbor_count": 4, "enable_oversampling": True},
            "at most 6 different groups",
        ),
        (
            20,
            {"gridsize": 2, "n_groups": 30, "enable_oversampling": True, "neighbor_pool_size": 3},
            "want at least 4",
        ),
    ],
)
def test_impossible_groups_are_refused(count, arguments, message):
    with pytest.raises(GroupingError, match=message):
        group_scan(scattered(count), **arguments)


@given(rounds=st.integers(2, 5), seed=st.integers(0, 100))
def test_oversampling_gives_different_groups_around_each_position(rounds, seed):
    scan = scattered(15)
    wanted = rounds * 15 - 4
    groups = group_scan(
        scan, gridsize=2, n_groups=wanted, enable_oversampling=True, neighbor_pool_size=7, seed=seed,
        sequential_sampling=True,
    )  # fmt: skip
    assert len(groups) == wanted
    for own in range(11):
        around = {tuple(sorted(members)) for members in groups.nn_indices[own::15].tolist()}
        assert len(around) == len(groups.nn_indices[own::15])


def test_oversampling_from_a_pool_too_large_to_list():
    groups = group_scan(
        scattered(30), gridsize=3, n_groups=60, enable_oversampling=True, neighbor_pool_size=25, seed=0
    )
    assert math.comb(25, 9) > 10_000
    assert groups.nn_indices.shape == (60, 9)
    assert len({tuple(sorted(m)) for m in groups.nn_indices.tolist()}) == 60


@pytest.mark.parametrize("measurement", ["intensity", "amplitude"])
def test_normalisation(measurement):
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 60000, (9, 64, 64)).astype(np.uint16)
    scan = Scan(np.arange(9.0), np.arange(9.0), patterns, measurement=measurement)
    groups = group_scan(scan)
    X = groups.batch().diffraction_amplitude
    assert X.dtype == np.float32
    assert X.shape == (9, 64, 64, 1)
    # uint16 squares overflow unless they are widened first
    power = patterns.astype(np.float64) ** (1 if measurement == "intensity" else 2)
    want = np.sqrt(power) * math.sqrt(32**2 / power.sum(axis=(1, 2)).mean())
    np.testing.assert_allclose(X[..., 0][groups.nn_indices[:, 0].argsort()], want, rtol=1e-6)
    assert np.mean(np.sum(X.astype(np.float64) ** 2, axis=(1, 2))) == pytest.approx(32**2, rel=1e-6)


def test_an_empty_detector_is_refused():
    scan = Scan(np.arange(4.0), np.arange(4.0), np.zeros((4, 8, 8), np.uint16))
    with pytest.raises(ScanError, match="all zeros"):
        group_scan(scan).batch()


@given(seed=st.integers(0, 1000), gridsize=st.sampled_from([1, 2]))
def test_probe_times_truth_gives_the_measured_pattern_in_every_channel(seed, gridsize):
    """The invariant of the specification: for every member of a group, not only its centre."""
    generator = np.random.default_rng(seed)
    N = 16
    image = (generator.normal(size=(70, 70)) + 1j * generator.normal(size=(70, 70))).astype(np.complex64)
    probe = (generator.normal(size=(N, N)) + 1j * generator.normal(size=(N, N))).astype(np.complex64)
    positions = generator.uniform(12, 58, (12, 2))
    patches = physics.extract_patches(image, positions, N)
    amplitude = physics.diffraction_amplitude(probe * patches).astype(np.float32)
    scan = Scan(positions[:, 0], positions[:, 1], amplitude, probe, image)
    groups = group_scan(scan, gridsize=gridsize, neighbor_count=6, seed=seed)
    batch = groups.batch(with_truth=True)
    truth = np.moveaxis(batch.object_patches, -1, 1)
    predicted = np.moveaxis(physics.diffraction_amplitude(probe * truth), 1, -1)
    measured = batch.diffraction_amplitude / groups.normalisation
    np.testing.assert_allclose(predicted, measured, rtol=1e-4, atol=1e-4)
    centres = groups.group_centres_px[:, 0, :, 0]
    np.testing.assert_allclose(
        batch.object_at_centre[..., 0], physics.extract_patches(image, centres, N), atol=1e-6
    )


def test_truth_without_an_object_is_refused():
    with pytest.raises(ScanError, match="no objectGuess"):
        group_scan(scattered(8)).batch(with_truth=True)


def test_legacy_dictionary_has_the_legacy_keys_and_shapes():
    scan = scattered(12, object_guess=np.ones((70, 70), complex))
    groups = group_scan(scan, gridsize=2, neighbor_count=5, seed=0)
    legacy = groups.to_legacy_dict()
    shapes = {key: value.shape for key, value in legacy.items()}
    assert shapes == {
        "diffraction": (12, 8, 8, 4),
        "X_full": (12, 8, 8, 4),
        "Y": (12, 8, 8, 4),
        "coords_offsets": (12, 1, 2, 1),
        "coords_relative": (12, 1, 2, 4),
        "coords_start_offsets": (12, 1, 2, 1),
        "coords_start_relative": (12, 1, 2, 4),
        "coords_nn": (12, 1, 2, 4),
        "coords_start_nn": (12, 1, 2, 4),
        "nn_indices": (12, 4),
        "objectGuess": (70, 70),
    }
    np.testing.assert_allclose(
        legacy["coords_nn"], legacy["coords_offsets"] - legacy["coords_relative"], atol=1e-4
    )
    np.testing.assert_array_equal(legacy["X_full"], legacy["diffraction"] * np.float32(groups.normalisation))


def test_configurations_choose_their_groups():
    scan = scattered(30)
    model = ModelConfig(gridsize=2)
    training = TrainingConfig(model=model, n_groups=10, neighbor_count=5)
    assert len(groups_for_training(scan, training)) == 10
    np.testing.assert_array_equal(
        groups_for_training(scan, training).nn_indices, groups_for_training(scan, training).nn_indices
    )
    inference = InferenceConfig(model=model, neighbor_count=4)
    everything = groups_for_inference(scan, inference)
    assert len(everything) == 30
    assert "30 groups of 4" in repr(everything)


@pytest.mark.parametrize("normalize", ["Batch", "Group"])
@pytest.mark.parametrize("data_scaling", ["Parseval", "Max"])
def test_scale_of_the_patterns(normalize, data_scaling):
    generator = np.random.default_rng(0)
    # each pattern brighter than the one before
    patterns = (generator.random((12, 16, 16)) * np.arange(1, 13)[:, None, None]).astype(np.float32)
    scan = Scan(np.arange(12.0), np.zeros(12), patterns)
    config = TrainingConfig(normalize=normalize, data_scaling=data_scaling)
    groups = group_scan(scan, gridsize=2, sequential_sampling=True, seed=0).as_configured(config)
    X = groups.batch().diffraction_amplitude.astype(np.float64)
    within_group = (1, 2, 3)
    size = X.max(axis=within_group) if data_scaling == "Max" else np.square(X).sum(axis=within_group) / 4
    want = 1.0 if data_scaling == "Max" else 8**2
    if normalize == "Group":
        np.testing.assert_allclose(size, want, rtol=1e-5)
    else:
        assert size.std() > 0.1 * want
        assert (size.max() if data_scaling == "Max" else size.mean()) == pytest.approx(want, rel=1e-5)
    energy = np.square(X).sum(axis=(1, 2)).mean()
    assert groups.probe_gain == pytest.approx(math.sqrt(energy) / 8, rel=1e-5)
    np.testing.assert_array_equal(
        groups.batch(np.array([7, 2])).diffraction_amplitude[1], X[2].astype(np.float32)
    )


def test_labels_lose_their_mean_phase():
    object_guess = np.full((60, 60), 0.5 * np.exp(3j), np.complex64)
    object_guess[:, 30:] *= np.exp(0.4j)
    scan = Scan([25.0, 31.0], [25.0, 30.0], np.ones((2, 16, 16), np.uint8), None, object_guess)
    groups = group_scan(scan, sequential_sampling=True)
    plain = groups.batch(with_truth=True)
    level = groups.as_configured(TrainingConfig(phase_subtraction=True)).batch(with_truth=True)
    for given_, got in (
        (plain.object_patches, level.object_patches),
        (plain.object_at_centre, level.object_at_centre),
    ):
        np.testing.assert_allclose(np.abs(got), np.abs(given_), rtol=1e-5)
        np.testing.assert_allclose(np.angle(got.mean(axis=(1, 2))), 0, atol=1e-6)


@pytest.mark.parametrize("kind", ["anywhere", "raster", "twice"])
def test_the_neighbours_do_not_depend_on_the_order_in_which_they_are_looked_up(kind, monkeypatch):
    """Equidistant ones least of all: one look-up after the other, in the order of the seeds, finds the same."""
    generator = np.random.default_rng(0)
    positions = generator.uniform(0, 60, (400, 2))
    if kind == "raster":
        positions = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    if kind == "twice":
        positions = np.repeat(positions[:200], 2, axis=0)
    tree = cKDTree(positions)
    for seeds in (generator.permutation(400), generator.permutation(400)[:31], np.array([7, 3, 7, 399])):
        plain = np.array([tree.query(positions[seed], k=7)[1] for seed in seeds])
        for chunk in (1 << 16, 10):
            monkeypatch.setattr("ptycho_backends.scans.grouping.CHUNK_SEEDS", chunk)
            found = nearest(positions, seeds, 6)
            for seed, row, want in zip(seeds, found, plain, strict=True):
                kept = want[want != seed] if seed in want else want[:-1]
                np.testing.assert_array_equal(row, kept)
