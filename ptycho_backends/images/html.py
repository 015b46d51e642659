"""Parts of a page that needs no network and no library: pictures with bars, charts, tables."""

import base64
import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.files.png_file import png_bytes

# Colours at equal steps; those between are interpolated.
COLOUR_MAPS: Mapping[str, tuple[str, ...]] = {
    "grey": ("000000", "ffffff"),
    "viridis": ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"),
    "inferno": ("000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"),
    "difference": ("053061", "2166ac", "4393c3", "92c5de", "f7f7f7", "f4a582", "d6604d", "b2182b", "67001f"),
}  # fmt: skip
# Of pixels without a value.
BARE = (221, 221, 221)
CONTRAST_PERCENTILES = (0.5, 99.5)
LINE_COLOURS = ("#1f5fa8", "#c4491d", "#3a8f4d", "#7a4fa3")

# Lengths of a scale bar, times a power of ten, and its part of the width at most.
BAR_LENGTHS, BAR_FRACTION = (1.0, 2.0, 5.0), 0.3

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5d6b7a; --line: #dde3ea; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 28px 60px; color: var(--ink); background: #fff;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; }
h2 { font-size: 17px; margin: 34px 0 10px; border-bottom: 1px solid var(--line);
  padding-bottom: 5px; } p.sub { color: var(--soft); margin: 0 0 16px; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; } .tile { border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 14px; min-width: 120px; } .tile b { display: block; font-size: 19px; } .tile span { color: var(--soft);
  font-size: 12.5px; }
