"""Training through `base_api`, step by step: `python -m ptycho_torch.api.example_train DIR [EPOCHS]`."""

import os
import sys
from pathlib import Path

from ptycho_backends.errors import OutputError
from ptycho_torch.api.base_api import ConfigManager, DataloaderFormats, PtychoDataLoader, PtychoModel, Trainer
from ptycho_torch.lightning_module import PtychoPINN_Lightning
from ptycho_torch.lightning_utils import find_best_checkpoint


def main(ptycho_dir: str | os.PathLike[str], epochs: int = 5, n_filters_scale: int = 1) -> Path:
    """Train groups of one pattern on the scans of a folder; returns the best checkpoint.

    Raises
    ------
    ConfigError, ScanError, ShapeError, GroupingError, OutputError
    """
    configs = ConfigManager(
        data_config={"C": 1, "grid_size": (1, 1), "n_subsample": 1},
        model_config={
            "C_model": 1,
            "C_forward": 1,
            "decoder_last_amp_channels": 1,
            "n_filters_scale": n_filters_scale,
        },
        training_config={"epochs": epochs, "device": "auto", "num_workers": 0},
    )
    data = PtychoDataLoader(ptycho_dir, configs, DataloaderFormats("lightning_only_module"))
    model = PtychoModel._new_model(PtychoPINN_Lightning, configs)
    Trainer._from_lightning(model, data, config_manager=configs).train()
    best = find_best_checkpoint(data.output_dir)
    if best is None:
        raise OutputError(f"{data.output_dir}: no model was kept")
    return best


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], *map(int, sys.argv[2:3]))}\n")
