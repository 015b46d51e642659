"""Metrics and pictures for TensorBoard, by the package `tensorboard` alone: no framework is imported."""

import socket
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ptycho_backends.files.output import output_directory
from ptycho_backends.training.epochs import metrics_of
from ptycho_backends.training.loggers import FOLDER
from ptycho_backends.values import EpochRecord, TrainedModel


class TensorBoardLog:
    """An event file in `logs/`: a `tracking.Tracker`; `tensorboard --logdir FOLDER` shows it."""

    def __init__(self, folder: Path) -> None:
        records = import_module("tensorboard.summary.writer.record_writer")
        self._events = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries = import_module("tensorboard.compat.proto.summary_pb2")
        logs = output_directory(folder / FOLDER)
        # a name of the form that TensorBoard looks for; the second alone is not unique
        name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{socket.gethostname()}"
        self._writer = records.RecordWriter((logs / name).open("wb"))
        self._logged = 0
        self._write(file_version="brain.Event:2")

    def log(self, history: Sequence[EpochRecord]) -> None:
        """As `Tracker.log`."""
        for record in history[self._logged :]:
            values = [
                self._summaries.Summary.Value(tag=name, simple_value=value)
                for name, value in metrics_of(record).items()
            ]
            self._write(step=record.epoch, summary=self._summaries.Summary(value=values))
        self._logged = len(history)

    def show(self, picture: Path, epoch: int) -> None:
        """As `Tracker.show`."""
        image = self._summaries.Summary.Image(encoded_image_string=picture.read_bytes())
        value = self._summaries.Summary.Value(tag="image", image=image)
        self._write(step=epoch, summary=self._summaries.Summary(value=[value]))

    def end(self, status: str, model: TrainedModel | None) -> None:
        """As `Tracker.end`; the model stays in its file."""
        if model is not None:
            self.log(model.history)
        self._writer.close()

    def _write(self, **fields: object) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
