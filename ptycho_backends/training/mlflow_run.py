"""Runs in MLflow: parameters at the start, metrics of every epoch, the archive and a model at the end. Optional.

`MLFLOW_TRACKING_URI` names the store; by default it is an SQLite file in the folder of the run, `mlflow.db`, with the
artifacts beside it. No state of the process is touched: neither the active run nor the store of other callers.
"""

import dataclasses
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError, BackendUnavailableError
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.training.epochs import metrics_of
from ptycho_backends.training.loggers import EXPERIMENT, FOLDER, STORE_VARIABLE, flattened
from ptycho_backends.values import EpochRecord, TrainedModel

log = logging.getLogger(__name__)

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
RUN_FILE = "mlflow_run.json"
"""In the logger's folder: `run_id` and `tracking_uri`."""
MODEL = "model"
"""Place of the model among the artifacts: `mlflow.pyfunc.load_model("runs:/RUN_ID/model")` opens it."""
LOADER = "ptycho_backends.export.mlflow_model"
"""Module that opens it; on a higher floor, so only its name is here."""

# MLflow takes this many parameters at once.
_AT_ONCE = 100


class MlflowRun:
    """An open run: a `tracking.Tracker`.

    Attributes
    ----------
    run_id : str
    tracking_uri : str
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
        self._logged = 0
        parameters = flattened("TrainingConfig", dataclasses.asdict(config))
        parameters |= flattened("ExecutionConfig", dataclasses.asdict(execution))
        entries = [self._entities.Param(name, str(value)) for name, value in parameters.items()]
        for start in range(0, len(entries), _AT_ONCE):
            self._client.log_batch(self.run_id, params=entries[start : start + _AT_ONCE])
        with replaced_atomically(output_directory(folder / FOLDER) / RUN_FILE) as stream:
            stream.write(json.dumps({"run_id": self.run_id, "tracking_uri": self.tracking_uri}).encode())
        log.info("MLflow: run %s in %s", self.run_id, self.tracking_uri)

    def log(self, history: Sequence[EpochRecord]) -> None:
        """As `Tracker.log`."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, record.epoch)
            for record in history[self._logged :]
            for name, value in metrics_of(record).items()
        ]
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)
        self._logged = len(history)

    def show(self, picture: Path, epoch: int) -> None:
        """As `Tracker.show`; the newest one replaces the one before."""
        self._client.log_artifact(self.run_id, str(picture))

    def end(self, status: str, model: TrainedModel | None) -> None:
        """As `Tracker.end`; the archive is an artifact, and part of the model that is another."""
        try:
            if model is not None:
                self.log(model.history)
                self._log_model(dataclasses.replace(model, training_state=None))
        finally:
            self._client.set_terminated(self.run_id, status)

    def _log_model(self, model: TrainedModel) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                archive = save_archive(model, Path(folder) / ARCHIVE_NAME)
            except ArchiveError as error:
                log.warning("no archive in MLflow: %s", error)
                return
            self._client.log_artifact(self.run_id, str(archive))
            save_mlflow_model(archive, Path(folder) / MODEL, model)
            self._client.log_artifacts(self.run_id, str(Path(folder) / MODEL), MODEL)


def save_mlflow_model(
    archive: str | os.PathLike[str], path: str | os.PathLike[str], model: TrainedModel
) -> Path:
    """Write a model file as a model of MLflow, which `mlflow.pyfunc.load_model(path)` opens.

    It holds the archive and the name of the module that reads it (`export.mlflow_model`): no pickle.

    Parameters
    ----------
    archive : path
        The file of `model`.
    path : path
        A folder that does not exist.
    model : TrainedModel

    Raises
    ------
    BackendUnavailableError
        If MLflow is not installed.
    """
    with warnings.catch_warnings():
        # MLflow warns of type hints of its own, and wants an example of a scan
        warnings.simplefilter("ignore")
        _save_mlflow_model(archive, path, model)
    return Path(path)


def _save_mlflow_model(
    archive: str | os.PathLike[str], path: str | os.PathLike[str], model: TrainedModel
) -> None:
    try:
        pyfunc, models, types = (import_module(f"mlflow.{name}") for name in ("pyfunc", "models", "types"))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        raise BackendUnavailableError(
            "mlflow: not installed; run: pip install 'ptycho-backends[mlflow]'"
        ) from error
    N = model.config.model.N

    def tensor(name: str, dtype: type, *shape: int) -> Any:
        return types.TensorSpec(np.dtype(dtype), shape, name)

    inputs = [tensor("patterns", np.float32, -1, N, N), tensor("positions_px", np.float64, -1, 2)]
    image = [tensor(name, np.float32, -1, -1) for name in ("amplitude", "phase", "coverage")]
    options = [
        types.ParamSpec("output", types.DataType.string, "image"),
        types.ParamSpec("measurement", types.DataType.string, "auto"),
        types.ParamSpec("backend", types.DataType.string, ""),
    ]
    backend = model.backend
    pyfunc.save_model(
        path=os.fspath(path),
        loader_module=LOADER,
        data_path=os.fspath(archive),
        signature=models.ModelSignature(
            inputs=types.Schema(inputs),
            outputs=types.Schema([*image, tensor("origin_px", np.float64, 2)]),
            params=types.ParamSchema(options),
        ),
        # otherwise MLflow would open the model in another process, to see what it imports
        pip_requirements=["ptycho-backends" + (f"[{backend}]" if backend in BUILT_IN else "")],
        metadata={"config": dataclasses.asdict(model.config.model), "backend": backend},
    )
