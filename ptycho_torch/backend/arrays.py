"""NumPy channels-last to tensors and back: the only file here that moves axes."""

from collections.abc import Callable, Hashable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.archive.lightning_checkpoint import canonical_weight
from ptycho_backends.reference.initial_weights import PROBE
from ptycho_backends.values import Batch

TensorBatch = dict[str, Tensor]
"""`diffraction` (B, C, N, N), `offsets` (B, C, 2), and if asked for `patches_truth`, `object_truth`. Where not all
pixels are valid, `valid_pixels` (B, N, N) bool; where there are several probes, `probe_index` (B,) int32."""

SHARD_SIZES = "shard_sizes"
"""In a `TensorBatch` that is a process's shard of a larger one: the groups that it counts for, and those of all."""


_constants: dict[Hashable, Tensor] = {}


def constant(array: Callable[[], NDArray], key: tuple[Hashable, ...], like: Tensor) -> Tensor:
    """`array()` in the precision and on the device of `like`, made once for each `key`; not to be changed.

    So no step builds a constant anew, or waits until a device has it.
    """
    key = (*key, like.dtype, like.device)
    if key not in _constants:
        # also of use in training if inference asks for it first
        with torch.inference_mode(False):
            _constants[key] = torch.as_tensor(array(), dtype=like.dtype, device=like.device)
    return _constants[key]


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """The complex type whose parts are `dtype`."""
    return torch.complex128 if dtype == torch.float64 else torch.complex64


def tensors_from_weights(weights: Mapping[str, NDArray], dtype: torch.dtype) -> dict[str, Tensor]:
    """Canonical weights as tensors of `dtype`: kernels (out, in, 3, 3), channels last in memory; the probe
    (..., N, N, 2) real."""
    tensors = {}
    for name, value in weights.items():
        array = np.asarray(value)
        if name == PROBE:
            array = np.stack([array.real, array.imag], axis=-1)
        elif array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        # a copy, because training changes it in place
        tensor = torch.tensor(np.ascontiguousarray(array), device="cpu").to(dtype).reshape(array.shape)
        if array.ndim == 4 and name != PROBE:
            # convolutions keep their results in the layout of their kernels
            # (a clone, because strides of a single channel would leave the layout open)
            tensor = tensor.clone(memory_format=torch.channels_last)
        tensors[name] = tensor
    return tensors


def weights_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, NDArray]:
    """Inverse of `tensors_from_weights`, in the precision of the tensors."""
    weights = {}
    for name, tensor in tensors.items():
        weights[name] = canonical_weight(name, tensor.detach().cpu().numpy())
    return weights


def arrays_from_batch(batch: Batch) -> dict[str, NDArray]:
    """The arrays of `batch` by the names and axes of `TensorBatch`."""
    arrays: dict[str, NDArray] = {
        "diffraction": np.moveaxis(batch.diffraction_amplitude, -1, 1),
        "offsets": np.moveaxis(batch.relative_offsets_px[:, 0], -1, 1),
    }
    if batch.object_patches is not None:
        arrays["patches_truth"] = np.moveaxis(batch.object_patches, -1, 1)
    if batch.object_at_centre is not None:
        arrays["object_truth"] = batch.object_at_centre[..., 0]
    if batch.valid_pixels is not None:
        arrays["valid_pixels"] = batch.valid_pixels
    if batch.probe_index is not None:
        arrays["probe_index"] = batch.probe_index
    if batch.canvas is not None and batch.light is not None:
        arrays |= {"canvas": batch.canvas, "light": batch.light}
    return arrays


def tensors_from_batch(batch: Batch) -> TensorBatch:
    """The arrays of `batch` as tensors, in the precision they have; read-only memory is copied."""
    return {
        name: torch.from_numpy(array if array.flags.writeable else array.copy())
        for name, array in arrays_from_batch(batch).items()
    }


def in_precision(batch: Mapping[str, Tensor], dtype: torch.dtype) -> TensorBatch:
    """`batch` with real tensors as `dtype`, complex ones as the complex type of it; masks and numbers stay."""
    wanted = {True: complex_dtype(dtype), False: dtype}
    return {
        name: tensor.to(wanted[tensor.is_complex()])
        if tensor.is_complex() or tensor.is_floating_point()
        else tensor
        for name, tensor in batch.items()
    }


def shard_sizes(batch: TensorBatch) -> tuple[int, int]:
    """Number of groups that `batch` counts for, and of those in the batches of all processes together."""
    own, everywhere = batch.get(SHARD_SIZES, (len(batch["diffraction"]),) * 2)
    return own, everywhere


def channels_last(tensor: Tensor) -> NDArray:
    """(B, C, N, N) tensor to a (B, N, N, C) array."""
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)
