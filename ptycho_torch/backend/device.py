"""Device and precision of a computation on PyTorch."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError


def compute_dtype(execution: ExecutionConfig) -> torch.dtype:
    """float64 for '64-true', else float32 (mixed precision keeps its weights there)."""
    return torch.float64 if execution.precision == "64-true" else torch.float32


def device(execution: ExecutionConfig) -> torch.device:
    """The device that `execution.accelerator` names.

    Raises
    ------
    ConfigError
        If this machine does not have it.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    wanted = execution.accelerator
    if wanted == "auto":
        # not mps: it has no float64 and few complex operations
        return torch.device("cuda" if has_cuda else "cpu")
    if wanted in ("gpu", "cuda") and has_cuda:
        return torch.device("cuda")
    if wanted in ("gpu", "mps") and has_mps:
        return torch.device("mps")
    if wanted == "cpu":
        return torch.device("cpu")
    raise ConfigError(f"accelerator: got {wanted!r}, but this machine has none; use 'cpu' or 'auto'")


def on_device(tensor: Tensor, where: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor`, of the host, on `where`; a GPU gets it without a wait for the work that it still has to do."""
    tensor = tensor if dtype is None else tensor.to(dtype)
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor.to(where)


def array_later(tensor: Tensor) -> Callable[[], NDArray]:
    """Gives `tensor` as an array; a GPU copies it meanwhile, and only the call waits for that."""
    if tensor.device.type != "cuda":
        return lambda: tensor.cpu().numpy()
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def array() -> NDArray:
        copied.synchronize()
        return there.numpy()

    return array


@contextlib.contextmanager
def computing(execution: ExecutionConfig) -> Iterator[None]:
    """Compute without TF32, or with it in convolutions alone if `execution` allows it; restores the settings.

    TF32 has ten bits: in the physics, a translation by a fraction of a pixel would be off by 1e-3.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32, products.allow_tf32 = execution.allow_tf32, False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextlib.contextmanager
def autocast(execution: ExecutionConfig, where: torch.device) -> Iterator[None]:
    """Compute the network in half precision on `where` if `execution` asks for mixed precision."""
    kinds = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    if execution.precision not in kinds:
        yield
        return
    with torch.autocast(where.type, dtype=kinds[execution.precision]):
        yield
