"""Checks of arrays at the public boundary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptycho_backends import checks
from ptycho_backends.errors import PtychoBackendsError, ShapeError

finite = st.floats(-1e6, 1e6, width=32)


def test_shape_error_names_the_array_what_it_got_and_what_is_wanted() -> None:
    with pytest.raises(ShapeError) as caught:
        checks.require_shape("diff3d", np.zeros((3, 4)), (None, 64, 64), ("positions", "ky", "kx"))
    text = str(caught.value)
    assert text == "diff3d: got shape (3, 4), want (positions, 64, 64) with axes (positions, ky, kx)"
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PtychoBackendsError)


@given(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
def test_a_shape_agrees_with_itself_and_with_open_sizes(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape)
    axes = tuple("abcd"[: len(shape)])
    checks.require_shape("array", array, shape, axes)
    checks.require_shape("array", array, (None,) * len(shape), axes)
    with pytest.raises(ShapeError):
        checks.require_shape("array", array[None], shape, axes)
    with pytest.raises(ShapeError):
        checks.require_shape("array", array, (shape[0] + 1, *shape[1:]), axes)


def test_not_finite_values_are_counted() -> None:
    with pytest.raises(ShapeError, match="positions: 2 of 4 values are NaN or infinite"):
        checks.require_finite("positions", np.array([0.0, np.nan, np.inf, 1.0]))


@given(hnp.arrays(st.sampled_from(["f4", "f8"]), st.integers(0, 20), elements=finite))
def test_real_vector_keeps_values_and_never_shares_memory(values: np.ndarray) -> None:
    vector = checks.real_vector("x", values, len(values))
    assert vector.dtype == np.float64
    np.testing.assert_array_equal(vector, values)
    assert not np.shares_memory(vector, values)


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b"],
        [1j, 2j],
        [True, False],
        [[1.0, 2.0]],
        1.0,
        [None, None],
        [[1.0], [1.0, 2.0]],
        [np.nan, 0.0],
        [1.0, 2.0, 3.0],
        np.ma.masked_array([1.0, 2.0], [False, True]),
    ],
    ids=str,
)
def test_real_vector_refuses(values: object) -> None:
    with pytest.raises(ShapeError, match=r"^x: "):
        checks.real_vector("x", values, 2)  # type: ignore[arg-type]


def test_integer_vector_takes_whole_numbers_of_any_dtype() -> None:
    for values in ([3, 4], np.array([3, 4], np.uint16), [3.0, 4.0]):
        vector = checks.integer_vector("scan_index", values)
        assert vector.dtype == np.int64
        assert vector.tolist() == [3, 4]


@pytest.mark.parametrize("values", [[0.5, 1.0], [np.nan, 1.0], ["3", "4"], [[1, 2]]], ids=str)
def test_integer_vector_refuses(values: object) -> None:
    with pytest.raises(ShapeError, match=r"^scan_index: "):
        checks.integer_vector("scan_index", values, 2)  # type: ignore[arg-type]


def test_complex_image_takes_real_and_complex_images() -> None:
    for values in (np.ones((3, 4)), np.ones((3, 4), np.int16), np.ones((3, 4), np.complex128)):
        image = checks.complex_image("probeGuess", values)
        assert image.dtype == np.complex64
        assert image.shape == (3, 4)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones((2, 3)), "want \\(4, 4\\)"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 1e300), "infinite"),  # finite, but beyond complex64
        (np.full((4, 4), "a"), "dtype"),
        (np.ones((1, 4, 4)), "shape"),
    ],
)
def test_complex_image_refuses(values: np.ndarray, reason: str) -> None:
    with pytest.raises(ShapeError, match=f"^probeGuess: .*{reason}"):
        checks.complex_image("probeGuess", values, 4)


def test_complex_modes_takes_one_image_or_several() -> None:
    assert checks.complex_modes("probe", np.ones((4, 4))).shape == (1, 4, 4)
    modes = checks.complex_modes("probe", np.ones((3, 4, 4), np.complex128), 4)
    assert modes.shape == (3, 4, 4)
    assert modes.dtype == np.complex64


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones((2, 3)), r"got shape \(2, 3\), want \(4, 4\) with axes \(y, x\), or \(modes, 4, 4\)"),
        (np.ones((2, 5, 5)), r"got shape \(2, 5, 5\), want \(4, 4\)"),
        (np.ones(4), r"got shape \(4,\)"),
        (np.ones((0, 4, 4)), "no modes"),
        (np.full((1, 4, 4), np.inf), "infinite"),
    ],
)
def test_complex_modes_refuses(values: np.ndarray, reason: str) -> None:
    with pytest.raises(ShapeError, match=f"^probe: .*{reason}"):
        checks.complex_modes("probe", values, 4)
