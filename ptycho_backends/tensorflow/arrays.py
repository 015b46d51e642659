"""NumPy arrays to tensors and back: the only file here that moves axes.

TensorFlow's convolutions are channels-last as the public arrays are, so only `physics` needs them moved.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.initial_weights import PROBE
from ptycho_backends.values import Batch

TensorBatch = dict[str, tf.Tensor]
"""`diffraction` (B, N, N, C), `offsets` (B, C, 2), and if asked for `patches_truth` (B, C, N, N),
`object_truth` (B, N, N). Where not all pixels are valid, `valid_pixels` (B, N, N) bool; where there are several probes,
`probe_index` (B,) int32."""

SHARD_SIZES = "shard_sizes"
"""In a `TensorBatch` that is a process's shard of a larger one: the groups that it counts for, and those of all."""


def complex_dtype(dtype: tf.DType) -> tf.DType:
    """The complex type whose parts are `dtype`."""
    return tf.complex128 if dtype == tf.float64 else tf.complex64


def tensors_from_weights(weights: Mapping[str, NDArray], dtype: tf.DType) -> dict[str, tf.Tensor]:
    """Canonical weights as tensors of `dtype`: kernels as they are, the probe (..., N, N, 2) real."""
    tensors = {}
    for name, value in weights.items():
        array = np.asarray(value)
        if name == PROBE:
            array = np.stack([array.real, array.imag], axis=-1)
        tensors[name] = tf.cast(array, dtype)
    return tensors


def weights_from_tensors(tensors: Mapping[str, tf.Tensor]) -> dict[str, NDArray]:
    """Inverse of `tensors_from_weights`, in the precision of the tensors."""
    weights = {}
    for name, tensor in tensors.items():
        # a copy, because training changes a variable in place
        array = np.array(tensor.numpy())
        if name == PROBE:
            # a view, because a sum with i times the imaginary part loses the signs of zeros
            weights[name] = array.view(np.result_type(array.dtype, np.complex64))[..., 0]
        else:
            weights[name] = array
    return weights


def arrays_from_batch(batch: Batch) -> dict[str, NDArray]:
    """The arrays of `batch` by the names and axes of `TensorBatch`."""
    arrays: dict[str, NDArray] = {
        "diffraction": batch.diffraction_amplitude,
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


def batch_signature(
    config: ModelConfig,
    *,
    with_truth: bool,
    masked: bool = False,
    sharded: bool = False,
    parts: bool = False,
) -> dict[str, tf.TensorSpec]:
    """Types of the arrays of a batch, for any number of groups: a short last batch compiles nothing anew.

    `masked` is for groups of which not all pixels are valid, `sharded` for a batch that is a process's shard of a
    larger one, `parts` for parts of canvases in the place of patterns.
    """
    N, C = config.N, config.group_size
    signature = {
        "diffraction": tf.TensorSpec((None, N, N, C), tf.float32),
        "offsets": tf.TensorSpec((None, C, 2), tf.float32),
    }
    if with_truth:
        signature["patches_truth"] = tf.TensorSpec((None, C, N, N), tf.complex64)
        signature["object_truth"] = tf.TensorSpec((None, N, N), tf.complex64)
    if masked:
        signature["valid_pixels"] = tf.TensorSpec((None, N, N), tf.bool)
    if config.n_probes > 1:
        signature["probe_index"] = tf.TensorSpec((None,), tf.int32)
    if parts:
        signature["canvas"] = tf.TensorSpec((None, N, N), tf.complex64)
        signature["light"] = tf.TensorSpec((None, N, N), tf.float32)
    if sharded:
        signature[SHARD_SIZES] = tf.TensorSpec((2,), tf.int32)
    return signature


def tensors_from_batch(batch: Batch) -> TensorBatch:
    """The arrays of `batch` as tensors, in the precision they have."""
    return {name: tf.convert_to_tensor(array) for name, array in arrays_from_batch(batch).items()}


def in_precision(batch: Mapping[str, tf.Tensor], dtype: tf.DType) -> TensorBatch:
    """`batch` with real tensors as `dtype`, complex ones as the complex type of it; masks and numbers stay."""
    wanted = {True: complex_dtype(dtype), False: dtype}
    return {
        name: tf.cast(tensor, wanted[tensor.dtype.is_complex])
        if tensor.dtype.is_complex or tensor.dtype.is_floating
        else tensor
        for name, tensor in batch.items()
    }


def shard_sizes(batch: TensorBatch) -> tuple[tf.Tensor, tf.Tensor]:
    """Number of groups that `batch` counts for, and of those in the batches of all processes together."""
    if SHARD_SIZES not in batch:
        groups = tf.shape(batch["diffraction"])[0]
        return groups, groups
    own, everywhere = tf.unstack(batch[SHARD_SIZES])
    return own, everywhere


def channels_first(tensor: tf.Tensor) -> tf.Tensor:
    """(B, N, N, C) to (B, C, N, N)."""
    return tf.transpose(tensor, (0, 3, 1, 2))


def channels_last(tensor: tf.Tensor) -> NDArray:
    """(B, C, N, N) tensor to a (B, N, N, C) array."""
    return np.moveaxis(tensor.numpy(), 1, -1)
