"""From a model file and a scan file to an image: what `ptycho_torch.inference.load_and_predict` does."""

import os

from ptycho_backends.errors import ScanError
from ptycho_backends.protocol import Reconstruction
from ptycho_backends.results import save_reconstruction
from ptycho_torch.api.base_api import ConfigManager, InferenceEngine, PtychoDataLoader, PtychoModel
from ptycho_torch.lightning_module import PtychoPINN_Lightning
from ptycho_torch.mlflow_runs import is_run_id, model_of_run
from ptycho_torch.scan_folder import training_files


def image_from_files(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    output_path: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
) -> Reconstruction:
    """See `ptycho_torch.inference.load_and_predict`."""
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
