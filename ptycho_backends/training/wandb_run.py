"""Runs in Weights & Biases: parameters at the start, metrics of every epoch, the archive at the end.

`WANDB_MODE=offline` writes into the folder of the run alone; `WANDB_PROJECT` and `WANDB_ENTITY` name the place.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.config import ExecutionConfig, TrainingConfig, config_to_plain
from ptycho_backends.files.output import output_directory
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.training.epochs import metrics_of
from ptycho_backends.training.loggers import EXPERIMENT, FOLDER
from ptycho_backends.values import EpochRecord, TrainedModel

PICTURE, MODEL = "image", "model"


class WandbRun:
    """A run of its own, beside any other of the process: a `tracking.Tracker`."""

    def __init__(self, config: TrainingConfig, execution: ExecutionConfig, folder: Path) -> None:
        self._wandb = import_module("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or EXPERIMENT,
            name=folder.resolve().name,
            dir=str(output_directory(folder / FOLDER)),
            config={type(part).__name__: config_to_plain(part) for part in (config, execution)},
            # the active run of the program stays what it is
            reinit="create_new",
            # the terminal is the display's
            settings=self._wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )
        self._logged = 0

    def log(self, history: Sequence[EpochRecord]) -> None:
        """As `Tracker.log`."""
        for record in history[self._logged :]:
            self._run.log(metrics_of(record), step=record.epoch)
        self._logged = len(history)

    def show(self, picture: Path, epoch: int) -> None:
        """As `Tracker.show`."""
        self._run.log({PICTURE: self._wandb.Image(str(picture))}, step=epoch)

    def end(self, status: str, model: TrainedModel | None) -> None:
        """As `Tracker.end`; the archive is an artifact of the type 'model'."""
        if model is not None:
            self.log(model.history)
            artifact = self._wandb.Artifact(f"{MODEL}-{self._run.id}", type=MODEL)
            with tempfile.TemporaryDirectory() as place:
                model = dataclasses.replace(model, training_state=None)
                artifact.add_file(str(save_archive(model, Path(place) / ARCHIVE_NAME)))
                self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