.row { display: flex; flex-wrap: wrap; gap: 22px; align-items: flex-start; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin-top: 4px; max-width: 100%; }
.picture { display: flex; gap: 8px; }
.frame { position: relative; overflow: hidden; background: #ddd; cursor: zoom-in; }
.frame img { display: block; width: 100%; height: 100%; image-rendering: pixelated; transform-origin: 0 0; }
.bar { width: 12px; border: 1px solid #bbb; } .limits { display: flex; flex-direction: column;
  justify-content: space-between; font-size: 11.5px; color: var(--soft); white-space: nowrap; }
.scale { position: absolute; left: 5%; bottom: 5%; border-top: 3px solid #fff; color: #fff; font-size: 12px;
  pointer-events: none; box-shadow: 0 -1px 0 #000; }
.scale span { position: absolute; left: 0; bottom: 5px; white-space: nowrap; padding: 0 4px; border-radius: 3px;
  background: #000a; }
table { border-collapse: collapse; font-size: 13.5px; } td, th { text-align: left; padding: 3px 16px 3px 0;
  border-bottom: 1px solid var(--line); vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; }
pre { font: 12.5px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; background: #f6f8fa; padding: 10px 14px;
  border-radius: 6px; overflow: auto; margin: 6px 0; } summary { cursor: pointer; color: var(--soft); }
.choice { font-size: 13px; margin: 0 0 8px; } .choice label { margin-right: 14px; } svg { display: block; } svg text {
  font: 11px system-ui, "DejaVu Sans", sans-serif; fill: #5d6b7a; } [hidden] { display: none !important; }
"""

# Zoom with the wheel, move by dragging, a double click for the whole; a radio button shows one of several pictures.
SCRIPT = """
document.querySelectorAll('.frame').forEach(function (frame) {
  var image = frame.querySelector('img'), scale = 1, x = 0, y = 0, from = null;
  var bar = frame.querySelector('.scale'), width = bar ? parseFloat(bar.style.width) : 0;
  function show() {
    var w = frame.clientWidth, h = frame.clientHeight;
    x = Math.min(0, Math.max(w - w * scale, x)); y = Math.min(0, Math.max(h - h * scale, y));
    image.style.transform = 'translate(' + x + 'px,' + y + 'px) scale(' + scale + ')';
    if (bar) { bar.style.width = width * scale + '%'; bar.hidden = width * scale > 90; }
  }
  frame.addEventListener('wheel', function (event) {
    event.preventDefault();
    var box = frame.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    var next = Math.min(32, Math.max(1, scale * Math.exp(-event.deltaY / 400)));
    x = px - (px - x) * next / scale; y = py - (py - y) * next / scale; scale = next; show();
  }, { passive: false });
  frame.addEventListener('pointerdown', function (event) {
    event.preventDefault(); from = [event.clientX - x, event.clientY - y]; frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener('pointermove', function (event) {
    if (from) { x = event.clientX - from[0]; y = event.clientY - from[1]; show(); }
  });
  frame.addEventListener('pointerup', function () { from = null; });
  frame.addEventListener('dblclick', function () { scale = 1; x = 0; y = 0; show(); });
});
document.querySelectorAll('.choice input').forEach(function (input) {
  input.addEventListener('change', function () {
    document.querySelectorAll('[data-group="' + input.name + '"]').forEach(function (figure) {
      figure.hidden = figure.dataset.name !== input.value;
    });
  });
});
"""


@dataclass(frozen=True)
class Scale:
    """Length of a pixel for the bar in a picture: `pixel` of `unit`."""

    pixel: float
    unit: str

    @classmethod
    def of(cls, pixel_size_m: float | None) -> "Scale":
        return cls(1.0, "px") if pixel_size_m is None else cls(pixel_size_m * 1e6, "µm")


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"
    )


def escaped(text: str) -> str:
    """`text` as HTML."""
    return html.escape(text)


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def row(parts: Iterable[str]) -> str:
    return f'<div class="row">{"".join(parts)}</div>'


def tiles(values: Mapping[str, str]) -> str:
    """Figures that matter, large."""
    each = (
        f'<div class="tile"><b>{html.escape(text)}</b><span>{html.escape(name)}</span></div>'
        for name, text in values.items()
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def table(rows: Iterable[Sequence[object]], heading: Sequence[str] = ()) -> str:
    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    head = line(heading, "th") if heading else ""
    return f"<table>{head}{''.join(line(cells, 'td') for cells in rows)}</table>"


def preformatted(title: str, text: str) -> str:
    """A long text that opens on a click."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"


def limits_of(values: NDArray, *, symmetric: bool = False) -> tuple[float, float]:
    """Limits that a few hot or dead pixels do not decide; they differ."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    if symmetric:
        high = max(float(np.percentile(np.abs(finite), CONTRAST_PERCENTILES[1])), 1e-6)
        return -high, high
    low, high = (float(value) for value in np.percentile(finite, CONTRAST_PERCENTILES))
    # a flat image needs limits that differ, too
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-3 * max(abs(high), 1e-6))
    return middle - half, middle + half


def coloured(values: NDArray, limits: tuple[float, float], colours: str) -> NDArray[np.uint8]:
    """(H, W, 3) colours of (H, W) values; grey where they are not finite."""
    anchors = np.array(
        [[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in COLOUR_MAPS[colours]], float
    )
    low, high = limits
    place = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1) * (len(anchors) - 1)
    mixed = np.stack([np.interp(place, np.arange(len(anchors)), anchors[:, i]) for i in range(3)], axis=-1)
    return np.where(np.isfinite(values)[..., None], np.rint(mixed), BARE).astype(np.uint8)


def picture(
    values: NDArray,
    caption: str,
    *,
    colours: str = "viridis",
    limits: tuple[float, float] | None = None,
    unit: str = "",
    scale: Scale | None = None,
    width: int = 420,
    group: tuple[str, str] | None = None,
    shown: bool = True,
) -> str:
    """An array (H, W), `[y, x]`, as a picture that can be zoomed, with a colour bar, and a bar of length if asked for.

    `group` is a name shared by pictures of which one is shown at a time, and the name of this one among them.
    """
    low, high = limits_of(values, symmetric=colours == "difference") if limits is None else limits
    data = base64.b64encode(png_bytes(coloured(values, (low, high), colours))).decode()
    rows, columns = values.shape
    height = round(width * min(max(rows / columns, 0.2), 2.0))
    stops = ", ".join(f"#{code}" for code in reversed(COLOUR_MAPS[colours]))
    length = "" if scale is None else _scale_bar(columns * min(1.0, width * rows / columns / height), scale)
    member = (
        ""
        if group is None
        else f' data-group="{group[0]}" data-name="{group[1]}"{"" if shown else " hidden"}'
    )
    text = html.escape(caption)
    return (
        f'<figure{member}><div class="picture"><div class="frame" style="width:{width}px;height:{height}px">'
        f'<img alt="{text}" draggable="false" src="data:image/png;base64,{data}">{length}</div>'
        f'<div class="bar" style="height:{height}px;background:linear-gradient({stops})"></div>'
        f'<div class="limits" style="height:{height}px"><span>{high:.3g} {unit}</span><span>{low:.3g}</span></div>'
        f'</div><figcaption style="max-width:{width + 20}px">{text}</figcaption></figure>'
    )


def choice(group: str, names: Sequence[str]) -> str:
    """Radio buttons that show one of the pictures of `group`; the first is chosen."""
    each = (
        f'<label><input type="radio" name="{group}" value="{name}"{" checked" if number == 0 else ""}> {name}</label>'
        for number, name in enumerate(names)
    )
    return f'<div class="choice">{"".join(each)}</div>'


def _scale_bar(columns: float, scale: Scale) -> str:
    longest = BAR_FRACTION * columns * scale.pixel
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in BAR_LENGTHS if step * decade <= longest)
    label = f"{length * 1e3:g} nm" if scale.unit == "µm" and length < 1 else f"{length:g} {scale.unit}"
    return f'<div class="scale" style="width:{100 * length / (columns * scale.pixel):.2f}%"><span>{label}</span></div>'


def chart(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    caption: str,
    *,
    x: str,
    logarithmic: bool = False,
    width: int = 520,
    height: int = 240,
) -> str:
    """Curves `{name: (x values, y values)}` over one axis, as SVG; what is not finite is left out."""
    left, right, top, bottom = 58, 14, 12, 34
    data = {}
    for name, (places, values) in curves.items():
        xs, ys = np.asarray(places, float), np.asarray(values, float)
        keep = np.isfinite(xs) & np.isfinite(ys) & ((ys > 0) | (not logarithmic))
        if keep.any():
            data[name] = xs[keep], np.log10(ys[keep]) if logarithmic else ys[keep]
    if not data:
        return ""
    every_x, every_y = (np.concatenate([pair[i] for pair in data.values()]) for i in (0, 1))
    x_low, x_high = _widened(float(every_x.min()), float(every_x.max()), 0.0)
    y_low, y_high = _widened(float(every_y.min()), float(every_y.max()), 0.05)

    def place(px: float, py: float) -> tuple[float, float]:
        across = left + (px - x_low) / (x_high - x_low) * (width - left - right)
        return across, top + (y_high - py) / (y_high - y_low) * (height - top - bottom)

    lines = [f'<rect x="{left}" y="{top}" width="{width - left - right}" height="{height - top - bottom}" '
             'fill="none" stroke="#dde3ea"/>']  # fmt: skip
    for tick in _ticks(y_low, y_high):
        _, down = place(x_low, tick)
        label = f"{10**tick:.3g}" if logarithmic else f"{tick:.4g}"
        lines.append(
            f'<line x1="{left}" x2="{width - right}" y1="{down:.1f}" y2="{down:.1f}" stroke="#eef1f5"/>'
        )
        lines.append(f'<text x="{left - 6}" y="{down + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in _ticks(x_low, x_high):
        across, _ = place(tick, y_low)
        lines.append(
            f'<text x="{across:.1f}" y="{height - bottom + 15}" text-anchor="middle">{tick:.4g}</text>'
        )
    lines.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 3}" text-anchor="middle">{html.escape(x)}</text>'
    )
    legend = []
    for (name, (xs, ys)), colour in zip(data.items(), itertools.cycle(LINE_COLOURS)):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*pair) for pair in zip(xs, ys, strict=True)))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(xs) == 1:
            across, down = place(xs[0], ys[0])
            lines.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>')
        legend.append(f'<span style="color:{colour}">&#9473; {html.escape(name)}</span>')
    return (
        f'<figure><svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(caption)}">{"".join(lines)}</svg>'
        f'<figcaption style="max-width:{width}px">{html.escape(caption)} &nbsp; {" &nbsp; ".join(legend)}'
        "</figcaption></figure>"
    )


def places(
    positions: NDArray,
    caption: str,
    *,
    values: NDArray | None = None,
    before: NDArray | None = None,
    unit: str = "px",
    value_name: str = "",
    width: int = 420,
) -> str:
    """Positions (M, 2), `[x, y]`, y down, as SVG; coloured by `values`, beside the given ones `before`."""
    every = positions if before is None else np.concatenate([positions, before])
    low, high = every.min(axis=0), every.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    margin = 14
    height = round((width - 2 * margin) * min(max(span[1] / span[0], 0.2), 2.0)) + 2 * margin
    factor = min((width - 2 * margin) / span[0], (height - 2 * margin) / span[1])
    shift = np.array([width, height]) / 2 - (low + high) / 2 * factor
    spots = positions * factor + shift
    radius = float(np.clip(0.25 * math.sqrt(width * height / max(len(positions), 1)), 1.2, 6))
    dots = []
    limits = (0.0, 1.0) if values is None else limits_of(values)
    fills = ["#1f5fa8"] * len(spots)
    if values is not None:
        tinted = coloured(values[None], limits, "inferno")[0]
        fills = [f"rgb({r},{g},{b})" for r, g, b in tinted]
    for number, ((across, down), fill) in enumerate(zip(spots, fills, strict=True)):
        told = f"position {number}" + ("" if values is None else f": {value_name} {values[number]:.4g}")
        dots.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}" fill="{fill}"><title>{told}</title></circle>'
        )
    if before is not None:
        for (x1, y1), (x2, y2) in zip(before * factor + shift, spots, strict=True):
            dots.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#1677c8"/>')
            dots.append(f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="1.4" fill="#1677c8"/>')
    frame = f'<rect width="{width}" height="{height}" fill="none" stroke="#dde3ea"/>'
    drawing = (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(caption)}">{frame}{"".join(dots)}</svg>'
    )
    bar = ""
    if values is not None:
        stops = ", ".join(f"#{code}" for code in reversed(COLOUR_MAPS["inferno"]))
        bar = (
            f'<div class="bar" style="height:{height}px;background:linear-gradient({stops})"></div><div class="limits" '
            f'style="height:{height}px"><span>{limits[1]:.3g}</span><span>{limits[0]:.3g}</span></div>'
        )
    size = f"{span[0]:.4g} x {span[1]:.4g} {unit}"
    return (
        f'<figure><div class="picture">{drawing}{bar}</div>'
        f'<figcaption style="max-width:{width}px">{html.escape(caption)}; {size}</figcaption></figure>'
    )


def _widened(low: float, high: float, by: float) -> tuple[float, float]:
    if high <= low:
        return low - 0.5, high + 0.5
    return low - by * (high - low), high + by * (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between `low` and `high`."""
    rough = (high - low) / 5
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(one * decade for one in (1, 2, 5, 10) if one * decade >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]
