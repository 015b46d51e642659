"""Charts of all stored runs of the newest run's machine: throughput over time, and cost against scan size.

    python benchmarks/history.py                     # writes benchmark_report/index.html, and PNGs beside it

The page holds its pictures, so it can be sent by itself.
"""

import argparse
import base64
import html
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from stored import STORAGE, Measurement, Run, StoredRunError, stored_runs

from ptycho_backends.errors import OutputError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images.figures import DOTS_PER_INCH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORT = Path("benchmark_report")

# Okabe and Ito's, distinct for colour-blind readers too; the first two as in `ptycho_backends.images.figures`.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
BACKENDS = {"torch": COLOURS[0], "tensorflow": COLOURS[1]}
# line, marker
PRECISIONS = {"32-true": ("-", "o"), "bf16-mixed": ("--", "^")}
SIZED = ("grouping", "stitching")
# More runs than these are not all named below the axis.
MOST_LABELS = 6


class Line(NamedTuple):
    """Panel and style of a benchmark in the charts."""

    panel: str
    label: str
    colour: str | None
    style: tuple[str, str]


def line_of(measurement: Measurement) -> Line:
    """The line of a measurement: backends and precisions of one model share a panel; others have a line each."""
    rest = f"-{measurement.param or ''}-"
    found = {}
    for kind, known in (("backend", BACKENDS), ("precision", PRECISIONS)):
        found[kind] = next((name for name in known if f"-{name}-" in rest), "")
        rest = rest.replace(f"-{found[kind]}-", "-", 1) if found[kind] else rest
    rest = rest.strip("-")
    style = PRECISIONS.get(found["precision"], PRECISIONS["32-true"])
    if found["backend"]:
        label = " ".join(part for part in found.values() if part)
        return Line(rest, label, BACKENDS[found["backend"]], style)
    label = f"{int(rest):,}" if rest.isdigit() else rest
    return Line("", label or measurement.family, None, style)


def throughput_figure(runs: Sequence[Run], family: str) -> "Figure":
    """A panel for each model, a line for each benchmark, a point for each run."""
    panels: dict[str, dict[Line, list[tuple[int, float]]]] = {}
    unit = ""
    for index, run in enumerate(runs):
        for one in run.measurements.values():
            if one.family == family:
                line = line_of(one)
                value, unit = one.throughput
                panels.setdefault(line.panel, {}).setdefault(line, []).append((index, value))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 if columns == 1 else 0.6 + 3.4 * columns, 1.6 + 2.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    legend = {}
    for axes, (panel, lines) in zip(grid.flat, panels.items(), strict=False):
        for number, (line, points) in enumerate(lines.items()):
            x, y = zip(*points, strict=True)
            (legend[line.label],) = axes.plot(
                x,
                y,
                color=line.colour or COLOURS[number % len(COLOURS)],
                linestyle=line.style[0],
                marker=line.style[1],
                markersize=3.5,
                linewidth=1.2,
            )
        limit_throughput(axes, [value for points in lines.values() for _, value in points])
        label_runs(axes, runs)
        axes.set_title(panel, fontsize=9)
        dress(axes)
    for above, axes in zip(grid.flat[len(panels) - columns :], grid.flat[len(panels) :], strict=False):
        axes.set_visible(False)
        above.tick_params(labelbottom=True)
    if len(legend) > 1:
        figure.legend(
            legend.values(),
            legend.keys(),
            loc="outside lower center",
            ncols=4 if columns > 1 else 3 if len(legend) in (3, 6) else 2,
            frameon=False,
            fontsize=8,
        )
    for axes in grid[:, 0]:
        axes.set_ylabel(unit, fontsize=9)
    figure.suptitle(family.replace("_", " "), fontsize=10)
    return figure


def limit_throughput(axes: "Axes", values: Sequence[float]) -> None:
    """From zero, so that a step looks as large as it is; logarithmic where the lines lie far apart."""
    if max(values) > 20 * min(values) > 0:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.15 * max(values))


def label_runs(axes: "Axes", runs: Sequence[Run]) -> None:
    """The commit and the day of each run, or of some."""
    shown = np.unique(np.linspace(0, len(runs) - 1, min(len(runs), MOST_LABELS)).astype(int))
    labels = [f"{runs[index].commit}\n{runs[index].when:%y-%m-%d}" for index in shown]
    axes.set_xticks(shown, labels, rotation=90 if len(shown) > 3 else 0)
    axes.set_xlim(-0.5, len(runs) - 0.5)


