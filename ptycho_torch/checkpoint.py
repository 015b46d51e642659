"""Lightning `.ckpt` files of this library to neutral models; nothing in them is executed."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ptycho_backends.config import TrainingConfig, config_from_plain
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.initial_weights import PROBE, weight_shapes
from ptycho_backends.protocol import EpochRecord, TrainedModel, TrainingState
from ptycho_torch.arrays import weights_from_tensors
from ptycho_torch.model import CHECKPOINT_KEY

PARAMETER_PREFIX = "model.parameters_by_name."


def load_checkpoint(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a checkpoint that `ptycho_torch.training` wrote.

    Returns
    -------
    TrainedModel
        With its `training_state`, so that training goes on from it.

    Raises
    ------
    ArchiveError
        If the file is damaged, or was not written by this library.
    """
    path = Path(path)
    if not path.is_file():
        raise ArchiveError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise ArchiveError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get(CHECKPOINT_KEY), str):
        raise ArchiveError(f"{path}: no {CHECKPOINT_KEY!r} in it, so this library did not write it")
    try:
        return _model(content, json.loads(content[CHECKPOINT_KEY]))
    except (KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
        raise ArchiveError(f"{path}: damaged checkpoint ({error})") from error


def _model(content: dict[str, Any], neutral: dict[str, Any]) -> TrainedModel:
    config = config_from_plain(TrainingConfig, neutral["config"])
    tensors = {
        name.removeprefix(PARAMETER_PREFIX): value
        for name, value in content["state_dict"].items()
        if name.startswith(PARAMETER_PREFIX)
    }
    weights = {
        name: value.astype("complex64" if name == PROBE else "float32")
        for name, value in weights_from_tensors(tensors).items()
    }
    shapes = weight_shapes(config.model)
    if {name: value.shape for name, value in weights.items()} != shapes:
        raise ValueError("its weights are not those of its configuration")
    moments = content["optimizer_states"][0]["state"]
    named = {name: moments[i] for i, name in enumerate(neutral["trainable"]) if i in moments}
    return TrainedModel(
        config=config,
        weights={name: weights[name] for name in shapes},
        intensity_scale=float(neutral["intensity_scale"]),
        history=tuple(EpochRecord(**row) for row in neutral["history"]),
        backend="torch",
        interrupted=len(neutral["history"]) < config.nepochs,
        training_state=TrainingState(
            step=max((int(state["step"]) for state in named.values()), default=0),
            epoch=neutral["epoch"],
            batches_done=neutral["batches_done"],
            loss_sum=neutral["loss_sum"],
            first_moments=weights_from_tensors({name: state["exp_avg"] for name, state in named.items()}),
            second_moments=weights_from_tensors({name: s["exp_avg_sq"] for name, s in named.items()}),
            schedule=neutral["schedule"],
        ),
    )
