"""Pictures of a reconstruction and of a training history, as PNG (or any suffix matplotlib writes).

Matplotlib's object-oriented interface only: no pyplot, so no window system and no global state.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import OutputError, ScanError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images.matplotlib_import import import_matplotlib
from ptycho_backends.images.metrics import Alignment, Metrics, align, covered_box
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import EpochRecord, Reconstruction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160

# A few hot or dead pixels must not decide the contrast.
CONTRAST_PERCENTILES = (0.5, 99.5)

AMPLITUDE_MAP = "gray"
PHASE_MAP = "viridis"
# A phase that fills the circle needs a map whose two ends meet.
CYCLIC_PHASE_MAP = "twilight"
ERROR_MAP = "RdBu_r"

# Okabe and Ito's blue and vermilion: distinct for colour-blind readers too.
TRAIN_COLOUR, VALIDATION_COLOUR, RATE_COLOUR = "#0072B2", "#D55E00", "#7F7F7F"

PANEL_INCHES = 3.1

_Extent = tuple[float, float, float, float]


class _Panel(NamedTuple):
    title: str
    image: NDArray
    colour_map: str
    limits: tuple[float, float]
    label: str


def save_reconstruction_figure(
    reconstruction: Reconstruction,
    path: str | os.PathLike[str],
    scan: Scan | None = None,
    metrics: Metrics | None = None,
    alignment: Alignment | Literal["find"] | None = "find",
) -> Path:
    """Draw amplitude and phase side by side; below them the known object and the error, if there is one.

    Parameters
    ----------
    reconstruction : Reconstruction
    path : path
        The suffix chooses the format.
    scan : Scan, optional
        With an object guess, the second and third row show it and the difference.
    metrics : Metrics, optional
        Written above the panels.
    alignment : Alignment, 'find' or None
        The known object beside the reconstruction, where `metrics.align` has found it already; None draws
        the reconstruction alone. Default: find it.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    ScanError
        If nothing is covered.
    """
    if alignment == "find":
        alignment = _alignment(reconstruction, scan)
    rows = [_own_row(reconstruction)] if alignment is None else _rows_beside_truth(alignment)
    box = covered_box(reconstruction)
    height, width = (part.stop - part.start for part in box)
    panel_height = PANEL_INCHES * min(max(height / width, 0.4), 2.0)
    figure = _figure(2 * (PANEL_INCHES + 1.0), len(rows) * (panel_height + 0.2) + 0.7)
    extent, unit = _extent(reconstruction, box)
    axes = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey=True)
    for row, panels in zip(axes, rows, strict=True):
        for panel_axes, panel in zip(row, panels, strict=True):
            _draw(figure, panel_axes, panel, extent)
        row[0].set_ylabel(f"y ({unit})", fontsize=9)
    for panel_axes in axes[-1]:
        panel_axes.set_xlabel(f"x ({unit})", fontsize=9)
    figure.suptitle(_heading(reconstruction, scan, metrics), fontsize=9)
    return _save(figure, path)


def save_history_figure(history: Sequence[EpochRecord], path: str | os.PathLike[str]) -> Path:
    """Draw training loss, validation loss and learning rate over the epochs.

    Parameters
    ----------
    history : sequence of EpochRecord
    path : path

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    figure = _figure(6.0, 4.2)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    epochs = np.array([record.epoch for record in history])
    validated = [record for record in history if record.val_loss is not None]
    style: dict[str, Any] = {
        "marker": "o",
        "markersize": 3.0 if len(history) <= 60 else 0.0,
        "linewidth": 1.2,
    }
    train = np.array([record.train_loss for record in history])
    val = np.array([record.val_loss for record in validated], float)
    losses.plot(epochs, train, color=TRAIN_COLOUR, label="training", **style)
    if validated:
        at = [record.epoch for record in validated]
        losses.plot(at, val, color=VALIDATION_COLOUR, label="validation", **style)
    _limit_losses(losses, np.concatenate([train, val]))
    rate = np.array([record.learning_rate for record in history])
    rates.semilogy(epochs, rate, color=RATE_COLOUR, **style)
    _limit_rates(rates, rate)
    losses.set_ylabel("loss", fontsize=9)
    rates.set_ylabel("learning rate", fontsize=9)
    rates.set_xlabel("epoch", fontsize=9)
    rates.xaxis.get_major_locator().set_params(integer=True)
    if history:
        losses.legend(frameon=False, fontsize=9)
    for panel_axes in (losses, rates):
        panel_axes.spines[["top", "right"]].set_visible(False)
        panel_axes.tick_params(labelsize=8)
        panel_axes.grid(alpha=0.25, linewidth=0.6)
    figure.align_ylabels()
    return _save(figure, path)


