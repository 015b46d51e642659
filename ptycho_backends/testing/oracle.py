"""A stand-in for a backend, in tests of what is built on backends: it looks the object up."""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from ptycho_backends import constants
from ptycho_backends.archive import model_file as archive
from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.reference.stitching import stitch
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.plan import complete_config, inference_groups, plan_training
from ptycho_backends.values import EpochCallback, EpochRecord, Reconstruction, TrainedModel


class OracleBackend:
    """Keeps its first weights however long it trains, and reconstructs the scan's object guess.

    Not a whole `Backend`: only what the workflows call. Its losses are 10 / epoch and 11 / epoch.

    Attributes
    ----------
    interrupt_after : int, optional
        Epoch after which training ends as if the user had pressed Ctrl-C.
    """

    name = "oracle"
    interrupt_after: ClassVar[int | None] = None

    def complete_config(
        self, config: TrainingConfig, data: Scan | GroupedData, execution: ExecutionConfig | None = None
    ) -> TrainingConfig:
        return complete_config(config, data, self.name, execution)

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
        plan = plan_training(data, config, self.name, execution, resume_from)
        history = list(plan.start.history)
        for epoch in range(len(history) + 1, plan.config.nepochs + 1):
            history.append(EpochRecord(epoch, 10.0 / epoch, 11.0 / epoch, learning_rate=1e-3, seconds=0.0))
            if on_epoch is not None:
                on_epoch(history[-1])
            if epoch == self.interrupt_after:
                break
        return TrainedModel(
            plan.config,
            plan.start.weights,
            plan.start.intensity_scale,
            tuple(history),
            self.name,
            interrupted=len(history) < plan.config.nepochs,
        )

    def infer(
        self,
        model: TrainedModel,
        data: Scan | GroupedData,
        *,
        execution: ExecutionConfig | None = None,
        stitching_size: int = constants.DEFAULT_STITCHING_SIZE,
    ) -> Reconstruction:
        groups = inference_groups(model, data)
        centres = groups.group_centres_px[:, 0, :, 0]
        truth = groups.scan.object_guess
        if truth is None:
            patches = np.ones((len(groups), groups.N, groups.N), np.complex64)
        else:
            patches = extract_patches(truth, centres, groups.N)
        image, coverage, origin = stitch(patches[..., None], groups.group_centres_px, stitching_size)
        return Reconstruction(image, coverage, origin, centres, backend=self.name)

    def save(self, model: TrainedModel, path: str | os.PathLike[str]) -> Path:
        return archive.save_archive(model, path)

    def load(self, path: str | os.PathLike[str]) -> TrainedModel:
        return archive.load_archive(path)
