"""`TensorFlowBackend`: the `ptycho_backends.protocol.Backend` protocol on TensorFlow."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.backend_base import BackendBase
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.refinement.plan import RefinementPlan
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.tensorflow import export, inference, refinement, training
from ptycho_backends.tensorflow.data import PtychoData
from ptycho_backends.tensorflow.device import device
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.values import (
    Batch,
    EpochCallback,
    PassCallback,
    Prediction,
    Reconstruction,
    TrainedModel,
    Weights,
)


class TensorFlowBackend(BackendBase):
    """Trains and reconstructs with TensorFlow; `BackendBase` documents the methods."""

    name = "tensorflow"
    framework_formats = frozenset(BUILT_IN["tensorflow"].export_formats)

    def check_execution(self, execution: ExecutionConfig) -> None:
        # refuses a precision that TensorFlow lacks, and a device that is not there
        device(execution)

    def survives_fork(self) -> bool:
        return False

    def batches(self, plan: TrainingPlan, execution: ExecutionConfig) -> PtychoData:
        return PtychoData(plan, execution)

    def train_plan(
        self,
        plan: TrainingPlan,
        execution: ExecutionConfig,
        output_dir: str | os.PathLike[str] | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        return training.train(plan, execution=execution, output_dir=output_dir, on_epoch=on_epoch)

    def object_patches(
        self, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
    ) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
        return inference.object_patches(model, groups, execution)

    def predict_groups(
        self, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
    ) -> Prediction:
        return inference.predict(model, groups, execution)

    def infer_groups(
        self,
        model: TrainedModel,
        groups: GroupedData,
        execution: ExecutionConfig,
        stitching_size: int,
        agree_on_phase: bool = False,
    ) -> Reconstruction:
        return inference.infer(model, groups, execution, stitching_size, agree_on_phase)

    def refine_plan(
        self,
        plan: RefinementPlan,
        execution: ExecutionConfig,
        output_dir: str | os.PathLike[str] | None = None,
        on_pass: PassCallback | None = None,
    ) -> Reconstruction:
        return refinement.refine(plan, execution, output_dir, on_pass)

    def export_model(
        self, model: TrainedModel, path: str | os.PathLike[str], format: str, licence: str
    ) -> Path:
        return export.export_model(model, path, format, licence)

    def forward(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> Prediction:
        weights, (batch,), execution = self.checked_operands(config, weights, [batch], execution)
        return inference.forward(config, weights, batch, execution)

    def loss(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, float]:
        weights, (batch,), execution = self.checked_operands(config, weights, [batch], execution)
        return inference.loss(config, weights, batch, execution)

    def gradients(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        weights, (batch,), execution = self.checked_operands(config, weights, [batch], execution)
        return inference.gradients(config, weights, batch, execution)

    def train_step(
        self,
        config: TrainingConfig,
        weights: Weights,
        batches: Sequence[Batch],
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        weights, batches, execution = self.checked_operands(config, weights, batches, execution)
        return inference.train_step(config, weights, batches, execution)
