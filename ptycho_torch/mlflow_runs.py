"""Models in MLflow, found by the number of their run. Only this module needs MLflow."""

import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ptycho_backends.errors import ArchiveError, BackendUnavailableError
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.training.loggers import has_mlflow_store
from ptycho_backends.training.mlflow_run import DATABASE
from ptycho_torch.lightning_utils import find_best_checkpoint

_RUN = re.compile(r"[0-9a-f]{32}$")


def is_run_id(name: str | os.PathLike[str]) -> bool:
    """True if `name` is the number of an MLflow run, and no file or folder."""
    return bool(_RUN.match(os.fspath(name))) and not Path(name).exists()


def store_in(path: str | os.PathLike[str]) -> str:
    """Address of the store in a folder of runs, or in an SQLite file; of a folder with `mlflow.db`, that file."""
    path = Path(path)
    if (path / DATABASE).is_file():
        path = path / DATABASE
    if path.suffix == ".db":
        return f"sqlite:///{path.resolve()}"
    return path.resolve().as_uri()


def model_of_run(run_id: str, tracking_uri: str | None = None) -> Path:
    """Fetch the model of a run into a new temporary folder.

    Parameters
    ----------
    run_id : str
    tracking_uri : str, optional
        Store of MLflow's runs; default: that of MLflow's own set-up.

    Returns
    -------
    Path
        An archive (`wts.h5.zip`) if the run has one, else its best checkpoint.

    Raises
    ------
    BackendUnavailableError
        If MLflow is not installed.
    ArchiveError
        If there is no such run, or no model in it.
    """
    if not has_mlflow_store() and (tracking_uri is None or find_spec("mlflow") is None):
        raise BackendUnavailableError(
            f"{run_id}: the number of an MLflow run, but 'mlflow' with its store is not installed; run: "
            "pip install mlflow, or name the model file"
        )
    import mlflow

    folder = tempfile.mkdtemp(prefix="ptycho_run_")
    try:
        mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=folder, tracking_uri=tracking_uri)
    except Exception as error:
        # the exception depends on the store of the runs
        raise ArchiveError(f"{run_id}: MLflow has no artifacts of this run ({error})") from error
    archives = sorted(Path(folder).rglob(ARCHIVE_NAME))
    checkpoints = [find_best_checkpoint(path.parent) for path in sorted(Path(folder).rglob("*.ckpt"))]
    found = [*archives, *(path for path in checkpoints if path is not None)]
    if not found:
        raise ArchiveError(f"{run_id}: the run holds neither {ARCHIVE_NAME} nor a .ckpt file")
    return found[0]
