"""Images as pictures that other programs measure on: TIFF of 32 bits, PNG of 16."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ExportError
from ptycho_backends.export.metadata import as_text
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.files.png_file import png_bytes
from ptycho_backends.values import Reconstruction

CENTIMETRES = 3
COPYRIGHT_TAG = 33432


def save_tiff(reconstruction: Reconstruction, path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write amplitude and phase (rad) as two pages of float32, NaN where nothing is covered.

    The resolution tags hold pixels per centimetre, `ImageDescription` of the first page the metadata as JSON.
    """
    import tifffile  # late: it comes with scikit-image, and takes its time

    pages = amplitude_and_phase(reconstruction)
    size = reconstruction.pixel_size_m
    options: dict[str, Any] = {}
    if size is not None:
        options = {"resolution": (0.01 / size, 0.01 / size), "resolutionunit": CENTIMETRES}
    licence = str(metadata["licence"])
    with replaced_atomically(path) as stream, tifffile.TiffWriter(stream) as writer:
        for name, page in pages.items():
            writer.write(
                page,
                photometric="minisblack",
                metadata=None,
                description=as_text({**metadata, "page": name}),
                software=str(metadata["library"]),
                extratags=[(COPYRIGHT_TAG, "s", 0, licence, True)],
                **options,
            )
    return path


def save_png(reconstruction: Reconstruction, path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write the phase as a grey picture of 16 bits, and the amplitude beside it as `<stem>_amplitude.png`.

    A value is `low + (high - low) * grey / 65535`, with `low` and `high` in the metadata, which are JSON in the text
    `Description`. Pixels that nothing covers are 0. Returns the path of the phase.
    """
    if path.suffix.lower() != ".png":
        raise ExportError(f"path: got {path}, want a name that ends in .png")
    for name, image in amplitude_and_phase(reconstruction).items():
        shown = np.isfinite(image)
        low, high = (float(np.min(image[shown])), float(np.max(image[shown]))) if shown.any() else (0.0, 1.0)
        span = high - low or 1.0
        grey = np.rint(np.where(shown, (image.astype(np.float64) - low) / span, 0) * 65535).astype(np.uint16)
        target = path if name == "phase" else path.with_name(f"{path.stem}_{name}{path.suffix}")
        told = {**metadata, "page": name, "low": low, "high": low + span}
        with replaced_atomically(target) as stream:
            stream.write(png_bytes(grey, _texts(told), reconstruction.pixel_size_m))
    return path


def amplitude_and_phase(reconstruction: Reconstruction) -> dict[str, NDArray[np.float32]]:
    """`amplitude` and `phase` (rad), (H, W) float32, `[y, x]`; NaN where nothing is covered."""
    covered = reconstruction.coverage > 0
    parts = {"amplitude": np.abs(reconstruction.object), "phase": np.angle(reconstruction.object)}
    return {name: np.where(covered, part, np.nan).astype(np.float32) for name, part in parts.items()}


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        "Software": str(metadata["library"]),
        "Copyright": str(metadata["licence"]),
        "Description": as_text(metadata),
    }
