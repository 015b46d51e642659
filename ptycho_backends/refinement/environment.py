"""`PTYCHO_REFINE`: refinement for callers that know none, Ptychodus above all."""

import dataclasses
import logging
import os
from collections.abc import Callable

import numpy as np

from ptycho_backends.config import RefinementConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.refinement.plan import on_canvas
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Reconstruction

log = logging.getLogger(__name__)

VARIABLE = "PTYCHO_REFINE"

Refine = Callable[[Reconstruction, Scan, RefinementConfig], Reconstruction]


def wanted_refinement() -> RefinementConfig | None:
    """Settings that the variable asks for: a number of passes, or 'auto'; None where it is unset, empty or 0.

    Raises
    ------
    ConfigError
        For any other text.
    """
    text = os.environ.get(VARIABLE, "").strip().lower()
    if text in ("", "0"):
        return None
    if text == "auto":
        return RefinementConfig()
    if not text.isdigit():
        raise ConfigError(f"{VARIABLE}: got {text!r}, want a number of passes, 'auto', or 0 for none")
    return RefinementConfig(passes=int(text))


def refined_if_wanted(image: Reconstruction, scan: Scan, refine: Refine) -> Reconstruction:
    """`image`, refined if the variable asks for it; on the same canvas.

    Parameters
    ----------
    image : Reconstruction
        Of `scan`, in its coordinates.
    scan : Scan
    refine : callable
        `Backend.refine`.
    """
    config = wanted_refinement()
    if config is None:
        return image
    refined = refine(image, scan, config)
    shape = image.object.shape
    canvas = on_canvas(refined, image.origin_px, (shape[0], shape[1]))
    lit = on_canvas(
        dataclasses.replace(refined, object=refined.coverage.astype(np.complex64)),
        image.origin_px,
        (shape[0], shape[1]),
    )
    known = (np.asarray(image.coverage) > 0) & (np.abs(lit) > 0)
    log.info(
        "%s: the image is refined with %d passes, as %s asks for", scan.name, len(refined.passes), VARIABLE
    )
    return dataclasses.replace(
        refined,
        object=np.where(known, canvas, image.object).astype(np.complex64),
        coverage=image.coverage,
        origin_px=image.origin_px,
        group_centres_px=image.group_centres_px,
        object_patches=image.object_patches,
        start=image,
    )
