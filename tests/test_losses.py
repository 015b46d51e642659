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
