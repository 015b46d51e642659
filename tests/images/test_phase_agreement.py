"""Patches of constructed scans find the constant phases that were given to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends.config import ModelConfig
from ptycho_backends.errors import ShapeError
from ptycho_backends.images import phase_agreement, stitching
from ptycho_backends.images import reconstruct as reconstructing
from ptycho_backends.images.phase_agreement import agreed_phases
from ptycho_backends.reference.stitching import probe_weights
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.prediction import stitch_predicted

M = 20
CELL = 2


def smooth_object(x, y):
    """Three radians of slow phase, and an amplitude of its own."""
    return (1 + 0.3 * np.cos(x / 11)) * np.exp(1.5j * (np.sin(x / 31) + np.cos(y / 43)))


def cut(centres, size=M):
    corners = centres - size / 2
    steps = np.arange(size)
    return smooth_object(
        corners[:, 0, None, None] + steps, corners[:, 1, None, None] + steps[:, None]
    ).astype(np.complex64)


def scrambled(centres, seed=0, size=M):
    """Patches at `centres`, each with a random constant phase, and these phases."""
    phases = np.random.default_rng(seed).uniform(-np.pi, np.pi, len(centres))
    return cut(centres, size) * np.exp(1j * phases)[:, None, None].astype(np.complex64), phases


def on_cells(count, extent, seed=0):
    """Random positions where no patch begins within a cell, so that nothing is lost to its border."""
    return CELL * np.random.default_rng(seed).integers(0, extent // CELL, (count, 2)).astype(float)


def spread(found, phases):
    """Largest difference of `found` from `phases`, apart from one constant; radians."""
    turn = np.exp(1j * (found - phases))
    return np.abs(np.angle(turn * turn.mean().conj())).max()


@given(seed=st.integers(0, 1000), size=st.sampled_from([20, 24, 28]))
def test_constant_phases_are_found(seed, size):
    centres = on_cells(60, 60, seed)
    patches, phases = scrambled(centres, seed, size)
    found = agreed_phases(patches, centres)
    assert (found.shape, found.dtype) == ((60,), np.float64)
    assert spread(found, phases) < 1e-6
    np.testing.assert_array_equal(found, agreed_phases(patches, centres))


@given(seed=st.integers(0, 1000))
def test_the_phases_are_those_of_plain_least_squares(seed):
    """Every pair on one canvas, and a dense solver; noise leaves no exact answer."""
    generator = np.random.default_rng(seed)
    centres = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2) * 8
    phases = generator.uniform(-np.pi, np.pi, 16)
    patches = cut(centres) * np.exp(1j * phases)[:, None, None]
    patches += 0.05 * (generator.normal(size=patches.shape) + 1j * generator.normal(size=patches.shape))
    canvas = np.zeros((16, 44, 44), complex)
    for here, patch, (x, y) in zip(canvas, patches, centres.astype(int), strict=True):
        here[y : y + M, x : x + M] = patch
    cells = canvas.reshape(16, 22, CELL, 22, CELL).sum((2, 4)).reshape(16, -1)
    i, j = np.triu_indices(16, 1)
    product = (cells @ cells.conj().T)[i, j]
    weight = np.sqrt(np.abs(product))
    # what is left once the phases are taken off is far from a whole turn
    left = np.angle(product * np.exp(-1j * (phases[i] - phases[j])))
    rows = np.concatenate([weight[:, None] * (np.eye(16)[i] - np.eye(16)[j]), np.eye(16)[:1]])
    want = np.linalg.lstsq(rows, np.append(weight * left, 0))[0] + phases
    found = agreed_phases(patches.astype(np.complex64), centres)
    assert spread(found, want) < 2e-4
    assert 1e-5 < spread(found, phases) < 0.05


@pytest.mark.parametrize("extent", [60, 6])
def test_positions_anywhere_however_dense(extent):
    """Cells at the border of a patch are known in part; hubs stand for their neighbours."""
    centres = np.random.default_rng(1).uniform(0, extent, (400, 2))
    patches, phases = scrambled(centres)
    assert spread(agreed_phases(patches, centres), phases) < 0.02


def test_duplicates():
    centres = np.repeat(on_cells(30, 50), 40, axis=0)
    patches, phases = scrambled(centres)
    assert spread(agreed_phases(patches, centres), phases) < 1e-6


def test_pairs_grow_with_the_patches_only():
    for extent in (10, 40, 160):
        centres = np.random.default_rng(0).uniform(0, extent, (1000, 2))
        agreement = phase_agreement.PhaseAgreement(centres, M)
        i, _ = agreement._pairs(np.ones(1000, bool))
        assert len(i) <= 35 * 1000


def test_islands_keep_their_own_constant():
    """The sum of the corrections of each is real and positive."""
    first, second = on_cells(20, 40), on_cells(15, 40, 1) + 1000
    centres = np.concatenate([first, second, [[500.0, 500.0]]])
    patches, phases = scrambled(centres)
    found = agreed_phases(patches, centres)
    intensity = np.square(np.abs(patches)).sum((1, 2))
    for island in (slice(0, 20), slice(20, 35)):
        assert spread(found[island], phases[island]) < 1e-6
        total = (intensity[island] * np.exp(-1j * found[island])).sum()
        assert total.real > 0
        assert abs(total.imag) < 0.03 * intensity[island].sum()
    assert found[35] == pytest.approx(0, abs=1e-6)


def test_two_patches_one_and_none():
    centres = np.array([[0.0, 0.0], [10.0, 4.0]])
    patches = cut(centres) * np.exp([[[0.7j]], [[-0.5j]]])
    found = agreed_phases(patches, centres)
    assert found[0] - found[1] == pytest.approx(1.2, abs=1e-6)
    np.testing.assert_allclose(agreed_phases(patches[:1], centres[:1]), 0, atol=1e-6)
    assert agreed_phases(patches[:0], centres[:0]).shape == (0,)
    # too far apart to be compared
    np.testing.assert_allclose(agreed_phases(patches, centres * 5), 0, atol=1e-6)


def test_dark_patches_take_no_part():
    centres = on_cells(60, 60)
    patches, phases = scrambled(centres)
    patches[::7] = 0
    patches[3] = np.nan
    lit = np.ones(60, bool)
    lit[::7] = lit[3] = False
    found = agreed_phases(patches, centres)
    np.testing.assert_array_equal(found[~lit], 0)
    assert spread(found[lit], phases[lit]) < 1e-6
    np.testing.assert_array_equal(agreed_phases(np.zeros_like(patches), centres), 0)


def test_weights_hide_what_is_not_trusted():
    centres = on_cells(60, 60)
    patches, phases = scrambled(centres)
    patches[:, :4] *= np.exp(2j * np.random.default_rng(2).normal(size=(60, 1, 1)))
    weights = np.ones((M, M))
    weights[:4] = 0
    found = agreed_phases(patches, centres, weights)
    assert spread(found, phases) < 1e-6 < spread(agreed_phases(patches, centres), phases)


def test_errors_name_what_was_given():
    patches, centres = np.ones((3, M, M), complex), np.zeros((3, 2))
    with pytest.raises(ShapeError, match="patches: got shape"):
        agreed_phases(patches[..., None], centres)
    with pytest.raises(ShapeError, match="patches: got 20 x 19 pixels"):
        agreed_phases(patches[..., 1:], centres)
    for wrong in (centres[:2], centres[:, :1]):
        with pytest.raises(ShapeError, match="centres_px: got shape"):
            agreed_phases(patches, wrong)
    with pytest.raises(ShapeError, match="weights: got shape"):
        agreed_phases(patches, centres, np.ones((M, M + 1)))
    with pytest.raises(ShapeError, match="centres_px: 1 of 6 values"):
        agreed_phases(patches, np.where(np.arange(6).reshape(3, 2) == 4, np.nan, centres))


# --- stitched


@pytest.fixture(scope="module")
def predicted():
    """Groups, whole patches of 64 pixels with random phases, and these in batches."""
    groups = group_scan(simulate_star(64, 60, seed=0), gridsize=1)
    patches, _ = scrambled(groups.group_centres_px[:, 0, :, 0], size=64)
    patches = patches[..., None]
    return (
        groups,
        patches,
        [(slice(start, start + 7), patches[start : start + 7]) for start in range(0, 60, 7)],
    )


def stitched(predicted, **settings):
    groups, _, batches = predicted
    return reconstructing.reconstruct(batches, groups, 64, 32, "a backend", **settings)


def agreement_with_the_object(image):
    covered = image.coverage > 1
    y, x = np.nonzero(covered)
    truth = smooth_object(x + image.origin_px[0], y + image.origin_px[1])
    got = image.object[covered]
    return np.abs(np.vdot(truth, got)) / np.linalg.norm(truth) / np.linalg.norm(got)


def test_an_image_of_patches_that_agree(predicted, monkeypatch):
    plain, agreed = stitched(predicted), stitched(predicted, agree_on_phase=True)
    assert agreement_with_the_object(plain) < 0.9 < 0.9995 < agreement_with_the_object(agreed)
    np.testing.assert_array_equal(plain.object_patches, predicted[1])
    # the patches that are kept are those of the image
    groups = predicted[0]
    want, _, _ = stitching.stitch(agreed.object_patches, groups.group_centres_px, 32)
    np.testing.assert_allclose(agreed.object, want, atol=1e-6)
    # and where whole patches are not kept, their centres wait in memory or in a file
    monkeypatch.setattr(reconstructing, "KEPT_PATCHES_BYTES", 0)
    for most in (phase_agreement.WAITING_BYTES, 0):
        monkeypatch.setattr(phase_agreement, "WAITING_BYTES", most)
        without = stitched(predicted, agree_on_phase=True)
        assert without.object_patches is None
        np.testing.assert_array_equal(without.object, agreed.object)


def test_several_processes_find_the_same_phases(predicted):
    """Each has half of the batches; the sums of both are added in lockstep."""
    groups, _, batches = predicted
    want = stitched(predicted, agree_on_phase=True)
    first: list[np.ndarray] = []

    def note(array):
        first.append(array.copy())

    def add_noted(array):
        array += first.pop(0)

    # the descriptors of the other half, then the phases from both
    centres = groups.group_centres_px[:, 0, :, 0]
    halves = batches[::2], batches[1::2]
    waiting = [phase_agreement.WaitingPatches(centres, 32) for _ in halves]
    for half, waits in zip(halves, waiting, strict=True):
        for part, patches in half:
            waits.add(part, patches)
    waiting[0]._agreement.add_up(note)
    canvas = stitching.square_around(groups.group_centres_px, 32)
    stitcher = stitching.Stitcher(canvas, 32)
    turned = list(waiting[1].turned(add_noted))
    waiting[0]._agreement = waiting[1]._agreement
    for part, patches in [*turned, *waiting[0].turned()]:
        stitcher.add(patches, groups.group_centres_px[part])
    assert first == []
    np.testing.assert_allclose(stitcher.result()[0], want.object, atol=1e-6)


def test_stitching_with_weights(predicted):
    """`stitch_predicted` and `reconstruct` agree; the weights count in the comparison and in the mean."""
    groups, _, batches = predicted
    weights = probe_weights(groups.scan.probe_guess, 32)
    image = stitched(predicted, agree_on_phase=True, patch_weights=weights)
    assert agreement_with_the_object(image) > 0.999
    stitcher = stitching.Stitcher(stitching.square_around(groups.group_centres_px, 32), 32, weights)
    stitch_predicted(stitcher, batches, groups, lambda array: None, agree_on_phase=True)
    # covered are pixels under the middle of a patch, as without weights
    covered = image.coverage > 0
    assert 0.3 < covered.mean() < 0.9
    np.testing.assert_array_equal(np.where(covered, stitcher.result()[0], 0), image.object)


def test_what_architectures_want():
    unrolled = ModelConfig(N=128, architecture="unrolled")
    assert reconstructing.wants_phase_agreement(unrolled)
    assert reconstructing.default_stitching_size(unrolled) == 64
    for architecture in ("cnn", "attention"):
        config = ModelConfig(N=128, architecture=architecture)
        assert not reconstructing.wants_phase_agreement(config)
        assert reconstructing.default_stitching_size(config) == 20
