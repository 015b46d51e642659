"""`TorchBackend`: the `ptycho_backends.protocol.Backend` protocol on PyTorch and Lightning."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_backends.backend_base import BackendBase
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.refinement.plan import RefinementPlan
from ptycho_backends.scans.grouping import GroupedData
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
from ptycho_torch.backend import export, inference, refinement
from ptycho_torch.backend.device import require_possible

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from ptycho_torch.backend.data import PtychoDataModule


class TorchBackend(BackendBase):
    """Trains with Lightning and reconstructs with PyTorch; `BackendBase` documents the methods.

    Only training needs Lightning, which takes seconds to import, so it is imported there.

    Parameters
    ----------
    callbacks, loggers : sequence of Lightning's, optional
        Take part in every training, beside the library's own.
    data : callable, optional
        Makes the data module of a training from plan, execution and processes: a class derived from
        `PtychoDataModule`.
    """

    name = "torch"
    framework_formats = frozenset(BUILT_IN["torch"].export_formats)

    def __init__(
        self,
        *,
        callbacks: "Sequence[Callback]" = (),
        loggers: "Sequence[Logger]" = (),
        data: Callable[..., Any] | None = None,
    ) -> None:
        self._added: dict[str, Any] = {"callbacks": tuple(callbacks), "loggers": tuple(loggers)}
        if data is not None:
            self._added["data"] = data

    def check_execution(self, execution: ExecutionConfig) -> None:
        require_possible(execution)

    def survives_fork(self) -> bool:
        # one thread waits for no other
        return torch.get_num_threads() == 1

    def batches(self, plan: TrainingPlan, execution: ExecutionConfig) -> "PtychoDataModule":
        from ptycho_torch.backend.data import PtychoDataModule

        return PtychoDataModule(plan, execution)

    def train_plan(
        self,
        plan: TrainingPlan,
        execution: ExecutionConfig,
        output_dir: str | os.PathLike[str] | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        from ptycho_torch.backend import training

        extensions = training.Extensions(**self._added)
        return training.train_extended(plan, extensions, execution, output_dir, on_epoch)

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
