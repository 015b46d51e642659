"""The command `inspect`: description and picture of a scan, and of every file that the program writes."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_backends.cli.options import Debug, Verbose, option
from ptycho_backends.cli.reading import READ_AS_IT_IS, Reading
from ptycho_backends.cli.reporting import EXIT_ERROR, described, echo, session
from ptycho_backends.errors import ArchiveError, ConfigError, ScanError
from ptycho_backends.files.budget import (
    MAX_CONFIG_BYTES,
    MAX_LINE,
    MAX_TABLE_BYTES,
    MAX_TEXT_BYTES,
    bounded_bytes,
)

Draw = Callable[[Path], Path]
Description = tuple[str, Draw | None]


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A scan, the folder of a run, or any file in it: archive, checkpoint, image, history, settings.",
            metavar="PATH",
        ),
    ],
    reading: Reading = READ_AS_IT_IS,
    picture: Annotated[
        Path | None,
        option(
            "--picture",
            help="Draw it: positions, patterns, probe and object of a scan; an image; a history.",
            metavar="FILE.png",
        ),
    ] = None,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Describe a scan, or whatever this program writes (an archive with its origin and integrity), and draw it.

    Example: ptycho-backends inspect run/wts.h5.zip

    With a picture: ptycho-backends inspect scan.npz --picture scan.png
    """
    with session(verbose, False, debug):
        if _is_archive(path):
            _inspect_archive(path, picture)
            return
        text, draw = _folder(path, reading) if path.is_dir() else _file(path, reading)
        echo(text)
        if picture is not None:
            if draw is None:
                raise ConfigError(f"picture: there is nothing to draw of {path}")
            echo(f"wrote {draw(picture)}")


def _is_archive(path: Path) -> bool:
    """Recognise models by name, and folders that hold nothing else."""
    if path.is_dir():
        from ptycho_backends.training.run_folder import FILES

        others = [name for key, name in FILES.items() if key != "archive" and (path / name).exists()]
        return not others and not _is_scan(path)
    return path.suffix.lower() in (".zip", ".ckpt") or not (
        path.suffix.lower() in (*_BY_SUFFIX, ".npz", ".h5", ".hdf5") or _is_scan(path)
    )


def _is_scan(path: Path) -> bool:
    from ptycho_backends.scans.scan_files import is_scan

    return is_scan(path)


def _inspect_archive(path: Path, picture: Path | None) -> None:
    from ptycho_backends.archive.model_file import inspect_archive

    summary = inspect_archive(path)
    echo(str(summary))
    if not summary.whole:
        raise typer.Exit(EXIT_ERROR)
    if picture is not None:
        from ptycho_backends.archive.model_file import load_archive_history

        echo(f"wrote {_history_drawing(load_archive_history(path), path)(picture)}")


def _folder(path: Path, reading: Reading) -> Description:
    """A scan in a folder, or the files of a run."""
    from ptycho_backends.training.run_folder import (
        FILES,
        LAST_CHECKPOINT,
        REFINEMENT_CHECKPOINT,
        resumable_file,
    )

    held = [name for name in FILES.values() if (path / name).exists()]
    if not held:
        return _scan(path, reading)
    lines = [_row("run", path)]
    draw: Draw | None = None
    for name in (*held, str(LAST_CHECKPOINT), REFINEMENT_CHECKPOINT):
        if not (path / name).exists() or name.endswith(".png"):
            continue
        if name.endswith(".zip"):
            lines.append(_row(name, _archive_line(path / name)))
            continue
        text, drawing = _file(path / name, reading)
        lines.append(_row(name, text.splitlines()[0].partition(" ")[2].strip()))
        draw = drawing if name == FILES["reconstruction"] or draw is None else draw
    if (path / FILES["archive"]).exists() or (path / LAST_CHECKPOINT).exists():
        lines.append(_row("resumes", f"from {resumable_file(path)}"))
    return "\n".join(lines), draw


def _archive_line(path: Path) -> str:
    from ptycho_backends.archive.model_file import inspect_archive

    try:
        summary = inspect_archive(path)
    except ArchiveError as error:
        return f"not readable: {error}"
    return f"{summary.backend}, {summary.epochs} epochs" if summary.whole else f"damaged: {summary.problem}"


def _file(path: Path, reading: Reading) -> Description:
    describe = _BY_SUFFIX.get(path.suffix.lower())
    return _scan_or_result(path, reading) if describe is None else describe(path)


def _page(path: Path) -> Description:
    """The page of a run, which its title tells from any other page."""
    import html
    import re

    start = path.read_text(encoding="utf-8", errors="replace")[:4096] if path.exists() else ""
    title = re.search(r"<title>(.*?)</title>", start)
    if not start.startswith("<!doctype html>") or title is None:
        raise ScanError(f"{path}: no page of a run")
    return _row("page", f"{html.unescape(title[1])}; open it in a browser"), None


def _scan_or_result(path: Path, reading: Reading) -> Description:
    """A scan, or a file of a reconstruction or a refinement, by the names of its arrays."""
    if path.suffix.lower() == ".npz":
        names = _names_in_npz(path)
        if {"object", "coverage"} <= names:
            return _reconstruction(path)
        if {"numbers", "canvas", "probe"} <= names:
            return _refinement_state(path)
    try:
        return _scan(path, reading)
    except ScanError:
        if path.suffix.lower() not in (".h5", ".hdf5"):
            raise
        # of a run or of Ptychodus, without patterns
        with contextlib.suppress(ScanError):
            return _product(path)
        raise


