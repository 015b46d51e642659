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
    from ptycho_backends.archive import load_archive, save_archive
    from ptycho_backends.config import (
        ExecutionConfig,
        FinetuneStage,
        InferenceConfig,
        ModelConfig,
        PyTorchExecutionConfig,
        TrainingConfig,
    )
    from ptycho_backends.config_file import load_config, save_config
    from ptycho_backends.errors import PtychoBackendsError
    from ptycho_backends.grouping import GroupedData, group_scan
    from ptycho_backends.metrics import compare
    from ptycho_backends.product import Product, load_product, save_product
    from ptycho_backends.product_scan import product_from_reconstruction, product_from_scan, scan_from_product
    from ptycho_backends.protocol import Backend, Prediction, Reconstruction, TrainedModel
    from ptycho_backends.registry import backend_names, get_backend
    from ptycho_backends.scan import Scan, load_scan, save_scan
    from ptycho_backends.stored_patterns import open_patterns
    from ptycho_backends.training_data import export_training_data

# Each public name and the module it lives in; a module is imported when one of its names is used, so
# that a program which only asks for `--help` does not wait for SciPy.
_HOMES = {
    "Backend": "protocol",
    "ExecutionConfig": "config",
    "FinetuneStage": "config",
    "GroupedData": "grouping",
    "InferenceConfig": "config",
    "ModelConfig": "config",
    "Prediction": "protocol",
    "Product": "product",
    "PtychoBackendsError": "errors",
    "PyTorchExecutionConfig": "config",
    "Reconstruction": "protocol",
    "Scan": "scan",
    "TrainedModel": "protocol",
    "TrainingConfig": "config",
    "backend_names": "registry",
    "compare": "metrics",
    "export_training_data": "training_data",
    "get_backend": "registry",
    "group_scan": "grouping",
    "load_archive": "archive",
    "load_config": "config_file",
    "load_product": "product",
    "load_scan": "scan",
    "open_patterns": "stored_patterns",
    "product_from_reconstruction": "product_scan",
    "product_from_scan": "product_scan",
    "save_archive": "archive",
    "save_config": "config_file",
    "save_product": "product",
    "save_scan": "scan",
    "scan_from_product": "product_scan",
}

__version__ = "0.1.0"
__all__ = [
    "Backend",
    "ExecutionConfig",
    "FinetuneStage",
    "GroupedData",
    "InferenceConfig",
    "ModelConfig",
    "Prediction",
    "Product",
    "PtychoBackendsError",
    "PyTorchExecutionConfig",
    "Reconstruction",
    "Scan",
    "TrainedModel",
    "TrainingConfig",
    "backend_names",
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