def size_figure(runs: Sequence[Run]) -> "Figure | None":
    """Seconds over the number of positions, newest numbers; None where no two sizes were measured."""
    newest: dict[str, dict[int, Measurement]] = {}
    for run in runs:
        for one in run.measurements.values():
            if one.family in SIZED and "count" in one.params:
                newest.setdefault(one.family, {})[int(one.params["count"])] = one
    newest = {family: dict(sorted(sizes.items())) for family, sizes in newest.items() if len(sizes) > 1}
    if not newest:
        return None
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    for number, (family, sizes) in enumerate(newest.items()):
        counts, seconds = np.array(list(sizes)), np.array([one.seconds for one in sizes.values()])
        axes.loglog(
            counts, seconds, marker="o", markersize=4.0, linewidth=1.2, color=COLOURS[number], label=family
        )
    # through the last family's first point, moved down a little, for the eye
    slope = seconds[0] * counts / counts[0] / 2.5
    axes.loglog(counts, slope, color=COLOURS[-1], linestyle=":", linewidth=1.2, label="proportional")
    axes.set_xlabel("positions of the scan", fontsize=9)
    axes.set_ylabel("seconds", fontsize=9)
    axes.set_title("cost against scan size", fontsize=10)
    dress(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25, linewidth=0.6)


def png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def table(run: Run) -> str:
    """HTML table of the newest run."""
    head = ("benchmark", "median", "per second", "", "ratio to floor", "GFLOP/s", "peak memory")
    rows = []
    for one in sorted(run.measurements.values(), key=lambda one: one.name):
        value, unit = one.throughput
        extra = one.extra
        rows.append(
            (
                one.name.removeprefix("test_"),
                readable_seconds(one.seconds),
                f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}",
                unit.removesuffix("/s"),
                number(extra.get("ratio_to_floor"), ".2f"),
                number(extra.get("gflop_per_second"), ".1f"),
                number(extra.get("peak_mib"), ",.0f", " MiB"),
            )
        )
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def number(value: Any, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


def readable_seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
img { max-width: 100%; height: auto; margin: 0.5em 1em 0.5em 0; vertical-align: top; }
table { border-collapse: collapse; font-size: 85%; }
td, th { padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
td:first-child, th:first-child, td:nth-child(4) { text-align: left; }
td:nth-child(4) { padding-left: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2em 1em; }
dd { margin: 0; }
"""


def page(runs: Sequence[Run], pictures: dict[str, tuple[bytes, float]]) -> str:
    """The report; `pictures` are PNGs with their width in inches."""
    newest = runs[-1]
    facts = newest.machine | newest.settings
    settings = "\n".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>"
        for key, value in facts.items()
        if value is not None
    )
    images = "\n".join(
        f'<img alt="{html.escape(name)}" style="width: {96 * inches:.0f}px" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, (data, inches) in pictures.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Benchmarks</title><style>{STYLE}</style></head>
<body>
<h1>Benchmarks</h1>
<p>{len(runs)} run{"s" * (len(runs) != 1)} of one machine; the newest is of {html.escape(newest.label)}.
A commit with + had files changed besides.</p>
{images}
<h2>The newest run</h2>
<p>The floor of a step is its convolutions alone, that of an epoch its steps; others are in benchmarks/.</p>
{table(newest)}
<h2>The machine</h2>
<dl>{settings}</dl>
</body>
</html>
"""


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The page and its pictures, of the runs of one machine; returns their paths, the page first."""
    figures = {} if (sizes := size_figure(runs)) is None else {"cost-against-size": sizes}
    families = dict.fromkeys(one.family for run in reversed(runs) for one in run.measurements.values())
    for family in families:
        figures[f"throughput-{re.sub('[^a-z0-9]+', '-', family.lower())}"] = throughput_figure(runs, family)
    pictures = {name: (png(figure), figure.get_figwidth()) for name, figure in figures.items()}
    files = {"index.html": page(runs, pictures).encode()}
    files |= {f"{name}.png": data for name, (data, _) in pictures.items()}
    for name, data in files.items():
        with replaced_atomically(folder / name) as stream:
            stream.write(data)
    return [folder / name for name in files]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--storage", type=Path, default=STORAGE, help="folder of the stored runs")
    parser.add_argument("--output", type=Path, default=REPORT, help="folder of the report")
    options = parser.parse_args(arguments)
    try:
        runs = stored_runs(options.storage)
        written = write_report([run for run in runs if run.machine == runs[-1].machine], options.output)
    except (StoredRunError, OutputError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{written[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
