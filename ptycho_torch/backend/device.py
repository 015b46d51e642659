"""Device and precision of a computation on PyTorch."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.training.host import HeldTogether

# an attribute that type checkers do not see
_MEMORY: Any = torch.utils.deterministic
# cuBLAS is deterministic with a workspace of fixed size
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


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
    wanted, number = execution.device_kind, execution.device_number
    if wanted == "auto":
        # not mps: it has no float64 and few complex operations
        return torch.device("cuda" if has_cuda else "cpu")
    if wanted in ("gpu", "cuda") and has_cuda:
        if number is not None and number >= torch.cuda.device_count():
            raise ConfigError(
                f"accelerator: got {execution.accelerator!r}, but this machine has {torch.cuda.device_count()} of "
                "them, numbered from 0"
            )
        return torch.device("cuda") if number is None else torch.device("cuda", number)
    if wanted in ("gpu", "mps") and has_mps and number is None:
        return torch.device("mps")
    if wanted == "cpu":
        return torch.device("cpu")
    raise ConfigError(
        f"accelerator: got {execution.accelerator!r}, but this machine has none; use 'cpu' or 'auto'"
    )


def require_possible(execution: ExecutionConfig) -> None:
    """Refuse settings that torch would replace, or that this machine lacks the tools for.

    Raises
    ------
    ConfigError
    """
    if execution.device_number is not None:
        device(execution)
    if execution.precision == "16-mixed" and _on_processor(execution):
        # Lightning would take bfloat16 without a word
        raise ConfigError(
            "precision: got '16-mixed', which trains on a GPU alone; use 'bf16-mixed' or '32-true' on a processor"
        )
    if execution.compile_network and (missing := _missing_compiler()):
        raise ConfigError(
            f"compile_network: got True, but there is no C++ compiler ({missing!r}); install one, as with: apt install "
            "g++, or name it in the environment variable CXX, or use compile_network=False"
        )


def _on_processor(execution: ExecutionConfig) -> bool:
    wanted = execution.device_kind
    return wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available())


def _missing_compiler() -> str | None:
    """Name of the compiler that `torch.compile` would call, if it is not there."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = shlex.split(os.environ.get("CXX", "")) or [usual]
    return None if shutil.which(command[0]) else command[0]


def on_device(tensor: Tensor, where: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor`, of the host, on `where`; a GPU gets it without a wait for the work that it still has to do."""
    tensor = tensor if dtype is None else tensor.to(dtype)
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor.to(where)


def array_later(tensor: Tensor) -> Callable[[], NDArray]:
    """Gives `tensor` as an array; a GPU copies it meanwhile, and only the call waits for that."""
    if tensor.device.type != "cuda":
        return lambda: tensor.cpu().numpy()
    there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def array() -> NDArray:
        copied.synchronize()
        return there.numpy()

    return array


@contextlib.contextmanager
def own_defaults() -> Iterator[None]:
    """Let torch and Lightning make new tensors in float32 on the host, whatever the program has made the default.

    A program may have called `torch.set_default_device` or `torch.set_default_dtype`. Tensors of this package name
    their device and type themselves; those that an optimiser or a trainer makes do not.
    """
    # a mode of torch's, which costs each of its functions a little: only where there is another one already; it is
    # the thread's own
    elsewhere = torch.get_default_device().type != "cpu"
    with _float32(), torch.device("cpu") if elsewhere else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _float32_restored() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_float32 = HeldTogether(_float32_restored)


@contextlib.contextmanager
def computing(execution: ExecutionConfig) -> Iterator[None]:
    """Compute without TF32, or with it in convolutions alone if `execution` allows it, with torch's own defaults.

    Restores the settings.
    TF32 has ten bits: in the physics, a translation by a fraction of a pixel would be off by 1e-3.
    """
    with _tf32(execution.allow_tf32), own_defaults(), _current_device(execution):
        yield


def _current_device(execution: ExecutionConfig) -> contextlib.AbstractContextManager[object]:
    """Make the GPU that `execution` names the current one, whose stream events and pinned copies belong to."""
    return (
        contextlib.nullcontext() if execution.device_number is None else torch.cuda.device(device(execution))
    )


@contextlib.contextmanager
def _tf32_restored(allowed: bool) -> Iterator[None]:
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32, products.allow_tf32 = allowed, False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


_tf32 = HeldTogether(_tf32_restored)


@contextlib.contextmanager
def _determinism_restored(wanted: bool) -> Iterator[None]:
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    filled = _MEMORY.fill_uninitialized_memory
    workspace = os.environ.get(_WORKSPACE)
    torch.use_deterministic_algorithms(wanted)
    if wanted:
        torch.backends.cudnn.benchmark = False
        # no memory is read here before it is written; filling it takes a twentieth of a step
        _MEMORY.fill_uninitialized_memory = False
        os.environ[_WORKSPACE] = ":4096:8"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        _MEMORY.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = workspace


determinism = HeldTogether(_determinism_restored)
"""`determinism(wanted)`: torch's switches for the same numbers on every run, and afterwards as they were."""


@contextlib.contextmanager
def autocast(execution: ExecutionConfig, where: torch.device) -> Iterator[None]:
    """Compute the network in half precision on `where` if `execution` asks for mixed precision."""
    kinds = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    if execution.precision not in kinds:
        yield
        return
    with torch.autocast(where.type, dtype=kinds[execution.precision]):
        yield