def _figure(width: float, height: float) -> "Figure":
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower() or "png"
    supported = figure.canvas.get_supported_filetypes()
    if suffix not in supported:
        raise OutputError(f"{path}: got the suffix .{suffix}, want one of {', '.join(sorted(supported))}")
    with replaced_atomically(path) as stream:
        figure.savefig(stream, format=suffix)
    return path


def _alignment(reconstruction: Reconstruction, scan: Scan | None) -> Alignment | None:
    if scan is None or scan.object_guess is None:
        return None
    try:
        return align(reconstruction, scan)
    except ScanError:
        # too little overlap to compare: `metrics.compare` raises; the figure shows the reconstruction alone
        return None


def _own_row(reconstruction: Reconstruction) -> list[_Panel]:
    box = covered_box(reconstruction)
    covered = reconstruction.coverage[box] > 0
    image = reconstruction.object[box].astype(np.complex128)
    # the global phase is free; zero mean keeps the picture away from the wrap at pi
    mean = np.sum(image[covered])
    image = image * (np.conj(mean) / abs(mean) if abs(mean) > 0 else 1.0)
    amplitude = np.where(covered, np.abs(image), np.nan)
    phase = np.where(covered, np.angle(image), np.nan)
    return [
        _Panel("amplitude", amplitude, AMPLITUDE_MAP, _limits(amplitude, covered), "amplitude"),
        _phase_panel("phase", phase, _limits(phase, covered)),
    ]


def _rows_beside_truth(alignment: Alignment) -> list[list[_Panel]]:
    """Reconstruction, truth, difference; the first two share their limits, which the truth decides."""
    region = alignment.region
    ours, truth = alignment.reconstruction, alignment.truth
    covered = np.abs(ours) > 0
    amplitude_limits = _limits(np.abs(truth), region)
    phase_limits = _limits(np.angle(truth), region)
    rows = []
    for name, image, shown in (("reconstruction", ours, covered), ("known object", truth, covered)):
        amplitude = np.where(shown, np.abs(image), np.nan)
        phase = np.where(shown, np.angle(image), np.nan)
        rows.append(
            [
                _Panel(f"amplitude, {name}", amplitude, AMPLITUDE_MAP, amplitude_limits, "amplitude"),
                _phase_panel(f"phase, {name}", phase, phase_limits),
            ]
        )
    amplitude_error = np.where(region, np.abs(ours) - np.abs(truth), np.nan)
    phase_error = np.where(region, np.angle(ours * truth.conj()), np.nan)
    rows.append(
        [
            _Panel(
                "amplitude, difference", amplitude_error, ERROR_MAP, _symmetric(amplitude_error), "amplitude"
            ),
            _Panel("phase, difference", phase_error, ERROR_MAP, _symmetric(phase_error), "phase (rad)"),
        ]
    )
    return rows


def _phase_panel(title: str, phase: NDArray, limits: tuple[float, float]) -> _Panel:
    if limits[1] - limits[0] > 1.5 * np.pi:
        return _Panel(title, phase, CYCLIC_PHASE_MAP, (-np.pi, np.pi), "phase (rad)")
    return _Panel(title, phase, PHASE_MAP, limits, "phase (rad)")


