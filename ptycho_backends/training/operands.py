"""Operands of the small operations - weights and batches - checked before a framework meets them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.checks import as_array, raise_if_any, require_finite, require_shape
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, ShapeError
from ptycho_backends.reference.initial_weights import PROBE, weight_shapes
from ptycho_backends.values import Batch, Weights

# Measured amplitudes, scaled, whose squares and their sums over a batch stay within float32 and float64.
LARGEST_FED, LARGEST_FED_DOUBLE = 1e16, 1e150
LARGEST_OFFSET_PX = 1e6

_AXES: Mapping[str, tuple[str, ...]] = {
    "diffraction_amplitude": ("B", "N", "N", "C"),
    "relative_offsets_px": ("B", "1", "2", "C"),
    "object_patches": ("B", "N", "N", "C"),
    "object_at_centre": ("B", "N", "N", "1"),
    "valid_pixels": ("B", "N", "N"),
    "probe_index": ("B",),
    "canvas": ("B", "N", "N"),
    "light": ("B", "N", "N"),
}
_KINDS = {
    "object_patches": "iufc",
    "object_at_centre": "iufc",
    "canvas": "iufc",
    "valid_pixels": "b",
    "probe_index": "iu",
}
_WANT = {"iufc": "complex numbers", "b": "booleans", "iu": "whole numbers", "iuf": "real numbers"}


def checked_weights(config: ModelConfig, weights: Weights) -> dict[str, NDArray]:
    """`weights` as arrays in canonical order.

    Raises
    ------
    ShapeError
        Names missing or unknown, wrong shapes or dtypes, NaN or infinite values.
    """
    if not isinstance(weights, Mapping):
        raise ShapeError(f"weights: got {type(weights).__name__}, want a mapping of names to arrays")
    shapes = weight_shapes(config)
    if missing := [name for name in shapes if name not in weights]:
        raise ShapeError(f"weights: {_some(missing)} missing")
    if unknown := [str(name) for name in weights if name not in shapes]:
        raise ShapeError(f"weights: {_some(unknown)} unknown to this configuration")
    checked = {}
    for name, shape in shapes.items():
        kinds = "iufc" if name == PROBE else "iuf"
        array = as_array(f"weights[{name!r}]", weights[name], kinds, _WANT[kinds])
        if array.shape != shape:
            raise ShapeError(f"weights[{name!r}]: got shape {array.shape}, want {shape}")
        require_finite(f"weights[{name!r}]", array)
        checked[name] = array
    return checked


def checked_batch(config: ModelConfig, batch: Batch, *, double: bool = False) -> Batch:
    """`batch` with contiguous arrays.

    Parameters
    ----------
    config : ModelConfig
        Gives N, C and the number of probes.
    batch : Batch
    double : bool
        Computed in float64, which takes larger numbers.

    Raises
    ------
    ConfigError
        A canvas of 'unrolled' that is too small for one view.
    ShapeError
        No groups; wrong shapes, dtypes or numbers of probes; values that are not finite or whose squares would not be.
    """
    _require_rim(config)
    if not isinstance(batch, Batch):
        raise ShapeError(f"batch: got {type(batch).__name__}, want a Batch")
    count = len(as_array("diffraction_amplitude", batch.diffraction_amplitude, "iuf", "real numbers"))
    if count == 0:
        raise ShapeError("batch: got no groups, want at least one")
    sizes = {"B": count, "N": config.N, "C": config.group_size, "1": 1, "2": 2}
    arrays: dict[str, NDArray] = {}
    for name, axes in _AXES.items():
        value = getattr(batch, name)
        if value is None:
            continue
        kinds = _KINDS.get(name, "iuf")
        array = as_array(name, value, kinds, _WANT[kinds])
        require_shape(name, array, [sizes[axis] for axis in axes], axes)
        require_finite(name, array)
        # frameworks take no negative strides
        arrays[name] = np.ascontiguousarray(array)
    _require_computable(config, batch, arrays, LARGEST_FED_DOUBLE if double else LARGEST_FED)
    return dataclasses.replace(batch, **arrays)  # type: ignore[arg-type]


def _require_rim(config: ModelConfig) -> None:
    """Whole trainings and reconstructions make room for their positions by themselves (`canvas.room_for`)."""
    rim = config.canvas_size - config.N
    if config.architecture == "unrolled" and rim < constants.CANVAS_RIM:
        wanted = config.max_position_jitter + math.ceil(constants.CANVAS_RIM) - rim
        raise ConfigError(
            f"max_position_jitter: got {config.max_position_jitter}, a canvas of {config.canvas_size} pixels for "
            f"views of {config.N}, want at least {wanted}"
        )


def _require_computable(
    config: ModelConfig, batch: Batch, arrays: Mapping[str, NDArray], largest: float
) -> None:
    scale: Any = batch.intensity_scale
    if not isinstance(scale, int | float | np.number) or not 0 < float(scale) < np.inf:
        raise ShapeError(f"intensity_scale: got {scale!r}, want a number > 0")
    brightest = float(np.abs(arrays["diffraction_amplitude"]).max(initial=0.0))
    if not brightest * float(scale) <= largest:
        raise ShapeError(
            f"diffraction_amplitude: got up to {brightest:g}, times intensity_scale {scale:g}; want less than "
            f"{largest:g}, whose square can be computed; scale the patterns"
        )
    farthest = float(np.abs(arrays["relative_offsets_px"]).max(initial=0.0))
    if farthest > LARGEST_OFFSET_PX:
        raise ShapeError(
            f"relative_offsets_px: got up to {farthest:g}, want at most {LARGEST_OFFSET_PX:g} pixels"
        )
    numbers = arrays.get("probe_index")
    if numbers is not None and not 0 <= numbers.min() <= numbers.max() < config.n_probes:
        raise ShapeError(
            f"probe_index: got {numbers.min()} .. {numbers.max()}, want numbers in 0 .. {config.n_probes - 1}"
        )


def checked_operands(
    config: ModelConfig | TrainingConfig, weights: Weights, batches: Sequence[Batch], *, double: bool = False
) -> tuple[dict[str, NDArray], list[Batch]]:
    """`checked_weights` and a `checked_batch` of each of `batches`.

    Raises
    ------
    ConfigError, ShapeError
    """
    if not isinstance(config, ModelConfig | TrainingConfig):
        raise ConfigError(f"config: got {type(config).__name__}, want a ModelConfig or a TrainingConfig")
    raise_if_any(type(config).__name__, config.problems())
    model = config.model if isinstance(config, TrainingConfig) else config
    checked = checked_weights(model, weights)
    return checked, [checked_batch(model, batch, double=double) for batch in batches]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
