"""The command `export`: models, images and scans for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_backends.cli.groups import Messages, takes_groups
from ptycho_backends.cli.options import BackendName, option
from ptycho_backends.cli.reading import READ_AS_IT_IS

if TYPE_CHECKING:
    from ptycho_backends.export.formats import ExportFormat
    from ptycho_backends.protocol import Backend
    from ptycho_backends.scans.scan import Scan


@takes_groups
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="A model (wts.h5.zip, .ckpt), an image (reconstruction.npz), a scan, or the folder of a run.",
            metavar="MODEL|IMAGE|SCAN",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(help="File to write; its ending names the format.", metavar="OUT", show_default=False),
    ],
    format: Annotated[
        str | None,
        option(
            "--format", "-f", help="Name of the format, where the ending does not tell it (docs/export.md)."
        ),
    ] = None,
    scan: Annotated[
        Path | None,
        option(
            "--scan", help="Scan of the image: a product needs it, CXI takes energy and distance from it."
        ),
    ] = None,
    licence: Annotated[
        str | None, option("--licence", help="Text on the licence that the file carries.", metavar="TEXT")
    ] = None,
    backend: BackendName = None,
    *,
    messages: Messages,
) -> None:
    """Write a model, an image or a scan for another program, with its configuration, scale and licence.

    Example: ptycho-backends export run model.onnx

    An image: ptycho-backends export run image.tif
    """
    with messages.session() as say:
        from ptycho_backends.cli.settings import scan_of
        from ptycho_backends.export.formats import format_named, format_of
        from ptycho_backends.export.metadata import LICENCE
        from ptycho_backends.registry import get_backend

        chosen = format_of(out) if format is None else format_named(format)
        maker = get_backend(backend)
        held = None if scan is None else scan_of(scan, READ_AS_IT_IS)
        value, options = _source(source, chosen, maker, held)
        written = maker.export(value, out, chosen.name, licence=licence or LICENCE, **options)
        say(f"wrote {written}: {chosen.label}, {chosen.content}")


def _source(
    path: Path, chosen: "ExportFormat", backend: "Backend", scan: "Scan | None"
) -> tuple[Any, dict[str, Any]]:
    """The value that `chosen` is written from, found at `path` or in that folder, and the options beside it."""
    from ptycho_backends.cli.settings import scan_of
    from ptycho_backends.training.run_folder import FILES

    if chosen.source == "model":
        return backend.load(path), {}
    if chosen.source == "scan":
        inside = path / FILES["scan"]
        return scan_of(inside if inside.is_file() else path, READ_AS_IT_IS), {}
    from ptycho_backends.images.results import load_reconstruction

    file = path / FILES["reconstruction"] if path.is_dir() else path
    image = load_reconstruction(file)
    inside = file.parent / FILES["scan"]
    if scan is None and inside.is_file():
        scan = scan_of(inside, READ_AS_IT_IS)
    return image, {"scan": scan, "origin": _origin(file.parent)}


def _origin(folder: Path) -> dict[str, Any]:
    """Configuration, scale and settings of the run in `folder`, as far as it keeps them."""
    from ptycho_backends.archive.model_file import load_archive
    from ptycho_backends.errors import ArchiveError
    from ptycho_backends.training.run_folder import FILES

    names = ("config", "inference_config", "refinement_config", "execution")
    origin: dict[str, Any] = {
        "settings": {
            FILES[name]: (folder / FILES[name]).read_text()
            for name in names
            if (folder / FILES[name]).is_file()
        }
    }
    if (folder / FILES["archive"]).is_file():
        try:
            model = load_archive(folder / FILES["archive"])
        except ArchiveError:
            return origin
        origin |= {"config": model.config, "intensity_scale": float(model.intensity_scale)}
    return origin
