"""Paths of `ptycho_torch` by which Ptychodus and the port's callers import it: none of them goes away."""

import importlib

import pytest

MODULES = {
    "ptycho_torch.api.base_api": "ConfigManager DataloaderFormats InferenceEngine PtychoDataLoader PtychoModel"
    " Trainer",
    "ptycho_torch.arrays": "channels_last tensors_from_batch",
    "ptycho_torch.backend": "TorchBackend",
    "ptycho_torch.config_bridge": "to_execution_config to_inference_config to_model_config to_training_config",
    "ptycho_torch.config_params": "DataConfig DatagenConfig InferenceConfig ModelConfig TrainingConfig",
    "ptycho_torch.data": "PtychoDataModule",
    "ptycho_torch.data_container_bridge": "PtychoDataContainerTorch",
    "ptycho_torch.datagen": "simulate_training_data write_training_data",
    "ptycho_torch.inference": "computing load_and_predict",
    "ptycho_torch.lightning_module": "PtychoPINN_Lightning",
    "ptycho_torch.lightning_utils": "find_best_checkpoint",
    "ptycho_torch.losses": "loss_terms",
    "ptycho_torch.memmap_bridge": "MemmapDatasetBridge",
    "ptycho_torch.mlflow_runs": "is_run_id model_of_run",
    "ptycho_torch.model": "PtychoModel PtychoModule PtychoPINN_Lightning",
    "ptycho_torch.model_manager_torch": "TorchModelManager",
    "ptycho_torch.network": "heads trunk",
    "ptycho_torch.physics": "diffraction_amplitude predict_diffraction",
    "ptycho_torch.raw_data_bridge": "RawDataTorch",
    "ptycho_torch.reassembly": "reconstruct_image_barycentric",
    "ptycho_torch.scan_folder": "training_files",
    "ptycho_torch.settings_table": "SETTINGS",
    "ptycho_torch.teams": "working_together",
    "ptycho_torch.train": "main",
    "ptycho_torch.train_utils": "PtychoDataModule find_learning_rate log_parameters_mlflow set_seed",
    "ptycho_torch.training": "train",
    "ptycho_torch.workflows": "run_cdi_example_torch train_cdi_model_torch",
}


@pytest.mark.parametrize(("module", "names"), MODULES.items())
def test_a_module_keeps_its_path_and_names(module: str, names: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []
