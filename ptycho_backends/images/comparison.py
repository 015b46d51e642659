"""Two or more images side by side, with maps of their differences from the first."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_backends.errors import ScanError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images import html
from ptycho_backends.images.figures import fitted, levelled, moved
from ptycho_backends.images.frc import ring_correlation_of_halves
from ptycho_backends.images.metrics import covered_box
from ptycho_backends.values import Reconstruction

WIDTH = 330


def save_comparison(
    images: Mapping[str, Reconstruction],
    path: str | os.PathLike[str],
    figures: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a page that compares images of one scan.

    All are brought onto the pixels of the first, without a ramp and with the factor that brings each closest to it.

    Parameters
    ----------
    images : mapping of str to Reconstruction
        Two or more, by name; the first is the one that others are compared with.
    path : path
    figures : mapping, optional
        Plain values of each image by name, as in its `metrics.json`.

    Raises
    ------
    ScanError
        If there are fewer than two images, or one does not overlap the first.
    OutputError
        If the file cannot be written.
    """
    if len(images) < 2:
        raise ScanError(f"compare: got {len(images)} image, want two or more")
    title = f"Comparison of {', '.join(images)}"
    (first_name, first), *others = images.items()
    box = covered_box(first)
    covered = first.coverage[box] > 0
    ours = levelled(np.where(covered, first.object[box], 0))
    scale = html.Scale.of(first.pixel_size_m)
    rows = [_row(first_name, ours, covered, scale)]
    table: list[list[str]] = []
    limits = (
        html.limits_of(np.where(covered, np.abs(ours), np.nan)),
        html.limits_of(np.where(covered, np.angle(ours), np.nan)),
    )
    charts = {}
    for name, image in others:
        there, known = moved(image, first, box)
        common = covered & known
        if not common.any():
            raise ScanError(f"compare: {name} does not overlap {first_name}; want images of one scan")
        there = fitted(there, ours, common)
        rows.append(_row(name, there, common, scale, limits))
        amplitude, phase = np.abs(there) - np.abs(ours), np.angle(there * ours.conj())
        differences = {"amplitude": amplitude, "phase (rad)": phase}
        pictures = [
            html.picture(
                np.where(common, values, np.nan), f"{name} - {first_name}, {part}", colours="difference", scale=scale,
                width=WIDTH,
            )
            for part, values in differences.items()
        ]  # fmt: skip
        rows.append(html.row(pictures))
        a, b = there[common], ours[common]
        coherence = abs(np.vdot(a, b)) / np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real)
        row = [name, f"{coherence:.5f}", f"{np.std(amplitude[common]):.4g}", f"{np.std(phase[common]):.4g}"]
        try:
            correlation = ring_correlation_of_halves(first, image)
            charts[name] = correlation.frequency, correlation.correlation
            row.append(str(correlation))
        except ScanError as error:
            row.append(str(error))
        table.append(row)
    heading = (
        "image",
        f"coherence with {first_name}",
        "amplitude difference",
        "phase difference (rad)",
        "ring correlation",
    )
    parts = [f"<h1>{html.escaped(title)}</h1>", html.section("Agreement", html.table(table, heading))]
    if charts:
        caption = f"Fourier ring correlation with {first_name}"
        parts.append(html.chart(charts, caption, x="cycles per pixel"))
    parts.append(html.section("Images", *rows))
    if figures:
        parts.append(
            html.section("Figures of each run", html.table(_figures(list(images), figures), ("", *images)))
        )
    path = Path(path)
    with replaced_atomically(path) as stream:
        stream.write(html.page(title, parts).encode())
    return path


def _row(
    name: str,
    image: np.ndarray,
    shown: np.ndarray,
    scale: html.Scale,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
) -> str:
    parts = {
        "amplitude": (np.abs(image), "grey", limits[0]),
        "phase (rad)": (np.angle(image), "viridis", limits[1]),
    }
    pictures = [
        html.picture(
            np.where(shown, values, np.nan),
            f"{name}, {part}",
            colours=colours,
            limits=known,
            scale=scale,
            width=WIDTH,
        )
        for part, (values, colours, known) in parts.items()
    ]
    return html.row(pictures)


def _figures(names: Sequence[str], figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    keys = dict.fromkeys(key for name in names for key in figures.get(name, {}))
    rows = []
    for key in keys:
        values = [figures.get(name, {}).get(key) for name in names]
        rows.append(
            [
                key,
                *(
                    "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
                    for value in values
                ),
            ]
        )
    return rows
