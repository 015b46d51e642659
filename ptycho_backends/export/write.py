"""From a value and a format to a file; formats of a framework go to the backend that has it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho_backends.archive.genuine_export import write_genuine_archive
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.errors import BackendUnavailableError, ExportError
from ptycho_backends.export.formats import ExportFormat, format_named, format_of
from ptycho_backends.export.image_files import save_png, save_tiff
from ptycho_backends.export.image_hdf5 import save_cxi_image, save_nxcxi_ptycho_image
from ptycho_backends.export.metadata import LICENCE, as_text, image_metadata, model_metadata
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.product import save_product
from ptycho_backends.scans.product_scan import product_from_reconstruction
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.values import Reconstruction, TrainedModel

Source = TrainedModel | Reconstruction | Scan
_KINDS: Mapping[type, str] = {TrainedModel: "model", Reconstruction: "image", Scan: "scan"}

METADATA_SUFFIX = ".metadata.json"
"""Of the file beside an export whose own format has no place for metadata."""


def chosen_format(source: Source, path: str | os.PathLike[str], name: str | None) -> ExportFormat:
    """The format `name`, or the one that the ending of `path` means, and that it fits `source`.

    Raises
    ------
    ExportError
    """
    kind = _KINDS[type(source)]
    chosen = format_of(os.fspath(path), kind) if name is None else format_named(name)
    if chosen.source != kind:
        raise ExportError(f"format: {chosen.name!r} is written from {_an(chosen.source)}, got {_an(kind)}")
    return chosen


def _an(kind: str) -> str:
    return f"{'an' if kind == 'image' else 'a'} {kind}"


def write_without_framework(
    source: Source,
    path: str | os.PathLike[str],
    format: str,
    *,
    scan: Scan | None = None,
    licence: str = LICENCE,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write one of `formats.WITHOUT_FRAMEWORK`.

    Parameters
    ----------
    source : TrainedModel, Reconstruction or Scan
        As the format wants.
    path : path
    format : str
    scan : Scan, optional
        Of an image: needed by 'product', and used by 'cxi' and 'nxcxi-ptycho'.
    licence : str
    origin : mapping, optional
        Of an image: further arguments of `metadata.image_metadata`.

    Raises
    ------
    ExportError, ScanError, OutputError
    """
    path = Path(path)
    if isinstance(source, TrainedModel):
        written = write_genuine_archive(source, path)
        _write_beside(written, model_metadata(source, format, licence))
        return written
    if isinstance(source, Scan):
        written = save_scan(source, path)
        facts = {"kind": "scan", "format": format, "licence": licence, "name": source.name}
        _write_beside(written, facts)
        return written
    metadata = image_metadata(source, format, licence, **(origin or {}))
    if format == "product":
        if scan is None:
            raise ExportError(
                "product: holds positions in metres, which come from the scan; want scan (--scan SCAN)"
            )
        written = save_product(product_from_reconstruction(source, scan), path)
        _write_beside(written, metadata)
        return written
    if format == "cxi":
        return save_cxi_image(source, path, metadata, scan)
    if format == "nxcxi-ptycho":
        return save_nxcxi_ptycho_image(source, path, metadata, scan)
    return {"tiff": save_tiff, "png": save_png}[format](source, path, metadata)


def write_with_framework(
    model: TrainedModel, path: str | os.PathLike[str], format: str, licence: str = LICENCE
) -> Path:
    """Write a format of a built-in backend through that backend: weights are neutral, so any of them can.

    Raises
    ------
    BackendUnavailableError
        If its framework is not installed; the text gives the commands that would do it.
    """
    writer = format_named(format).writer
    assert writer is not None
    try:
        backend: Backend = get_backend(writer)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"{format}: is written with {BUILT_IN[writer].label}, which is not installed here; save the model as an "
            f"archive (ptycho-backends keeps it as wts.h5.zip), then run: {BUILT_IN[writer].install} && "
            f"ptycho-backends export wts.h5.zip {Path(path).name} --format {format}"
        ) from error
    return backend.export(model, path, format, licence=licence)


def _write_beside(path: Path, metadata: Mapping[str, Any]) -> None:
    """Formats of other programs are not extended: their metadata lie in a file of their own."""
    with replaced_atomically(path.with_name(path.name + METADATA_SUFFIX)) as stream:
        stream.write(f"{as_text(metadata)}\n".encode())
