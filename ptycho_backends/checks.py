"""Checks at the public boundary: of arrays (rank, size, dtype, finite values), and problems as one error."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ConfigError, ShapeError

Size = int | None


def _describe(sizes: Sequence[Size], axes: Sequence[str]) -> str:
    return (
        "("
        + ", ".join(name if size is None else str(size) for size, name in zip(sizes, axes, strict=True))
        + ")"
    )


def require_shape(name: str, array: NDArray, sizes: Sequence[Size], axes: Sequence[str]) -> None:
    """Raise `ShapeError` unless `array` has the rank of `sizes` and agrees with each that is not None."""
    agrees = array.ndim == len(sizes) and all(
        want is None or got == want for got, want in zip(array.shape, sizes, strict=True)
    )
    if not agrees:
        raise ShapeError(
            f"{name}: got shape {array.shape}, want {_describe(sizes, axes)} with axes ({', '.join(axes)})"
        )


def require_finite(name: str, array: NDArray) -> None:
    """Raise `ShapeError` that counts the NaN and infinite values of `array`, if there are any."""
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise ShapeError(f"{name}: {bad} of {array.size} values are NaN or infinite; remove or replace them")


def as_array(name: str, values: ArrayLike, kinds: str, want: str) -> NDArray:
    """`values` as an array whose dtype is of one of `kinds` (`numpy.dtype.kind`)."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ShapeError(f"{name}: got a masked array, want plain numbers; fill the masked values")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{name}: {error}") from error
    if array.dtype.kind not in kinds:
        raise ShapeError(f"{name}: got dtype {array.dtype}, want {want}")
    return array


def real_vector(name: str, values: ArrayLike, length: int | None = None) -> NDArray[np.float64]:
    """`values` as a finite float64 vector, of `length` if that is given."""
    array = as_array(name, values, "iuf", "real numbers")
    require_shape(name, array, (length,), ("positions",))
    array = array.astype(np.float64)
    require_finite(name, array)
    return array


def integer_vector(name: str, values: ArrayLike, length: int | None = None) -> NDArray[np.int64]:
    """`values`, whole numbers whatever their dtype, as an int64 vector, of `length` if that is given."""
    array = as_array(name, values, "iuf", "integers")
    require_shape(name, array, (length,), ("positions",))
    if array.dtype.kind == "f":
        require_finite(name, array)
        if (array != np.rint(array)).any():
            raise ShapeError(f"{name}: got fractions, want integers")
    return array.astype(np.int64)


def complex_image(name: str, values: ArrayLike, side: int | None = None) -> NDArray[np.complex64]:
    """`values` as a finite complex64 image `[y, x]`, of `side` x `side` pixels if that is given."""
    array = as_array(name, values, "iufc", "complex numbers")
    require_shape(name, array, (side, side), ("y", "x"))
    with np.errstate(
        over="ignore"
    ):  # values too large for complex64 become infinite, and are refused as such
        array = array.astype(np.complex64)
    require_finite(name, array)
    return array


def complex_modes(name: str, values: ArrayLike, side: int | None = None) -> NDArray[np.complex64]:
    """One square image or several as a finite complex64 array `[mode, y, x]`, of `side` pixels if that is given."""
    array = as_array(name, values, "iufc", "complex numbers")
    modes = array[None] if array.ndim == 2 else array
    if modes.ndim != 3 or modes.shape[1] != modes.shape[2] or side not in (None, modes.shape[1]):
        wanted = "N" if side is None else side
        raise ShapeError(
            f"{name}: got shape {array.shape}, want ({wanted}, {wanted}) with axes (y, x), or "
            f"(modes, {wanted}, {wanted}) with axes (modes, y, x)"
        )
    if len(modes) == 0:
        raise ShapeError(f"{name}: got no modes, want at least one")
    return np.stack([complex_image(name, mode) for mode in modes])


def raise_if_any(subject: str, problems: list[str]) -> None:
    """Raise one `ConfigError` that lists all `problems`, if there are any."""
    if problems:
        raise ConfigError(f"{subject}: " + "; ".join(problems))
