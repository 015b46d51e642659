"""Empty figures, and figures as files; no pyplot, so no window system and no global state."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho_backends.errors import OutputError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images.matplotlib_import import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches that needs no screen."""
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    """Write a figure, whole or not at all; the suffix chooses the format.

    Raises
    ------
    OutputError
        If the file cannot be written, or the suffix names no format.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower() or "png"
    supported = figure.canvas.get_supported_filetypes()
    if suffix not in supported:
        raise OutputError(f"{path}: got the suffix .{suffix}, want one of {', '.join(sorted(supported))}")
    with replaced_atomically(path) as stream:
        figure.savefig(stream, format=suffix)
    return path
