"""Training and reconstruction under the names of the legacy port; always with PyTorch."""

import os
from typing import Any

from ptycho_backends import constants
from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.legacy import components, model_manager
from ptycho_backends.legacy.raw_data import RawData


def run_cdi_example_torch(
    train_data: RawData,
    test_data: RawData | None,
    config: TrainingConfig,
    M: int = constants.DEFAULT_STITCHING_SIZE,
    *,
    execution: ExecutionConfig | None = None,
) -> components.Outcome:
    """`components.run_cdi_example` on PyTorch, regardless of `PTYCHO_BACKEND`."""
    return components.run_cdi_example(train_data, test_data, config, M, backend="torch", execution=execution)


def train_cdi_model_torch(
    train_data: RawData,
    test_data: RawData | None,
    config: TrainingConfig,
    *,
    execution: ExecutionConfig | None = None,
) -> dict[str, Any]:
    """`components.train_cdi_model` on PyTorch, regardless of `PTYCHO_BACKEND`."""
    return components.train_cdi_model(train_data, test_data, config, backend="torch", execution=execution)


def load_inference_bundle_torch(
    bundle_dir: str | os.PathLike[str],
) -> tuple[model_manager.InferenceModel, TrainingConfig]:
    """`components.load_inference_bundle` on PyTorch, regardless of `PTYCHO_BACKEND`."""
    return components.load_inference_bundle(bundle_dir, backend="torch")
