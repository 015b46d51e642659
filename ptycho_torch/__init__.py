"""PyTorch and Lightning for `ptycho_backends`, and the names that Ptychodus and the port's callers import.

`backend/` is the implementation, file by file that of `ptycho_backends.tensorflow`; `api/` and the modules
beside it are the door through which Ptychodus comes.
"""

from typing import Any

from ptycho_backends.images.matplotlib_import import import_matplotlib

# Modules under the names that they had before: `moved/physics.py` is `ptycho_torch.physics`.
__path__.append(f"{__path__[0]}/moved")

import_matplotlib()  # first: Lightning imports torchmetrics, which imports matplotlib

_LAZY = ("run_cdi_example_torch", "train_cdi_model_torch")
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    """The two workflows, imported on first use: Ptychodus imports this package in a process without PyTorch."""
    if name in _LAZY:
        from ptycho_torch.workflows import components

        return getattr(components, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