def _limits(image: NDArray, region: NDArray[np.bool_]) -> tuple[float, float]:
    values = image[region & np.isfinite(image)]
    low, high = np.percentile(values, CONTRAST_PERCENTILES) if values.size else (0.0, 1.0)
    # a flat image still needs limits that differ
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-3)
    return float(middle - half), float(middle + half)


def _symmetric(image: NDArray) -> tuple[float, float]:
    finite = np.abs(image[np.isfinite(image)])
    high = max(float(np.percentile(finite, CONTRAST_PERCENTILES[1])), 1e-3) if finite.size else 1.0
    return -high, high


def _extent(reconstruction: Reconstruction, box: tuple[slice, slice]) -> tuple[_Extent, str]:
    """Edges of the image for `imshow` (left, right, bottom, top), and their unit."""
    x, y = reconstruction.origin_px
    rows, columns = box
    edges = np.array([columns.start + x, columns.stop + x, rows.stop + y, rows.start + y]) - 0.5
    unit = "px"
    if reconstruction.pixel_size_m is not None:
        edges, unit = edges * reconstruction.pixel_size_m * 1e6, "µm"
    left, right, bottom, top = edges.tolist()
    return (left, right, bottom, top), unit


def _draw(figure: "Figure", panel_axes: "Axes", panel: _Panel, extent: _Extent) -> None:
    low, high = panel.limits
    drawn = panel_axes.imshow(
        panel.image,
        cmap=panel.colour_map,
        vmin=low,
        vmax=high,
        extent=extent,
        interpolation="nearest",
        aspect="equal",
    )
    panel_axes.set_title(panel.title, fontsize=9)
    panel_axes.tick_params(labelsize=8)
    # uncovered pixels are NaN, so they are neither black nor a colour of the map
    panel_axes.set_facecolor("#dddddd")
    inside = panel.image[np.isfinite(panel.image)]
    below, above = bool((inside < low).any()), bool((inside > high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    # a bar exactly as high as its image
    beside = panel_axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(drawn, cax=beside, extend=extend, extendfrac=0.03)
    bar.set_label(panel.label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _heading(reconstruction: Reconstruction, scan: Scan | None, metrics: Metrics | None) -> str:
    parts = [scan.name] if scan is not None else []
    parts.append(f"{len(reconstruction.group_centres_px)} patches")
    if reconstruction.backend:
        parts.append(reconstruction.backend)
    lines = [", ".join(parts)]
    if metrics is not None:
        lines.append(
            f"complex correlation {metrics.complex_correlation:.3f}, "
            f"phase correlation {metrics.phase_correlation:.3f}, "
            f"phase error {metrics.phase_error_rad:.3f} rad"
        )
    return "\n".join(lines)


def _limit_losses(losses: "Axes", values: NDArray) -> None:
    """Set a logarithmic scale for a wide range; else linear limits that ignore an outlying first epoch."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    # Poisson likelihoods of bright patterns are negative, and have no logarithm
    if low > 0 and high > 5 * low:
        losses.set_yscale("log")
        return
    if finite.size >= 8:
        top = float(np.percentile(finite, 90))
        if high - low > 5 * (top - low) > 0:
            losses.set_ylim(low - 0.05 * (top - low), top + 0.3 * (top - low))


def _limit_rates(rates: "Axes", values: NDArray) -> None:
    """Set limits at whole decades; a nearly constant rate would get crowded labels otherwise."""
    from matplotlib.ticker import NullFormatter

    rates.yaxis.set_minor_formatter(NullFormatter())
    if values.size and values.min() > 0:
        low, high = np.floor(np.log10(values.min()) + 1e-9), np.ceil(np.log10(values.max()) - 1e-9)
        rates.set_ylim(10.0**low * 0.7, 10.0**high * 1.4)
