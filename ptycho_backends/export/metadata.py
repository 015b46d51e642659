"""Facts that every exported file carries: configuration, scale, licence, origin, and the meaning of its arrays."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from ptycho_backends.config import TrainingConfig, config_to_plain
from ptycho_backends.values import Reconstruction, TrainedModel

LICENCE = "BSD-3-Clause for the code of ptycho-backends; weights, images and scans: as their owner decides"
"""Default text on the licence of a file."""

NORMALISATION = "diffraction = X * sqrt((N / 2)**2 / mean(sum(X**2, (1, 2)))) with X the measured amplitudes"
"""Statement on the input of an exported model; docs/model.md, section 2."""


def model_metadata(model: TrainedModel, format: str, licence: str = LICENCE) -> dict[str, Any]:
    """Plain values about a model: its whole configuration, its scale, and the names and axes of its tensors.

    Parameters
    ----------
    model : TrainedModel
    format : str
        Name in `formats.FORMATS`.
    licence : str
    """
    config = model.config.model
    if config.architecture == "unrolled" and "physics" not in _parts(format):
        tensors = {
            "canvas_real, canvas_imag (B, N, N)": "refined object, mean 1 over the light, [y, x]",
            "light (B, N, N)": "illumination, at most 1",
            "object_real, object_imag (B, N, N)": "corrected object",
        }
    else:
        tensors = {"diffraction (B, N, N, C)": f"float32, {NORMALISATION}"}
        if "physics" in _parts(format):
            tensors |= {
                "offsets (B, C, 2)": "float32, minus each position's offset from the group's centre, [x, y] px",
                "object_real, object_imag (B, N, N)": "object of the group around its centre, [y, x]",
                "predicted_amplitude (B, N, N, C)": "of the diffraction, in roots of counts",
            }
        else:
            tensors["amplitude, phase (B, N, N, c)"] = (
                "of the object's patches; c = C with object_big, else 1"
            )
    return {
        **_origin("model", format, licence),
        "N": config.N,
        "gridsize": config.gridsize,
        "architecture": config.architecture,
        "intensity_scale": float(model.intensity_scale),
        "intensity_scale_is_applied": "inside: feed normalised amplitudes",
        "backend": model.backend,
        "epochs": model.epochs_done,
        "tensors": tensors,
        "config": config_to_plain(model.config),
    }


def _parts(format: str) -> tuple[str, ...]:
    return ("network",) if format in ("onnx", "litert") else ("network", "physics")


def image_metadata(
    reconstruction: Reconstruction,
    format: str,
    licence: str = LICENCE,
    *,
    config: TrainingConfig | None = None,
    intensity_scale: float | None = None,
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Plain values about an image.

    Parameters
    ----------
    reconstruction : Reconstruction
    format : str
        Name in `formats.FORMATS`.
    licence : str
    config : TrainingConfig, optional
        Of the model that made it.
    intensity_scale : float, optional
        Of that model.
    settings : mapping of str to str, optional
        Texts of the files of settings beside the image, by name.
    """
    last = reconstruction.passes[-1] if reconstruction.passes else None
    return {
        **_origin("image", format, licence),
        "backend": reconstruction.backend,
        "pixel_size_m": reconstruction.pixel_size_m,
        "origin_px": [float(value) for value in reconstruction.origin_px],
        "patches": len(reconstruction.group_centres_px),
        "passes": len(reconstruction.passes),
        "r_factor": None if last is None else last.r_factor,
        "intensity_scale": intensity_scale,
        "config": None if config is None else config_to_plain(config),
        "settings": dict(settings or {}),
    }


def as_text(metadata: Mapping[str, Any]) -> str:
    """`metadata` as JSON in ASCII, which any container of text takes."""
    return json.dumps(metadata, default=str)


def _origin(kind: str, format: str, licence: str) -> dict[str, Any]:
    try:
        version = importlib.metadata.version("ptycho-backends")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        version = "unknown"
    return {"kind": kind, "format": format, "library": f"ptycho-backends {version}", "licence": licence}
