"""Checkpoints that every backend writes and resumes from: archives with the optimiser's state."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.leftovers import remove_leftovers
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.training.rescue import without_failure
from ptycho_backends.values import EpochRecord, TrainedModel

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
LAST_CHECKPOINT = f"last.{ARCHIVE_NAME}"


# epoch, metric, value
_BEST = re.compile(r"best-epoch=(\d+)-(\w+)=(.+?)(?:-v\d+)?\.(?:ckpt|wts\.h5\.zip)")


def best_checkpoints(folder: Path) -> dict[str, tuple[int, str, float]]:
    """Epoch, metric and value of each of the best checkpoints in `folder`, the folder of a run, by file name."""
    found = {}
    for path in sorted((folder / FOLDER).glob("best-*")):
        if told := _BEST.fullmatch(path.name):
            try:
                found[path.name] = int(told[1]), told[2], float(told[3])
            except ValueError:
                continue
    return found


def best_name(epoch: int, metric: str, value: float) -> str:
    """Name, without suffix, of the checkpoint of an epoch, counted from 1."""
    return f"best-epoch={epoch}-{metric}={value:.6g}"


def model_to_resume(path: Path, load: Callable[[Path], TrainedModel]) -> TrainedModel:
    """The model in the file `path`; of an archive without the state of the optimiser, that of the checkpoint beside it.

    The archive of a run (`wts.h5.zip`) has weights only. The last checkpoint of the same folder is taken in its
    place if its weights are the same.

    Parameters
    ----------
    path : Path
    load : callable
        Reads a model file.
    """
    model = load(path)
    checkpoint = path.parent / FOLDER / LAST_CHECKPOINT
    if model.training_state is not None or not path.is_file() or not checkpoint.is_file():
        return model
    try:
        last = load(checkpoint)
    except ArchiveError as error:
        log.warning("the checkpoint beside the model cannot be read: %s", error)
        return model
    same = last.weights.keys() == model.weights.keys() and all(
        np.array_equal(last.weights[name], weight) for name, weight in model.weights.items()
    )
    if not same:
        log.warning("%s is of another training than %s, and is not used", checkpoint, path)
        return model
    log.info("%s: going on from %s, which has the state of the optimiser", path, checkpoint)
    return last


class Checkpoints:
    """The best models by `checkpoint_monitor_metric`, and the last one, each a file to resume from.

    Parameters
    ----------
    folder : Path
        Gets `checkpoints/`.
    execution : ExecutionConfig
        `checkpoint_save_top_k` (-1 keeps all, 0 none but the last), `checkpoint_monitor_metric`,
        `checkpoint_mode`.
    """

    def __init__(self, folder: Path, execution: ExecutionConfig) -> None:
        self._folder = folder / FOLDER
        remove_leftovers(self._folder)
        self._metric = execution.checkpoint_monitor_metric
        self._sign = 1.0 if execution.checkpoint_mode == "min" else -1.0
        self._most = execution.checkpoint_save_top_k
        # of the run that goes on here; files of an earlier one are gone by now
        self._kept = sorted(
            (self._sign * value, folder / FOLDER / name)
            for name, (_, metric, value) in best_checkpoints(folder).items()
            if metric == self._metric or self._metric == "val_loss"
        )

    def save_last(self, model: TrainedModel) -> None:
        """Keep `model` as the last one."""
        self._save(model, LAST_CHECKPOINT)

    def save_best(self, model: TrainedModel, record: EpochRecord) -> None:
        """Keep `model` if the epoch of `record` is one of the best."""
        metric = self._metric
        if metric == "val_loss" and record.val_loss is None:
            metric = "train_loss"
        value = getattr(record, metric)
        rank = self._sign * value
        better = sum(kept <= rank for kept, _ in self._kept)
        if value != value or (self._most >= 0 and better >= self._most):
            return
        path = self._save(model, f"{best_name(record.epoch, metric, value)}.{ARCHIVE_NAME}")
        if path is None:
            return
        self._kept = sorted([*self._kept, (rank, path)])
        while 0 <= self._most < len(self._kept):
            self._kept.pop()[1].unlink(missing_ok=True)

    def _save(self, model: TrainedModel, name: str) -> Path | None:
        path = self._folder / name
        return path if without_failure(lambda: save_archive(model, path), f"checkpoint {name}") else None
