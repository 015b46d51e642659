"""Pictures of a scan and of its check: positions, patterns, probe, and quick images in both orientations."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_backends.checking.cures import cured
from ptycho_backends.checking.facts import Facts
from ptycho_backends.checking.findings import Finding
from ptycho_backends.checking.trial import Trial
from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.images.drawing import new_figure, save_figure
from ptycho_backends.scans.scan import Scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES, MOST_COLUMNS = 3.0, 5
Panel = Callable[["Axes"], None]


def save_check_figure(scan: Scan, findings: Sequence[Finding], path: str | os.PathLike[str]) -> Path:
    """Draw a scan and its findings.

    Positions over the object, the mean pattern with its centre, the histogram of the patterns, and images of a few
    positions: as the scan is, and with all cures.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    panels = [_positions(scan), _mean_pattern(scan), _histogram(scan), _image(scan, "as it is")]
    if any(finding.cure.changes for finding in findings):
        # not of a scan whose numbers do not allow the cures
        with contextlib.suppress(PtychoBackendsError):
            panels.append(_image(cured(scan, findings), "with the cures"))
    heading = "nothing found" if not findings else "; ".join(finding.text for finding in findings)
    return _save(panels, f"{scan.name}: {heading}", path)


def save_scan_figure(scan: Scan, path: str | os.PathLike[str]) -> Path:
    """Draw a scan: positions, mean and first patterns, probe, and object.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    panels = [_positions(scan), _mean_pattern(scan)]
    panels += [_pattern(scan, number) for number in range(min(2, len(scan)))]
    if scan.probe_guess is not None:
        panels.append(_amplitude_panel(np.abs(scan.probe_guess), "probe, amplitude", "inferno"))
    if scan.object_guess is not None:
        panels.append(_amplitude_panel(np.abs(scan.object_guess), "object, amplitude", "gray"))
        panels.append(_amplitude_panel(np.angle(scan.object_guess), "object, phase", "twilight"))
    return _save(
        panels, f"{scan.name}: {len(scan)} positions, {scan.N} x {scan.N} pixels, {scan.measurement}", path
    )


def _save(panels: Sequence[Panel], heading: str, path: str | os.PathLike[str]) -> Path:
    columns = len(panels) if len(panels) <= MOST_COLUMNS else 4
    rows = -(-len(panels) // columns)
    figure = new_figure(columns * PANEL_INCHES, rows * PANEL_INCHES + 0.5)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for place, draw in zip(axes.flat, panels, strict=False):
        draw(place)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    figure.suptitle(heading[:160], fontsize=8, wrap=True)
    return save_figure(figure, path)


def _positions(scan: Scan) -> Panel:
    def draw(axes: "Axes") -> None:
        if scan.object_guess is not None:
            height, width = scan.object_guess.shape
            axes.imshow(
                np.abs(scan.object_guess), cmap="gray", extent=(-0.5, width - 0.5, height - 0.5, -0.5)
            )
        axes.scatter(scan.xcoords, scan.ycoords, s=3, c=np.arange(len(scan)), cmap="viridis")
        axes.set_aspect("equal")
        if not axes.yaxis_inverted():
            axes.invert_yaxis()
        _title(axes, "positions (colour: order)")
        axes.tick_params(labelsize=6)

    return draw


def _mean_pattern(scan: Scan) -> Panel:
    def draw(axes: "Axes") -> None:
        mean = Facts(scan).mean
        axes.imshow(np.log10(mean + 1e-3 * max(mean.max(), 1e-12)), cmap="magma")
        middle = scan.N // 2
        axes.axhline(middle, color="cyan", linewidth=0.4)
        axes.axvline(middle, color="cyan", linewidth=0.4)
        axis = np.arange(scan.N)
        total = max(mean.sum(), 1e-300)
        axes.plot((mean * axis).sum() / total, (mean * axis[:, None]).sum() / total, "w+", markersize=8)
        _title(axes, "mean pattern, log (+: centre of mass)")
        _bare(axes)

    return draw


def _pattern(scan: Scan, number: int) -> Panel:
    def draw(axes: "Axes") -> None:
        counts = scan.diffraction_amplitude([number])[0] ** 2
        axes.imshow(np.log10(counts + 1e-3 * max(counts.max(), 1e-12)), cmap="magma")
        _title(axes, f"pattern {number}, log")
        _bare(axes)

    return draw


def _histogram(scan: Scan) -> Panel:
    def draw(axes: "Axes") -> None:
        counts = Facts(scan).counts
        largest = max(float(counts.max()), 1.0)
        axes.hist(
            counts[counts > 0], bins=np.geomspace(min(0.5, largest / 2), largest, 50).tolist(), color="gray"
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.tick_params(labelsize=6)
        _title(axes, f"counts of pixels; {100 * np.mean(counts == 0):.0f} % are zero")

    return draw


def _image(scan: Scan, text: str) -> Panel:
    def draw(axes: "Axes") -> None:
        trial = Trial.of(scan)
        if trial is None or np.ptp(trial.positions_px, axis=0).max() > 40 * scan.N:
            axes.text(
                0.5, 0.5, "no image: no probe,\nor too few positions", ha="center", va="center", fontsize=7
            )
            axes.set_axis_off()
            return
        image = trial.image()
        turn = np.exp(-1j * np.angle(image.sum()))
        axes.imshow(np.where(image != 0, np.angle(image * turn), np.nan), cmap="viridis")
        _title(axes, f"phase, {text}: error {trial.error():.3g}")
        _bare(axes)

    return draw


def _amplitude_panel(image: Any, text: str, colours: str) -> Panel:
    def draw(axes: "Axes") -> None:
        axes.imshow(image, cmap=colours)
        _title(axes, text)
        _bare(axes)

    return draw


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, fontsize=7)


def _bare(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