def _names_in_npz(path: Path) -> set[str]:
    from ptycho_backends.files.npz_file import NpzFile

    with contextlib.suppress(ScanError), NpzFile(path) as archive:
        return set(archive.names)
    return set()


def _scan(path: Path, reading: Reading) -> Description:
    from ptycho_backends.cli.settings import scan_of

    scan = scan_of(path, reading)

    def draw(picture: Path) -> Path:
        from ptycho_backends.checking.picture import save_scan_figure

        return save_scan_figure(scan, picture)

    return described(scan), draw


def _reconstruction(path: Path) -> Description:
    from ptycho_backends.images.results import load_reconstruction

    image = load_reconstruction(path)
    height, width = image.object.shape
    rows = [
        _row(
            "image",
            f"{width} x {height} pixels from {len(image.group_centres_px)} patches on {image.backend}",
        ),
        _row("covered", f"{100 * (image.coverage > 0).mean():.0f} % of the pixels"),
        _row("pixel", "size unknown" if image.pixel_size_m is None else f"{image.pixel_size_m * 1e9:.4g} nm"),
    ]
    if image.passes:
        last = image.passes[-1]
        rows.append(_row("refined", f"{len(image.passes)} passes, R-factor {last.r_factor:.4f}"))
    if image.probe_modes is not None:
        rows.append(_row("probe", f"{len(image.probe_modes)} modes of {image.probe_modes.shape[-1]} pixels"))

    def draw(picture: Path) -> Path:
        from ptycho_backends.images.figures import save_reconstruction_figure

        return save_reconstruction_figure(image, picture)

    return "\n".join(rows), draw


def _refinement_state(path: Path) -> Description:
    from ptycho_backends.refinement.checkpoint import load_state

    state = load_state(path)
    height, width = state.canvas.shape
    last = f", R-factor {state.passes[-1].r_factor:.4f}" if state.passes else ""
    return _row(
        "refinement", f"{len(state.passes)} passes on {width} x {height} pixels{last}; to be resumed"
    ), None


def _product(path: Path) -> Description:
    from ptycho_backends.scans.product import load_product

    product = load_product(path)
    probe, image = (" x ".join(map(str, shape)) for shape in (product.probe.shape, product.object.shape))
    count = len(product.scan_positions_m)
    return _row("product", f"of Ptychodus: {count} positions, probe {probe}, object {image}"), None


def _table(path: Path) -> Description:
    """A history of training, or another table."""
    from ptycho_backends.archive.members import history_from_bytes

    data = bounded_bytes(path, MAX_TABLE_BYTES, ScanError)
    try:
        history = history_from_bytes(data)
    except ArchiveError:
        first = data.partition(b"\n")[0][:MAX_LINE].decode(errors="replace").strip()
        rows = max(data.rstrip().count(b"\n"), 0)
        return _row("table", f"{rows} rows of {first or 'nothing'}"), None
    last = "" if not history else f", last train_loss {history[-1].train_loss:.6g}"
    return _row("history", f"{len(history)} epochs{last}"), _history_drawing(history, path)


def _history_drawing(history: Any, path: Path) -> Draw:
    def draw(picture: Path) -> Path:
        from ptycho_backends.images.curves import save_history_figure

        if not history:
            raise ConfigError(f"picture: {path} records no epochs")
        return save_history_figure(history, picture)

    return draw


def _json(path: Path) -> Description:
    import json

    from ptycho_backends.files.exact_json import bounded_loads

    try:
        values = bounded_loads(bounded_bytes(path, MAX_TEXT_BYTES, ScanError), str(path))
    except ArchiveError as error:
        raise ScanError(str(error)) from error
    named = values if isinstance(values, dict) else {"": values}
    first = ", ".join(f"{name} {value:.4g}" for name, value in named.items() if isinstance(value, float))
    return f"{_row('values', first or ', '.join(named))}\n{json.dumps(values, indent=2)}", None


def _settings(path: Path) -> Description:
    from ptycho_backends.config import ExecutionConfig, InferenceConfig, RefinementConfig, TrainingConfig
    from ptycho_backends.config_file import config_of, mapping_of

    data = bounded_bytes(path, MAX_CONFIG_BYTES, ConfigError)
    problem: Exception | None = None
    content = mapping_of(data, path, "settings")
    for kind in (TrainingConfig, InferenceConfig, ExecutionConfig, RefinementConfig):
        try:
            config_of(content, path, kind)
        except ConfigError as error:
            problem = problem or error
            continue
        return f"{_row('settings', f'valid {kind.__name__}')}\n{data.decode(errors='replace')}", None
    raise ConfigError(str(problem))


def _array(path: Path) -> Description:
    import numpy as np

    from ptycho_backends.files.mapped_npz import mapped_npy

    values = mapped_npy(path)
    shape = " x ".join(map(str, values.shape))
    told = f", {int(np.count_nonzero(values))} not zero" if values.dtype == bool else ""
    return _row("array", f"{shape}, {values.dtype}{told}"), None


def _row(label: str, value: object) -> str:
    return f"{label:<12} {value}"


_BY_SUFFIX: dict[str, Callable[[Path], Description]] = {
    ".csv": _table,
    ".json": _json,
    ".yaml": _settings,
    ".yml": _settings,
    ".npy": _array,
    ".html": _page,
}
