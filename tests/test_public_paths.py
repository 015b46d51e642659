"""Paths by which callers import this library: none of them goes away."""

import importlib

import pytest

import ptycho_backends

FRAMEWORK_FREE = {
    "ptycho.config.config": "InferenceConfig ModelConfig TrainingConfig dataclass_to_legacy_dict update_legacy_dict",
    "ptycho.loader": "PtychoDataContainer load",
    "ptycho.model_manager": "ModelManager save",
    "ptycho.params": "cfg get params set validate",
    "ptycho.probe": "get_default_probe get_probe get_probe_mask set_default_probe set_probe_guess",
    "ptycho.raw_data": "RawData",
    "ptycho.tf_helper": "reassemble_position",
    "ptycho.workflows.components": "load_data load_inference_bundle run_cdi_example save_outputs train_cdi_model",
    "ptycho_backends.archive": "ArchiveContents ArchiveSummary Manifest inspect_archive is_genuine load_archive"
    " save_archive",
    "ptycho_backends.batch_size": "inference_batch_size training_batch_size",
    "ptycho_backends.cli": "app",
    "ptycho_backends.config": "ExecutionConfig FinetuneStage InferenceConfig ModelConfig PyTorchExecutionConfig"
    " TrainingConfig config_from_plain config_to_plain validate",
    "ptycho_backends.config_file": "load_config save_config",
    "ptycho_backends.errors": "ArchiveError BackendUnavailableError ConfigError GroupingError OutputError"
    " PtychoBackendsError ScanError ShapeError UnknownBackendError",
    "ptycho_backends.figures": "save_history_figure save_reconstruction_figure",
    "ptycho_backends.grouping": "GroupedData group_scan",
    "ptycho_backends.initial_weights": "initial_weights weight_shapes",
    "ptycho_backends.legacy.bridge": "dataclass_to_legacy_dict training_config_from_legacy_dict"
    " update_legacy_dict",
    "ptycho_backends.legacy.components": "load_data load_inference_bundle run_cdi_example save_outputs"
    " train_cdi_model",
    "ptycho_backends.legacy.loader": "PtychoDataContainer load",
    "ptycho_backends.legacy.model_manager": "ModelManager save",
    "ptycho_backends.legacy.params": "cfg defaults get params set snapshot validate",
    "ptycho_backends.legacy.probe": "get_default_probe get_probe",
    "ptycho_backends.legacy.raw_data": "RawData",
    "ptycho_backends.legacy.reassembly": "reassemble_position",
    "ptycho_backends.lightning_checkpoint": "load_checkpoint",
    "ptycho_backends.metrics": "Metrics compare",
    "ptycho_backends.preparation": "TrainingPlan",
    "ptycho_backends.probe": "default_probe normalise_probe",
    "ptycho_backends.product": "Product load_product save_product",
    "ptycho_backends.product_scan": "product_from_reconstruction product_from_scan scan_from_product",
    "ptycho_backends.protocol": "Backend Batch EpochRecord Prediction Reconstruction TrainedModel TrainingState",
    "ptycho_backends.reference.model": "",
    "ptycho_backends.reference.network": "",
    "ptycho_backends.reference.physics": "diffraction_amplitude",
    "ptycho_backends.registry": "BackendEntry backend_names get_backend get_backends installed_backends",
    "ptycho_backends.results": "load_reconstruction save_reconstruction",
    "ptycho_backends.scan": "Scan is_ptychodus_file load_scan save_scan",
    "ptycho_backends.schedules": "",
    "ptycho_backends.simulate": "simulate_scan simulate_star",
    "ptycho_backends.stitching": "",
    "ptycho_backends.testing.agreement": "assert_agrees",
    "ptycho_backends.testing.cases": "Case draw_case draw_cases",
    "ptycho_backends.testing.measurements": "measure",
    "ptycho_backends.testing.parity": "Report run",
    "ptycho_backends.training_data": "export_training_data load_training_hdf5 save_training_hdf5",
    "ptycho_backends.workflows": "RunResult demo infer run simulate train",
}
"""Public names of each module, none of which imports a framework."""

TEST_KIT = {  # these import pytest or Hypothesis
    "ptycho_backends.testing.contract": "BackendContract",
    "ptycho_backends.testing.strategies": "batches groups model_configs scans training_configs weights",
}


@pytest.mark.parametrize(("module", "names"), (FRAMEWORK_FREE | TEST_KIT).items())
def test_a_module_keeps_its_path_and_names(module: str, names: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("name", ptycho_backends.__all__)
def test_the_package_keeps_its_names(name: str) -> None:
    assert getattr(ptycho_backends, name) is not None


def test_a_former_module_is_the_present_one() -> None:
    # one object under both names, so that a replaced function is replaced for every caller
    former = importlib.import_module("ptycho_backends.simulate")
    assert former is importlib.import_module("ptycho_backends.scans.simulate")
    assert importlib.import_module("ptycho_backends.legacy.params").cfg is (
        importlib.import_module("ptycho_backends.params.params").cfg
    )
