"""A backend that computes on another device than the processor, whatever the measurements ask for."""

import dataclasses
import functools
from typing import Any

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.protocol import Backend

DEVICES = ("cpu", "gpu", "cuda", "mps", "auto")
"""Values of `ExecutionConfig.accelerator`, the one that proves most first."""

COMPUTES = frozenset(
    {"train", "predict", "infer", "refine", "forward", "loss", "gradients", "train_step", "prepare"}
)


class OnDevice:
    """`backend` with `accelerator` and `allow_tf32` in the place of those that it is asked for.

    Everything else is the backend's own.
    """

    def __init__(self, backend: Backend, accelerator: str, *, allow_tf32: bool = False) -> None:
        self._backend, self._accelerator, self._allow_tf32 = backend, accelerator, allow_tf32

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if name not in COMPUTES:
            return value

        @functools.wraps(value)
        def there(*arguments: Any, execution: ExecutionConfig | None = None, **options: Any) -> Any:
            asked = ExecutionConfig() if execution is None else execution
            run = dataclasses.replace(asked, accelerator=self._accelerator, allow_tf32=self._allow_tf32)
            return value(*arguments, execution=run, **options)

        return there


def on_device(backend: Backend, accelerator: str, *, allow_tf32: bool = False) -> Backend:
    """`backend` itself for the processor, else an `OnDevice`."""
    if accelerator == "cpu":
        return backend
    there: Any = OnDevice(backend, accelerator, allow_tf32=allow_tf32)
    return there
