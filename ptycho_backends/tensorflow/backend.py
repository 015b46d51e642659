"""`TensorFlowBackend`: the `ptycho_backends.protocol.Backend` protocol on TensorFlow."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.archive import model_file as archive
from ptycho_backends.archive.genuine_export import write_genuine_archive
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig, validate
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import Scan
from ptycho_backends.tensorflow import inference, training
from ptycho_backends.tensorflow.data import PtychoData
from ptycho_backends.tensorflow.device import device
from ptycho_backends.training.plan import complete_config, inference_groups, plan_training
from ptycho_backends.values import Batch, EpochCallback, Prediction, Reconstruction, TrainedModel, Weights


class TensorFlowBackend:
    """Trains and reconstructs with TensorFlow; see the protocol for what each method promises."""

    name = "tensorflow"
    export_formats = frozenset({"ptychopinn"})

    def complete_config(
        self, config: TrainingConfig, data: Scan | GroupedData, execution: ExecutionConfig | None = None
    ) -> TrainingConfig:
        return complete_config(config, data, self.name, _checked(execution))

    def prepare(
        self, data: GroupedData, config: TrainingConfig, *, execution: ExecutionConfig | None = None
    ) -> PtychoData:
        """`tf.data.Dataset`s that gather batches from the scan, one for each epoch."""
        execution = _checked(execution)
        return PtychoData(plan_training(data, config, self.name, execution), execution)

    def train(
        self,
        data: Scan | GroupedData,
        config: TrainingConfig,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        resume_from: str | os.PathLike[str] | TrainedModel | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        execution = _checked(execution)
        if resume_from is not None and not isinstance(resume_from, TrainedModel):
            resume_from = self.load(resume_from)
        plan = plan_training(data, config, self.name, execution, resume_from)
        return training.train(plan, execution=execution, output_dir=output_dir, on_epoch=on_epoch)

    def predict(
        self, model: TrainedModel, data: GroupedData, *, execution: ExecutionConfig | None = None
    ) -> Prediction:
        return inference.predict(model, inference_groups(model, data), _checked(execution))

    def infer(
        self,
        model: TrainedModel,
        data: Scan | GroupedData,
        *,
        execution: ExecutionConfig | None = None,
        stitching_size: int = constants.DEFAULT_STITCHING_SIZE,
    ) -> Reconstruction:
        return inference.infer(model, inference_groups(model, data), _checked(execution), stitching_size)

    def save(self, model: TrainedModel, path: str | os.PathLike[str]) -> Path:
        """Write the shared archive, without the optimiser's state; that is in the checkpoints."""
        return archive.save_archive(dataclasses.replace(model, training_state=None), path)

    def load(self, path: str | os.PathLike[str]) -> TrainedModel:
        """Read an archive, whichever backend wrote it, or a checkpoint (`.ckpt`) of PyTorch."""
        return archive.load_archive(path)

    def export(self, model: TrainedModel, path: str | os.PathLike[str], format: str) -> Path:
        if format not in self.export_formats:
            known = ", ".join(sorted(self.export_formats))
            raise ValueError(f"format: got {format!r}, want one of: {known}")
        return write_genuine_archive(model, path)

    def forward(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> Prediction:
        return inference.forward(config, weights, batch, _checked(execution))

    def loss(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, float]:
        return inference.loss(config, weights, batch, _checked(execution))

    def gradients(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        return inference.gradients(config, weights, batch, _checked(execution))

    def train_step(
        self,
        config: TrainingConfig,
        weights: Weights,
        batches: Sequence[Batch],
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        return inference.train_step(config, weights, batches, _checked(execution))


def _checked(execution: ExecutionConfig | None) -> ExecutionConfig:
    """`execution`, which is possible on this framework and this machine."""
    execution = ExecutionConfig() if execution is None else execution
    validate(execution)
    device(execution)
    return execution
