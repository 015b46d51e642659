"""From a model file and a scan file to an image; behind `ptycho_torch.inference.load_and_predict`."""

import os

from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.images.results import save_reconstruction
from ptycho_backends.values import Reconstruction
from ptycho_torch.api.base_api import ConfigManager, InferenceEngine, PtychoDataLoader, PtychoModel
from ptycho_torch.lightning_module import PtychoPINN_Lightning
from ptycho_torch.mlflow_runs import is_run_id, model_of_run, store_in
from ptycho_torch.scan_folder import training_files


def load_and_predict(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    output_path: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
    relative_mlflow_path: str | os.PathLike[str] | None = None,
) -> Reconstruction:
    """Reconstruct a scan with a trained model; MLflow is needed only for the number of a run.

    Parameters
    ----------
    model : path or str
        An archive (`wts.h5.zip`, or its folder), a checkpoint (`.ckpt`), or the number of an MLflow run.
    data : path
        The scan, an NPZ file, or the folder with that one file.
    output_path : path, optional
        File for the image, NPZ (`ptycho_backends.images.results.save_reconstruction`).
    tracking_uri : str, optional
        Store of MLflow's runs.
    relative_mlflow_path : path, optional
        In its place: a folder of runs (`mlruns`), or the SQLite file that has them (`mlflow.db`).

    Returns
    -------
    Reconstruction
        Made with the settings in the model file; `object` is 1 in unknown pixels.

    Raises
    ------
    ArchiveError, BackendUnavailableError
        If there is no model.
    ScanError, ShapeError, GroupingError, ConfigError
        If the scan does not fit the model, or the store is named twice.
    """
    if relative_mlflow_path is not None:
        if tracking_uri is not None:
            raise ConfigError("tracking_uri, relative_mlflow_path: got both, want one of them")
        tracking_uri = store_in(relative_mlflow_path)
    path = model_of_run(os.fspath(model), tracking_uri) if is_run_id(model) else model
    module = PtychoPINN_Lightning.load_from_checkpoint(path)
    data_config, model_config, training_config, inference_config = module.configs
    loaded = PtychoModel(model_config, data_config, training_config, inference_config)
    loaded.model = module
    manager = ConfigManager.from_loaded_model(loaded)
    files = training_files(data)
    if len(files) > 1:
        raise ScanError(f"{data}: holds {len(files)} *.npz files; name the one to make an image of")
    reconstruction = InferenceEngine(manager, loaded).reconstruct(
        PtychoDataLoader.from_file(files[0], manager)
    )
    if output_path is not None:
        save_reconstruction(reconstruction, output_path)
    return reconstruction
