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
"""`diffraction` (B, C, N, N), `offsets` (B, C, 2), and if asked for `patches_truth`, `object_truth`."""

SHARD_SIZES = "counts"
"""In a `TensorBatch` that is one process's share: how many of its groups count, and those of the whole batch."""


_constants: dict[Hashable, Tensor] = {}


def constant(array: Callable[[], NDArray], key: tuple[Hashable, ...], like: Tensor) -> Tensor:
    """`array()` in the precision and on the device of `like`, made once for each `key`; not to be changed.

    So no step builds what never changes, or waits until a device has it.
    """
    key = (*key, like.dtype, like.device)
    if key not in _constants:
        # also of use in training if inference asks for it first
        with torch.inference_mode(False):
            _constants[key] = torch.as_tensor(array(), dtype=like.dtype, device=like.device)
    return _constants[key]


def as_tensor(array: NDArray) -> Tensor:
    """`array` without a copy where that is possible; read-only memory is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def tensors_from_weights(weights: Mapping[str, NDArray], dtype: torch.dtype) -> dict[str, Tensor]:
    """Canonical weights as tensors of `dtype`: kernels (out, in, 3, 3), channels last in memory; the probe
    (N, N, 2) real."""
    tensors = {}
    for name, value in weights.items():
        array = np.asarray(value)
        if name == PROBE:
            array = np.stack([array.real, array.imag], axis=-1)
        elif array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        # a copy, because training changes it in place
        tensor = torch.tensor(np.ascontiguousarray(array)).to(dtype).reshape(array.shape)
        if array.ndim == 4:
            # convolutions keep all that passes between them in the layout of their kernels
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


def tensors_from_batch(batch: Batch) -> TensorBatch:
    """The arrays of `batch` with channels before `[y, x]`."""
    tensors = {
        "diffraction": as_tensor(np.moveaxis(batch.diffraction_amplitude, -1, 1)),
        "offsets": as_tensor(np.moveaxis(batch.relative_offsets_px[:, 0], -1, 1)),
    }
    if batch.object_patches is not None:
        tensors["patches_truth"] = as_tensor(np.moveaxis(batch.object_patches, -1, 1))
    if batch.object_at_centre is not None:
        tensors["object_truth"] = as_tensor(batch.object_at_centre[..., 0])
    return tensors


def counts(batch: TensorBatch) -> tuple[int, int]:
    """How many groups of `batch` count, and how many all processes have together."""
    own, everywhere = batch.get(SHARD_SIZES, (len(batch["diffraction"]),) * 2)
    return own, everywhere


def channels_last(tensor: Tensor) -> NDArray:
    """(B, C, N, N) tensor to a (B, N, N, C) array."""
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)
