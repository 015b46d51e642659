"""`PtychoPINN_Lightning`: the training module, with the four configurations of Ptychodus."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho_backends.archive.lightning_checkpoint import CHECKPOINT_KEY, checkpoint_values, is_checkpoint
from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig, validate
from ptycho_backends.errors import ArchiveError
from ptycho_backends.training.plan import new_model
from ptycho_backends.values import EpochCallback, TrainedModel
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.config_bridge import configs_of_model, hides_anything, to_model_config, to_training_config
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig

CONFIGS_KEY = "ptycho_torch"
"""Key of the four configurations in the JSON text of a checkpoint."""

Configs = tuple[DataConfig, ModelConfig, TrainingConfig, InferenceConfig]
CLASSES: dict[str, type] = {
    "data_config": DataConfig,
    "model_config": ModelConfig,
    "training_config": TrainingConfig,
    "inference_config": InferenceConfig,
}


class PtychoPINN_Lightning(PtychoModule):  # noqa: N801 - the name that Ptychodus imports
    """A network and its configurations.

    Parameters
    ----------
    model_config, data_config, training_config, inference_config
        Instances of `config_params`, or mappings of their fields; None for the defaults.
    start : TrainedModel, optional
        Default: initial weights and a default probe, of the size that `data_config` names.
    execution, on_epoch
        As `PtychoModule`.

    Attributes
    ----------
    loss_name, val_loss_name : str
        Names under which the loss of an epoch and of its validation are logged.
    """

    loss_name = "loss_epoch"
    val_loss_name = "val_loss"

    def __init__(
        self,
        model_config: ModelConfig | Mapping[str, Any] | None = None,
        data_config: DataConfig | Mapping[str, Any] | None = None,
        training_config: TrainingConfig | Mapping[str, Any] | None = None,
        inference_config: InferenceConfig | Mapping[str, Any] | None = None,
        *,
        start: TrainedModel | None = None,
        execution: ExecutionConfig | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> None:
        configs = (
            as_config(DataConfig, data_config),
            as_config(ModelConfig, model_config),
            as_config(TrainingConfig, training_config),
            as_config(InferenceConfig, inference_config),
        )
        if start is None:
            start = _untrained(configs)
        super().__init__(start, ExecutionConfig() if execution is None else execution, on_epoch)
        self.data_config, self.model_config, self.training_config, self.inference_config = configs

    @property
    def configs(self) -> Configs:
        """Data, model, training, inference."""
        return self.data_config, self.model_config, self.training_config, self.inference_config

    def neutral_model(self) -> TrainedModel:
        """The network with its present weights, for reconstruction by either backend."""
        start = self._start
        weights = {
            name: value.astype(start.weights[name].dtype) for name, value in self.model.weights().items()
        }
        return dataclasses.replace(start, weights=weights, history=tuple(self.history), training_state=None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As `PtychoModule`, with the four configurations, so that the file is complete."""
        super().on_save_checkpoint(checkpoint)
        values = json.loads(checkpoint[CHECKPOINT_KEY])
        values[CONFIGS_KEY] = {
            name: _plain(config) for name, config in zip(CLASSES, self.configs, strict=True)
        }
        checkpoint[CHECKPOINT_KEY] = json.dumps(values)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        **configs: Any,
    ) -> "PtychoPINN_Lightning":
        """Read a model file into the memory of the processor.

        Parameters
        ----------
        checkpoint_path : path
            A `.ckpt` of training, or an archive (`wts.h5.zip`) of either backend.
        map_location, hparams_file, strict
            Lightning's; ignored, because no content of the file is executed or guessed.
        model_config, data_config, training_config, inference_config : optional
            In place of those in the file.

        Raises
        ------
        ArchiveError
            If the file is damaged, or is none of this library's.
        """
        start = dataclasses.replace(load_archive(checkpoint_path), training_state=None)
        stored = dict(zip(CLASSES, stored_configs(checkpoint_path, start), strict=True))
        return cls(**{**stored, **configs}, start=start)


def stored_configs(path: str | os.PathLike[str], model: TrainedModel | None = None) -> Configs:
    """Data, model, training, inference: the configurations in a model file.

    For a file that was not written through Ptychodus, configurations that describe its model.

    Raises
    ------
    ArchiveError
        If the file is damaged, or is none of this library's.
    """
    if model is None:
        # raises for a file that is none of ours
        model = load_archive(path)
    stored = checkpoint_values(path).get(CONFIGS_KEY) if is_checkpoint(Path(path)) else None
    if stored is None:
        return configs_of_model(model)
    try:
        data, network, run, image = (as_config(kind, stored[name]) for name, kind in CLASSES.items())
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{path}: damaged configurations ({error})") from error
    return data, network, run, image


def as_config(kind: type, value: Any) -> Any:
    """`value` as an instance of `kind`: unchanged, from a mapping, or the default one for None."""
    if isinstance(value, kind):
        return value
    values = {} if value is None else dict(value)
    # JSON has lists only
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _plain(config: Any) -> dict[str, Any]:
    """The fields of `config` as JSON values; a mask becomes True or False."""
    values = dataclasses.asdict(config)
    if values.get("probe_mask") is not None:
        values["probe_mask"] = hides_anything(values["probe_mask"])
    return values


def _untrained(configs: Configs) -> TrainedModel:
    data, network, training, _ = configs
    config = to_training_config(to_model_config(data, network), data, network, training)
    validate(config)
    return new_model(None, config, "torch")
