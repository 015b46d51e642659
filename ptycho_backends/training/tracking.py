"""Runs in MLflow: parameters at the start, metrics of every epoch, the archive at the end. Optional.

`MLFLOW_TRACKING_URI` names the store; by default it is an SQLite file in the folder of the run, `mlflow.db`, with the
artifacts beside it. No state of the process is touched: neither the active run nor the store of other callers.
"""

import dataclasses
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.training import loggers
from ptycho_backends.training.epochs import metrics_of
from ptycho_backends.values import EpochRecord, TrainedModel

log = logging.getLogger(__name__)

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
EXPERIMENT = "ptycho-backends"
RUN_FILE = "mlflow_run.json"
"""In the logger's folder: `run_id` and `tracking_uri`."""

# MLflow takes this many parameters at once.
_AT_ONCE = 100


class TrackedRun:
    """An open run; `tracked` makes and ends it.

    Attributes
    ----------
    run_id : str
    tracking_uri : str
    model : TrainedModel or None
        To be set after training; its archive is logged at the end.
    """

    def __init__(self, config: TrainingConfig, execution: ExecutionConfig, folder: Path) -> None:
        mlflow = import_module("mlflow")
        self._entities = import_module("mlflow.entities")
        self.tracking_uri = os.environ.get(STORE_VARIABLE) or f"sqlite:///{(folder / DATABASE).resolve()}"
        self._client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            local = STORE_VARIABLE not in os.environ
            place = (folder / ARTIFACTS).resolve().as_uri() if local else None
            experiment = self._client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            experiment = found.experiment_id
        self.run_id: str = self._client.create_run(experiment).info.run_id
        self.model: TrainedModel | None = None
        self._logged = 0
        parameters = flattened("TrainingConfig", dataclasses.asdict(config))
        parameters |= flattened("ExecutionConfig", dataclasses.asdict(execution))
        entries = [self._entities.Param(name, str(value)) for name, value in parameters.items()]
        for start in range(0, len(entries), _AT_ONCE):
            self._client.log_batch(self.run_id, params=entries[start : start + _AT_ONCE])

    def log(self, history: Sequence[EpochRecord]) -> None:
        """Log the epochs of `history` that were not logged yet."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, record.epoch)
            for record in history[self._logged :]
            for name, value in metrics_of(record).items()
        ]
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)
        self._logged = len(history)

    def end(self, status: str) -> None:
        """Log the archive of `model`, if there is one, and end the run: 'FINISHED', 'KILLED' or 'FAILED'."""
        if self.model is not None:
            self.log(self.model.history)
            with tempfile.TemporaryDirectory() as folder:
                model = dataclasses.replace(self.model, training_state=None)
                try:
                    archive = save_archive(model, Path(folder) / ARCHIVE_NAME)
                    self._client.log_artifact(self.run_id, str(archive))
                except ArchiveError as error:
                    log.warning("no archive in MLflow: %s", error)
        self._client.set_terminated(self.run_id, status)


@contextmanager
def tracked(
    config: TrainingConfig, execution: ExecutionConfig, folder: Path | None
) -> Iterator[TrackedRun | None]:
    """A run in MLflow where `execution` asks for it, else None; `logs/mlflow_run.json` says which.

    Raises
    ------
    BackendUnavailableError
        If MLflow is asked for and not installed.
    """
    if folder is None or loggers.logger_of(execution, folder) != "mlflow":
        yield None
        return
    run = TrackedRun(config, execution, folder)
    with replaced_atomically(output_directory(folder / loggers.FOLDER) / RUN_FILE) as stream:
        stream.write(json.dumps({"run_id": run.run_id, "tracking_uri": run.tracking_uri}).encode())
    log.info("MLflow: run %s in %s", run.run_id, run.tracking_uri)
    try:
        yield run
    except BaseException:
        run.end("FAILED")
        raise
    run.end("KILLED" if run.model is not None and run.model.interrupted else "FINISHED")


def flattened(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings as one: 'TrainingConfig.model.N', ... to values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flattened(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
        )
    return flat
