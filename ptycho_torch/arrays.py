"""NumPy channels-last to tensors and back: the only file here that moves axes."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.initial_weights import PROBE
from ptycho_backends.lightning_checkpoint import canonical_weight
from ptycho_backends.protocol import Batch

TensorBatch = dict[str, Tensor]
"""`diffraction` (B, C, N, N), `offsets` (B, C, 2), and if asked for `patches_truth`, `object_truth`."""

COUNTS = "counts"
"""In a `TensorBatch` that is one process's share: how many of its groups count, and those of the whole batch."""


def as_tensor(array: NDArray) -> Tensor:
    """`array` without a copy where that is possible; read-only memory is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def tensors_from_weights(weights: Mapping[str, NDArray], dtype: torch.dtype) -> dict[str, Tensor]:
    """Canonical weights as tensors of `dtype`: kernels (out, in, 3, 3), the probe (N, N, 2) real."""
    tensors = {}
    for name, value in weights.items():
        array = np.asarray(value)
        if name == PROBE:
            array = np.stack([array.real, array.imag], axis=-1)
        elif array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        # a copy, because training changes it in place
        tensors[name] = torch.tensor(np.ascontiguousarray(array)).to(dtype)
        if array.ndim == 0:
            tensors[name] = tensors[name].reshape(())
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
    own, everywhere = batch.get(COUNTS, (len(batch["diffraction"]),) * 2)
    return own, everywhere


def channels_last(tensor: Tensor) -> NDArray:
    """(B, C, N, N) tensor to a (B, N, N, C) array."""
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)
