import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.reference import losses


@given(rate=st.floats(0.1, 50), other=st.floats(0.1, 50))
def test_poisson_likelihood_is_scipys_up_to_its_constant(rate, other):
    counts = np.arange(20.0)
    ours = losses.poisson_nll(np.full(20, rate), counts) - losses.poisson_nll(np.full(20, other), counts)
    theirs = np.mean(poisson.logpmf(counts, other) - poisson.logpmf(counts, rate))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@given(truth=st.floats(0.01, 100))
def test_poisson_likelihood_is_best_at_the_truth(truth):
    measured = np.array([truth])
    best = losses.poisson_nll(measured, measured)
    assert losses.poisson_nll(measured * 1.1, measured) > best
    assert losses.poisson_nll(measured * 0.9, measured) > best


def test_poisson_likelihood_of_nothing_is_finite():
    assert losses.poisson_nll(np.zeros(3), np.zeros(3)) == 0
    assert losses.poisson_nll(np.zeros(3), np.ones(3)) == pytest.approx(-np.log(1e-12))


def test_total_variation_sums_pixels_and_averages_groups():
    image = np.zeros((2, 4, 4), complex)
    image[0, 1, 1] = 2 + 1j  # four edges, 5 each
    assert losses.total_variation(image) == pytest.approx(4 * 5 / 2)
    assert losses.total_variation(np.full((1, 4, 4), 3 - 2j)) == 0


def test_object_error_is_amplitude_and_phase():
    truth = np.ones((1, 2, 2), complex)
    assert losses.object_mae(1.5 * truth, truth) == pytest.approx(0.5)
    assert losses.object_mae(np.exp(0.3j) * truth, truth) == pytest.approx(0.3)


AMPLITUDES = np.array([[[1.0, 2.0], [3.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]])


def test_variation_of_the_amplitude_is_the_mean_squared_step():
    # down: 2 and 5, right: 1 and 4; the second group is flat, whatever its phase
    phase = np.exp(1j * np.array([[0.1, 0.2], [3.0, -3.0]]))
    assert losses.amplitude_variation(AMPLITUDES * phase) == pytest.approx((4 + 25) / 4 + (1 + 16) / 4)


def test_variation_of_the_phase_goes_the_short_way_round():
    phase = np.array([[[0.0, 0.5], [3.0, -3.0]]])
    down, right = (3.0, -3.5 + 2 * np.pi), (0.5, -6.0 + 2 * np.pi)
    want = np.mean(np.square(down)) + np.mean(np.square(right))
    image = AMPLITUDES[:1] * np.exp(1j * phase)
    assert losses.phase_variation(image) == pytest.approx(want)
    assert losses.phase_variation(image * np.exp(2j)) == pytest.approx(want)
    image[0, 0, 0] = 0  # nothing there to differ from
    assert losses.phase_variation(image) == pytest.approx((down[1] ** 2 + right[1] ** 2) / 2)


def test_deviations_are_from_the_mean_of_each_group():
    # the means are 3.25 and 2
    assert losses.amplitude_deviation(AMPLITUDES + 0j) == pytest.approx((2.25 + 1.25 + 0.25 + 3.75) / 8)
    assert losses.amplitude_variance(AMPLITUDES + 0j) == pytest.approx(
        (2.25**2 + 1.25**2 + 0.25**2 + 3.75**2) / 8
    )
    phase = np.array([[[0.0, 0.2], [-0.1, -0.1]], [[1.0, 1.0], [1.0, 1.0]]])
    mean = np.angle(np.exp(1j * phase[0]).sum())
    want = np.abs(phase[0] - mean).sum() / 8
    for turn in (0.0, 3.1):
        image = AMPLITUDES * np.exp(1j * (phase + turn))
        assert losses.phase_deviation(image) == pytest.approx(want)
    image[1] = 0
    assert losses.phase_deviation(image) == pytest.approx(want)


def arrays(seed=0):
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(2, 4, 8, 8)) + 1j * generator.normal(size=(2, 4, 8, 8))
    amplitude = generator.random((2, 2, 4, 8, 8))
    return image, image[:, 0], amplitude[0], amplitude[1]


def test_the_total_is_the_weighted_sum():
    patches, image, predicted, measured = arrays()
    config = TrainingConfig(
        model=ModelConfig(gridsize=2), nll_weight=0.5, mae_weight=0.25, realspace_weight=2.0,
        realspace_mae_weight=3.0, tv_weight=0.1,
    )  # fmt: skip
    terms = losses.loss_terms(config, patches, image, predicted, measured, None, image * 1.1)
    want = 0.5 * terms["nll"] + 0.25 * terms["mae"] + 2.0 * (3.0 * terms["realspace_mae"] + 0.1 * terms["tv"])
    assert terms["total"] == pytest.approx(want)
    assert terms["nll"] == losses.poisson_nll(predicted**2, measured**2)
    assert set(losses.loss_terms(TrainingConfig(), patches, image, predicted, measured, None, None)) == {
        "nll", "total",
    }  # fmt: skip


AUXILIARY = {
    "amp_loss": "Total_Variation", "amp_loss_coeff": 0.5, "phase_loss": "Mean_Deviation", "phase_loss_coeff": 3.0,
    "amplitude_variance_coeff": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("model_type", ["pinn", "supervised"])
def test_auxiliary_losses_are_added_and_judge_the_middle(model_type):
    patches, image, predicted, measured = arrays()
    model = ModelConfig(gridsize=2, model_type=model_type)
    given_ = (patches, image, predicted, measured, 1.1 * patches, None)
    terms = losses.loss_terms(TrainingConfig(model=model, **AUXILIARY), *given_)
    plain = losses.loss_terms(TrainingConfig(model=model), *given_)
    inner = image[:, 2:6, 2:6]
    assert terms["amp_loss"] == losses.amplitude_variation(inner)
    assert terms["phase_loss"] == losses.phase_deviation(inner)
    assert terms["amplitude_variance"] == losses.amplitude_variance(inner)
    added = 0.5 * terms["amp_loss"] + 3 * terms["phase_loss"] + 0.25 * terms["amplitude_variance"]
    assert terms["total"] == pytest.approx(plain["total"] + added)
    swapped = TrainingConfig(model=model, amp_loss="Mean_Deviation", phase_loss="Total_Variation")
    terms = losses.loss_terms(swapped, *given_)
    assert terms["amp_loss"] == losses.amplitude_deviation(inner)
    assert terms["phase_loss"] == losses.phase_variation(inner)
    off = TrainingConfig(model=model, amp_loss="Mean_Deviation", amp_loss_coeff=0.0)
    assert set(losses.loss_terms(off, *given_)) == set(plain)


@pytest.mark.parametrize("object_big", [True, False])
def test_supervised_training_compares_patches(object_big):
    patches, image, predicted, measured = arrays()
    model = ModelConfig(gridsize=2, object_big=object_big, model_type="supervised")
    if not object_big:
        patches = patches[:, :1]
    terms = losses.loss_terms(
        TrainingConfig(model=model), patches, image, predicted, measured, 2 * patches, 2 * patches[:, 0]
    )
    assert terms["total"] == pytest.approx(np.abs(patches).mean())
    with pytest.raises(ScanError, match="objectGuess: got none"):
        losses.loss_terms(TrainingConfig(model=model), patches, image, predicted, measured, None, None)
