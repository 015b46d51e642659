"""Models under the legacy names: the one that was trained last, and those in an archive.

The legacy interface saves "the model" without being given it, so this module remembers it: the only state
behind these names besides `params.cfg`.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.archive.model_file import MODELS, load_archive, save_archive
from ptycho_backends.config import ModelConfig
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.legacy.framework_choice import inference_backend
from ptycho_backends.params import params
from ptycho_backends.params.bridge import dataclass_to_legacy_dict
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import get_backend
from ptycho_backends.values import Batch, Prediction, TrainedModel

log = logging.getLogger(__name__)

# The first predicts object and measurement, the second the object only; their weights are the same.
BOTH, OBJECT_ONLY = MODELS

# Groups that are predicted at once; larger batches only cost memory.
DEFAULT_BATCH = 64

_last_trained: TrainedModel | None = None


class InferenceModel:
    """A trained model with the `predict` that legacy callers know.

    Parameters
    ----------
    trained : TrainedModel
    backend : Backend
        Computes the predictions.
    name : {'diffraction_to_obj', 'autoencoder'}
        Predict the object, or the object, the amplitude and the intensity.
    """

    def __init__(self, trained: TrainedModel, backend: Backend, name: str = OBJECT_ONLY) -> None:
        self.trained = trained
        self.backend = backend
        self.name = name

    def __repr__(self) -> str:
        return f"InferenceModel({self.name} of {self.trained!r}, computing on {self.backend.name})"

    def predict(
        self, inputs: Sequence[ArrayLike], batch_size: int | None = None, verbose: Any = 0
    ) -> NDArray | list[NDArray]:
        """The object around each group's centre.

        Parameters
        ----------
        inputs : pair of arrays
            `X * intensity_scale` (B, N, N, C) and `local_offsets` (B, 1, 2, C), as `loader.load` gives them.
        batch_size : int, optional
            Groups that are computed at once; changes nothing else.
        verbose
            Not used.

        Returns
        -------
        (B, N, N, 1) complex64 array, [y, x]
            Or, of an 'autoencoder', a list of it and the diffraction (B, N, N, C) as amplitude and
            intensity.

        Raises
        ------
        ConfigError
            If the groups are not those that the model was trained for; the text names the setting.
        """
        fed, offsets = self._checked(inputs)
        step = batch_size or DEFAULT_BATCH
        parts = [
            # already multiplied by the scale, so 1 here
            self.backend.forward(
                self.trained.config.model,
                self.trained.weights,
                Batch(fed[start : start + step], offsets[start : start + step], 1.0),
            )
            for start in range(0, len(fed), step)
        ]
        if self.name == OBJECT_ONLY:
            return _joined(parts, "object")
        return [_joined(parts, output) for output in ("object", "amplitude", "intensity")]

    def _checked(self, inputs: Sequence[ArrayLike]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not isinstance(inputs, list | tuple) or len(inputs) != 2:
            raise ConfigError("predict: want the list [X * intensity_scale, local_offsets]")
        fed, offsets = (np.asarray(values, np.float32) for values in inputs)
        model = self.trained.config.model
        if fed.ndim != 4 or fed.shape[1:3] != (model.N, model.N) or not len(fed):
            raise ConfigError(
                f"N: got patterns of shape {fed.shape}, but the model was trained on {model.N} x {model.N} "
                "pixels; use data or a model of the other size"
            )
        if fed.shape[3] != model.group_size:
            raise ConfigError(
                f"gridsize: got groups of {fed.shape[3]} patterns, but the model was trained with "
                f"gridsize={model.gridsize} (groups of {model.group_size}); set GridSize to {model.gridsize}"
            )
        if offsets.shape != (len(fed), 1, 2, fed.shape[3]):
            raise ConfigError(
                f"local_offsets: got shape {offsets.shape}, want {(len(fed), 1, 2, fed.shape[3])}"
            )
        return fed, offsets


def _joined(parts: list[Prediction], output: str) -> NDArray:
    return np.concatenate([getattr(part, output) for part in parts])


class ModelManager:
    """Archives under the legacy names."""

    @staticmethod
    def load_multiple_models(
        base_path: str | os.PathLike[str],
        model_names: Sequence[str] | None = None,
        *,
        backend: str | None = None,
    ) -> dict[str, InferenceModel]:
        """The models of an archive, and `params.cfg` filled from it.

        Parameters
        ----------
        base_path : path
            As `load_archive`; or the path without its `.zip`, as legacy callers spell it.
        model_names : sequence of str, optional
            Default: both, 'autoencoder' and 'diffraction_to_obj'.
        backend : str, optional
            Computes the predictions. Default: as `inference_backend`.

        Raises
        ------
        ArchiveError
            If the archive cannot be read, or has no model of that name.
        ConfigError
            If the model was trained on patterns that are scaled in another way than `loader.load` does.
        """
        path = Path(base_path)
        packed = path.with_name(f"{path.name}.zip")
        if not path.exists() and packed.is_file():
            path = packed
        names = list(MODELS) if model_names is None else list(model_names)
        if unknown := [name for name in names if name not in MODELS]:
            raise ArchiveError(f"{path}: no model {', '.join(unknown)}, want {' or '.join(MODELS)}")
        trained = load_archive(path)
        _require_legacy_scaling(trained, path)
        chosen = inference_backend(trained.backend) if backend is None else get_backend(backend)
        return {name: InferenceModel(trained, chosen, name) for name in names}


def _require_legacy_scaling(trained: TrainedModel, path: Path) -> None:
    """`loader.load` knows one way of scaling patterns; a model trained on another would be fed wrongly."""
    config = trained.config
    if (config.normalize, config.data_scaling) != ("Batch", "Parseval"):
        raise ConfigError(
            f"{path}: trained with normalize={config.normalize!r}, data_scaling={config.data_scaling!r}, which "
            "these names do not know, want 'Batch' and 'Parseval'; open it through PtychoPINN-Torch or get_backend"
        )


def remember(model: TrainedModel) -> None:
    """Make `model` the one that `save` writes."""
    global _last_trained
    _last_trained = model


def save(out_prefix: str | os.PathLike[str]) -> Path:
    """Write the model that this process trained last as `<out_prefix>/wts.h5.zip`, atomically.

    Raises
    ------
    ArchiveError
        If this process has trained none.
    OutputError
        If the file cannot be written.
    """
    if _last_trained is None:
        raise ArchiveError("save: no model was trained in this process; run_cdi_example trains one")
    return save_archive(
        dataclasses.replace(_last_trained, training_state=None), Path(out_prefix) / ARCHIVE_NAME
    )


def load_inference_model(path: str | os.PathLike[str], backend: str | None = None) -> InferenceModel:
    """The model of an archive that predicts objects; warns where `params.cfg` asked for another one.

    Raises
    ------
    ArchiveError
    """
    requested, initial = dict(params.cfg), params.defaults()
    stock = dataclass_to_legacy_dict(ModelConfig())
    model = ModelManager.load_multiple_models(path, [OBJECT_ONLY], backend=backend)[OBJECT_ONLY]
    trained = dataclass_to_legacy_dict(model.trained.config.model)
    differing = [
        f"{key} {requested[key]!r} (the model: {value!r})"
        for key, value in trained.items()
        # a value that equals a default was not requested
        if requested.get(key, value) not in (value, initial.get(key, value), stock.get(key, value))
    ]
    log.info("%s: %r", path, model)
    if differing:
        log.warning("the model was trained with other settings, which count: %s", ", ".join(differing))
    return model
