"""`main`: training on a folder of files, with the interface of the legacy port.

`python -m ptycho_torch.train --ptycho_dir DIR [--config FILE] [--disable_mlflow]` does the same.
"""

import difflib
import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptycho_backends.checks import raise_if_any
from ptycho_backends.config_file import read_mapping
from ptycho_backends.errors import ConfigError, OutputError
from ptycho_backends.training.loggers import has_mlflow_store
from ptycho_torch.api.base_api import ConfigManager, PtychoDataLoader, PtychoModel, Trainer
from ptycho_torch.command import run_command
from ptycho_torch.config_bridge import field_names
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.lightning_module import PtychoPINN_Lightning
from ptycho_torch.lightning_utils import find_best_checkpoint

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
}


def main(
    ptycho_dir: str | os.PathLike[str],
    config_path: str | os.PathLike[str] | None = None,
    existing_config: ConfigManager | Sequence[Any] | None = None,
    disable_mlflow: bool = False,
) -> Path:
    """Train on the `*.npz` files of a folder; checkpoints and logs go into a new `run_<time>` in it.

    Where MLflow is installed and has a store, the run is logged there too (`logger_backend='mlflow'`).

    Parameters
    ----------
    ptycho_dir : path
    config_path : path, optional
        YAML or JSON with the sections `data`, `model`, `training`, `inference`; each names fields of that
        class in `config_params`. Other fields keep their defaults.
    existing_config : ConfigManager, or (data, model, training, inference, datagen), optional
        In place of a file; trailing ones are optional.
    disable_mlflow : bool
        No MLflow, even where it is installed.

    Returns
    -------
    Path
        The model file of the best epoch.

    Raises
    ------
    ConfigError
        If both or unreadable configurations are given, or a setting is refused.
    ScanError, ShapeError, GroupingError, OutputError
        If the data or the folder cannot be used.
    """
    if config_path is not None and existing_config is not None:
        raise ConfigError("config_path, existing_config: got both, want one of them")
    if isinstance(existing_config, ConfigManager):
        manager = existing_config
    elif existing_config is not None:
        manager = ConfigManager(*existing_config)
    else:
        manager = load_config_manager(config_path) if config_path is not None else ConfigManager()
    # checks the settings and fills `params.cfg` before it reads a file
    data = PtychoDataLoader(ptycho_dir, manager)
    model = PtychoModel._new_model(PtychoPINN_Lightning, manager)
    logger = "mlflow" if has_mlflow_store() and not disable_mlflow else None
    Trainer._from_lightning(model, data, config_manager=manager, logger_backend=logger).train()
    best = find_best_checkpoint(data.output_dir)
    if best is None:
        raise OutputError(
            f"{data.output_dir}: training was stopped before its first epoch; no model was kept"
        )
    return best


def load_config_manager(path: str | os.PathLike[str]) -> ConfigManager:
    """The configurations in a YAML or JSON file with the sections of `SECTIONS`.

    Raises
    ------
    ConfigError
        If the file cannot be read, or names an unknown section or field.
    """
    content = read_mapping(path, "the sections " + ", ".join(SECTIONS))
    problems = [
        f"{name}: unknown, want one of {', '.join(SECTIONS)}" for name in content if name not in SECTIONS
    ]
    configs = {}
    for name, cls in SECTIONS.items():
        values = {} if content.get(name) is None else content[name]
        if not isinstance(values, Mapping):
            problems.append(f"{name}: want a mapping of the fields of {cls.__name__}")
            continue
        known = field_names(cls)
        unknown = [key for key in values if key not in known]
        problems += [
            f"{name}.{key}: unknown; did you mean {difflib.get_close_matches(str(key), known, 1, 0.0)[0]!r}?"
            for key in unknown
        ]
        configs[f"{name}_config"] = {key: value for key, value in values.items() if key in known}
    raise_if_any(os.fspath(path), problems)
    return ConfigManager(**configs)


def command(arguments: Sequence[str] | None = None) -> int:
    """`python -m ptycho_torch.train`: prints the path of the best model; returns the exit code."""
    parser = ArgumentParser(
        prog="python -m ptycho_torch.train", description="Train on the scans of a folder."
    )
    parser.add_argument("--ptycho_dir", required=True, help="folder with *.npz files of scans")
    parser.add_argument("--config", help="YAML or JSON: " + ", ".join(SECTIONS))
    parser.add_argument("--disable_mlflow", action="store_true", help="no MLflow, even where it is installed")
    return run_command(
        parser,
        lambda given: main(given.ptycho_dir, given.config, disable_mlflow=given.disable_mlflow),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(command())
