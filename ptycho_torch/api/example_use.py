"""A trained model and a scan to an image: `python -m ptycho_torch.api.example_use MODEL SCAN OUTPUT`."""

import os
import sys
from pathlib import Path

import numpy as np

from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_torch.api.base_api import ConfigManager, InferenceEngine, PtychoDataLoader, PtychoModel
from ptycho_torch.lightning_module import PtychoPINN_Lightning


def main(
    model_file: str | os.PathLike[str], scan_file: str | os.PathLike[str], output: str | os.PathLike[str]
) -> Path:
    """Reconstruct the scan in a file with the model in another; writes the complex image as NPY.

    Raises
    ------
    ArchiveError, ScanError, ShapeError, GroupingError, ConfigError, OutputError
    """
    data, network, training, image = PtychoModel._extract_configs_from_checkpoint(model_file)
    model = PtychoModel(network, data, training, image)
    model.model = PtychoPINN_Lightning.load_from_checkpoint(model_file)
    configs = ConfigManager.from_loaded_model(model)
    loader = PtychoDataLoader.from_file(scan_file, configs)
    result = InferenceEngine(configs, model).predict_and_stitch(loader)
    target = Path(output)
    output_directory(target.parent)
    with replaced_atomically(target) as stream:
        np.save(stream, result)
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{main(*sys.argv[1:4])}\n")
