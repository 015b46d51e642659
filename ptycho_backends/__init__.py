"""Physics-informed neural networks for ptychography, on PyTorch or TensorFlow, chosen by one word.

>>> from ptycho_backends import get_backend, load_scan, ModelConfig, TrainingConfig
>>> backend = get_backend("torch")
>>> model = backend.train(load_scan("train.npz"), TrainingConfig(model=ModelConfig(N=64), nepochs=20))
>>> image = backend.infer(model, load_scan("test.npz")).object

Importing this package imports no framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptycho_backends.archive.model_file import load_archive, save_archive
    from ptycho_backends.backend_base import BackendBase
    from ptycho_backends.checking import Finding, check_scan
    from ptycho_backends.config import (
        ExecutionConfig,
        FinetuneStage,
        InferenceConfig,
        ModelConfig,
        PyTorchExecutionConfig,
        RefinementConfig,
        TrainingConfig,
    )
    from ptycho_backends.config_file import load_config, save_config
    from ptycho_backends.errors import PtychoBackendsError
    from ptycho_backends.images.metrics import compare
    from ptycho_backends.protocol import Backend
    from ptycho_backends.registry import backend_names, get_backend
    from ptycho_backends.scans.grouping import GroupedData, group_scan
    from ptycho_backends.scans.product import Product, load_product, save_product
    from ptycho_backends.scans.product_scan import (
        product_from_reconstruction,
        product_from_scan,
        scan_from_product,
    )
    from ptycho_backends.scans.scan import Scan
    from ptycho_backends.scans.scan_files import export_training_data, load_scan, open_patterns, save_scan
    from ptycho_backends.values import Prediction, Reconstruction, TrainedModel

# Each public name and the module it lives in; a module is imported when one of its names is used, so
# that a program which only asks for `--help` does not wait for SciPy.
_HOMES = {
    "Backend": "protocol",
    "BackendBase": "backend_base",
    "ExecutionConfig": "config",
    "Finding": "checking",
    "FinetuneStage": "config",
    "GroupedData": "scans.grouping",
    "InferenceConfig": "config",
    "ModelConfig": "config",
    "Prediction": "values",
    "Product": "scans.product",
    "PtychoBackendsError": "errors",
    "PyTorchExecutionConfig": "config",
    "Reconstruction": "values",
    "RefinementConfig": "config",
    "Scan": "scans.scan",
    "TrainedModel": "values",
    "TrainingConfig": "config",
    "backend_names": "registry",
    "check_scan": "checking",
    "compare": "images.metrics",
    "export_training_data": "scans.scan_files",
    "get_backend": "registry",
    "group_scan": "scans.grouping",
    "load_archive": "archive",
    "load_config": "config_file",
    "load_product": "scans.product",
    "load_scan": "scans.scan_files",
    "open_patterns": "scans.scan_files",
    "product_from_reconstruction": "scans.product_scan",
    "product_from_scan": "scans.product_scan",
    "save_archive": "archive",
    "save_config": "config_file",
    "save_product": "scans.product",
    "save_scan": "scans.scan_files",
    "scan_from_product": "scans.product_scan",
}

# Modules under the names that they had before: `legacy/moved/simulate.py` is `ptycho_backends.simulate`.
__path__.append(f"{__path__[0]}/legacy/moved")

__version__ = "0.1.0"
__all__ = [
    "Backend",
    "BackendBase",
    "ExecutionConfig",
    "Finding",
    "FinetuneStage",
    "GroupedData",
    "InferenceConfig",
    "ModelConfig",
    "Prediction",
    "Product",
    "PtychoBackendsError",
    "PyTorchExecutionConfig",
    "Reconstruction",
    "RefinementConfig",
    "Scan",
    "TrainedModel",
    "TrainingConfig",
    "backend_names",
    "check_scan",
    "compare",
    "export_training_data",
    "get_backend",
    "group_scan",
    "load_archive",
    "load_config",
    "load_product",
    "load_scan",
    "open_patterns",
    "product_from_reconstruction",
    "product_from_scan",
    "save_archive",
    "save_config",
    "save_product",
    "save_scan",
    "scan_from_product",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
