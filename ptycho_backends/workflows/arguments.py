"""Arguments that the verbs share: a scan or its file, a backend or its name, places."""

import os
from pathlib import Path

from ptycho_backends.config import InferenceConfig, RefinementConfig, TrainingConfig
from ptycho_backends.files.output import output_directory
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.product_scan import product_from_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.training.synthetic_canvases import CanvasGroups

AnyPath = str | os.PathLike[str]


AUTOMATIC = RefinementConfig()
"""Refinement that settles everything by itself."""


def loaded_scan(scan: Scan | AnyPath) -> Scan:
    return scan if isinstance(scan, Scan) else load_scan(scan)


def chosen_backend(backend: str | Backend | None, config: TrainingConfig | InferenceConfig | None) -> Backend:
    return get_backend(backend, config=config) if backend is None or isinstance(backend, str) else backend


def absolute_path(path: AnyPath | None) -> Path | None:
    """`path` as it is to be understood whatever the working directory is later."""
    return None if path is None else Path(path).absolute()


def is_within(path: AnyPath, folder: AnyPath) -> bool:
    """True for a folder itself and for the files in it."""
    here = Path(folder).resolve()
    return here in (Path(path).resolve(), Path(path).resolve().parent)


def require_product(path: AnyPath | None, scan: Scan) -> None:
    """Raise the errors of writing a product: now, not after hours."""
    if path is not None:
        product_from_scan(scan)
        output_directory(Path(path).parent)


def require_light(groups: GroupedData) -> None:
    """Raise `ScanError` if every pattern is empty: now, not when the first batch is asked for."""
    if isinstance(groups, CanvasGroups):
        return
    _ = groups.normalisation
