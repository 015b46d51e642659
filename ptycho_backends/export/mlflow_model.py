"""Reads a model of MLflow: `mlflow.pyfunc.load_model(uri).predict(inputs, params)`.

`training.mlflow_run` writes such models, into every run with `logger_backend='mlflow'`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.plan import inference_groups
from ptycho_backends.values import TrainedModel

OUTPUTS = ("image", "patches")
INPUTS = ("patterns", "positions_px")


class MlflowModel:
    """The part of an MLflow model that predicts."""

    def __init__(self, model: TrainedModel) -> None:
        self._model = model

    def predict(
        self, model_input: Mapping[str, NDArray], params: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray]:
        """The image of a scan, or the object patch of each group.

        Parameters
        ----------
        model_input : mapping
            `patterns`, (M, N, N) real, [ky, kx], with the zero frequency at `[N//2, N//2]`; and `positions_px`, (M, 2)
            real, [x, y], the centres of the patches in object pixels.
        params : mapping, optional
            `output`: 'image' (default) or 'patches'; `measurement`: 'amplitude', 'intensity' or 'auto' (default), as
            for a `Scan`; `backend`: a name for `get_backend`, by default the one that trained the model.

        Returns
        -------
        dict of arrays
            For an image `amplitude`, `phase` (radians) and `coverage`, each (H, W) float32, [y, x], and `origin_px`,
            (2,) float64, the position [x, y] of pixel `[0, 0]`. For patches `amplitude` and `phase`, (B, N, N) float32,
            and `centres_px`, (B, 2) float64: one group around every position, in their order.

        Raises
        ------
        ConfigError, ScanError, ShapeError
            For bad inputs, by name.
        BackendUnavailableError
            If the framework of the backend is not installed.
        """
        asked = {} if params is None else dict(params)
        output = asked.get("output") or OUTPUTS[0]
        if output not in OUTPUTS:
            raise ConfigError(f"output: got {output!r}, want one of {', '.join(map(repr, OUTPUTS))}")
        missing = [name for name in INPUTS if name not in model_input]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: not given, want a mapping of {' and '.join(INPUTS)}")
        positions = np.asarray(model_input["positions_px"], np.float64)
        if positions.ndim != 2 or positions.shape[1] != 2:
            raise ConfigError(f"positions_px: got shape {positions.shape}, want (M, 2)")
        scan = Scan(
            positions[:, 0],
            positions[:, 1],
            np.asarray(model_input["patterns"]),
            measurement=asked.get("measurement") or "auto",
            name="model_input",
        )
        backend = get_backend(asked.get("backend") or self._model.backend or None)
        execution = ExecutionConfig(enable_progress_bar=False)
        if output == "patches":
            groups = inference_groups(self._model, scan)
            predicted = backend.predict(self._model, groups, execution=execution)
            return {
                **_parts(predicted.object[..., 0]),
                "centres_px": np.asarray(groups.group_centres_px[:, 0, :, 0], np.float64),
            }
        image = backend.infer(self._model, scan, execution=execution)
        return {
            **_parts(image.object),
            "coverage": np.asarray(image.coverage, np.float32),
            "origin_px": np.asarray(image.origin_px, np.float64),
        }


def _parts(image: NDArray) -> dict[str, NDArray]:
    """Real arrays, which a server of models can send."""
    return {"amplitude": np.abs(image).astype(np.float32), "phase": np.angle(image).astype(np.float32)}


def _load_pyfunc(path: str) -> MlflowModel:
    """Called by MLflow with the archive."""
    return MlflowModel(load_archive(path))
