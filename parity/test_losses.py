"""Every loss on each framework against the reference, in both precisions."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptycho_backends.errors import ScanError
from ptycho_backends.reference import losses as reference
from ptycho_backends.testing.agreement import Allowance, assert_agrees
from ptycho_backends.testing.strategies import complex_arrays, images, real_arrays, training_configs

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


def compare(adapter, stage, precision, *arguments):
    want = getattr(reference, stage)(*arguments)
    got = adapter.call(f"losses.{stage}", *arguments, precision=precision)
    assert_agrees(f"{adapter.name}: {stage}", got, want, f"stages, {precision}")


@PRECISIONS
@given(predicted=real_arrays((2, 3, 4)), measured=real_arrays((2, 3, 4)))
def test_poisson_nll(adapter, precision, predicted, measured):
    predicted, measured = predicted**2, np.abs(measured)
    want = reference.poisson_nll(predicted, measured)
    got = adapter.call("losses.poisson_nll", predicted, measured, precision=precision)
    # the terms cancel, so the allowance is for the rounding of the terms
    terms = reference.poisson_nll(predicted, -measured * np.sign(np.log(np.maximum(predicted, 1e-12))))
    unit = 1e-15 if precision == "float64" else 1e-6
    assert abs(got - want) <= unit * max(abs(terms), abs(want))


@PRECISIONS
@given(predicted=real_arrays((2, 3, 4)), measured=real_arrays((2, 3, 4)))
def test_amplitude_mae(adapter, precision, predicted, measured):
    compare(adapter, "amplitude_mae", precision, predicted, measured)


@PRECISIONS
@given(
    predicted=real_arrays((2, 3, 4, 4)),
    measured=real_arrays((2, 3, 4, 4)),
    valid=hnp.arrays(bool, (2, 4, 4)).filter(lambda valid: valid.any(axis=(1, 2)).all()),
)
def test_losses_of_valid_pixels(adapter, precision, predicted, measured, valid):
    predicted, measured = np.abs(predicted) + 1 / 16, np.abs(measured)
    compare(adapter, "amplitude_mae", precision, predicted, measured, valid)
    got = adapter.call("losses.poisson_nll", predicted, measured, valid, precision=precision)
    want = reference.poisson_nll(predicted, measured, valid)
    size = reference.poisson_nll(predicted, -measured * np.sign(np.log(predicted)), valid)
    assert abs(got - want) <= (1e-14 if precision == "float64" else 1e-5) * max(abs(size), abs(want))


@PRECISIONS
@given(image=images((2,)))
def test_total_variation(adapter, precision, image):
    compare(adapter, "total_variation", precision, image)


# of the four zeros of the complex plane two have the angle pi
ZEROS = np.array([complex(0.0, 0.0), complex(0.0, -0.0), complex(-0.0, 0.0), complex(-0.0, -0.0)])


@PRECISIONS
@example(image=np.tile(ZEROS, (2, 4, 1)), truth=np.ones((2, 4, 4), complex))
@given(image=complex_arrays((2, 4, 4)), truth=complex_arrays((2, 4, 4)))
def test_object_mae(adapter, precision, image, truth):
    compare(adapter, "object_mae", precision, image, truth)


@PRECISIONS
@pytest.mark.parametrize(
    "stage",
    [
        "amplitude_variation",
        "phase_variation",
        "amplitude_deviation",
        "phase_deviation",
        "amplitude_variance",
    ],
)
@given(image=complex_arrays((2, 4, 4)))
def test_auxiliary(adapter, stage, precision, image):
    # opposite directions are half a turn apart either way round, and rounding decides which
    turned = image * np.exp(0.1j * np.arange(16).reshape(4, 4))
    compare(adapter, stage, precision, turned)


def arguments(config, draw):
    """Arguments of `loss_terms`, on patterns of 4 pixels."""
    channels, positions = config.model.patch_channels, config.model.group_size
    return (
        config,
        draw(complex_arrays((2, channels, 4, 4))),
        draw(complex_arrays((2, 4, 4))),
        np.abs(draw(real_arrays((2, positions, 4, 4)))) + 1 / 16,
        np.abs(draw(real_arrays((2, positions, 4, 4)))),
        draw(complex_arrays((2, positions, 4, 4))),
        draw(complex_arrays((2, 4, 4))),
    )


@PRECISIONS
@given(data=st.data(), config=training_configs(gridsize=2))
def test_loss_terms(adapter, precision, data, config):
    given_ = arguments(config, data.draw)
    want = reference.loss_terms(*given_)
    got = adapter.call("losses.loss_terms", *given_, precision=precision)
    assert list(got) == list(want)
    size = max(abs(float(value)) for value in want.values()) or 1.0
    bound = 1e-13 if precision == "float64" else 1e-5
    for name, value in want.items():
        allowance = Allowance(bound * size, "the terms cancel, so the largest one counts", "absolute")
        assert_agrees(
            f"{adapter.name}: {name}", np.float64(got[name]) - value + 1.0, np.float64(1.0), allowance
        )


@given(data=st.data(), config=training_configs(gridsize=2, loss="supervised"))
def test_missing_truth_is_refused(adapter, data, config):
    *known, _, _ = arguments(config, data.draw)
    with pytest.raises(ScanError, match="objectGuess"):
        adapter.call("losses.loss_terms", *known, None, None)
