"""The parity report as one HTML page: no script, no font, no image from anywhere else."""

import math
import os
import statistics
from collections.abc import Iterable
from html import escape
from pathlib import Path

from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.testing import verbs_page
from ptycho_backends.testing.agreement import ALLOWANCES
from ptycho_backends.testing.parity import Report, Row, versions

# The axis of a strip: powers of ten that its ends stand for, and its size in CSS pixels.
LOWEST, HIGHEST = -17, 2
STRIP_WIDTH, STRIP_HEIGHT = 300, 26

# More dots than this on one strip would hide one another.
MOST_DOTS = 400

STYLE = """
:root { --ink:#1b2330; --soft:#5b6675; --line:#e3e7ed; --ground:#f6f7f9; --card:#fff;
        --good:#0f7b54; --bad:#c0262d; --dot:#3569b8; --goodback:#e6f4ee; --badback:#fdebec; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e8ecf2; --soft:#9aa5b4; --line:#2d3540; --ground:#12161c; --card:#1a2029;
          --good:#4cc38f; --bad:#ff7a7f; --dot:#7aa7ec; --goodback:#14302a; --badback:#3a1d21; } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--ink);
       font:15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif }
main { max-width:1240px; margin:0 auto; padding:32px 24px 64px }
h1 { font-size:26px; line-height:1.2; margin:0 0 4px; letter-spacing:-.01em }
h2 { font-size:17px; margin:36px 0 10px }
p { margin:0 0 8px } .soft { color:var(--soft) }
.verdict { display:inline-block; padding:3px 12px; border-radius:99px; font-weight:600; margin:12px 0 }
.pass { color:var(--good); background:var(--goodback) } .fail { color:var(--bad); background:var(--badback) }
.facts { display:flex; flex-wrap:wrap; gap:12px; margin:8px 0 0 }
.facts div { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:10px 16px }
.facts b { display:block; font-size:20px; font-variant-numeric:tabular-nums }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; overflow-x:auto }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th { text-align:left; font-weight:600; font-size:12.5px; color:var(--soft); white-space:nowrap }
th, td { padding:7px 12px; border-bottom:1px solid var(--line); vertical-align:middle }
tr:last-child td { border-bottom:0 } td.number, th.number { text-align:right; white-space:nowrap }
td.name { white-space:nowrap } .beyond { color:var(--bad); font-weight:600 }
code { font:12px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap:anywhere }
td.where { min-width:360px }
svg { display:block } svg text { font:10px system-ui, sans-serif; fill:var(--soft) }
.zone { fill:var(--goodback) } .limit { stroke:var(--bad); stroke-width:1.5 }
.tick { stroke:var(--line) } .dot { fill:var(--dot); fill-opacity:.45 } .dot.over { fill:var(--bad); fill-opacity:1 }
.median { stroke:var(--ink); stroke-width:1.5 } li { margin-bottom:6px }
"""


def write_page(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write `report` as a self-contained page, atomically."""
    path = Path(path)
    with replaced_atomically(path) as stream:
        stream.write(page(report).encode())
    return path


def page(report: Report) -> str:
    """The page's HTML."""
    names = " and ".join(report.backends)
    body = "".join(
        (
            _head(report, names),
            _failures(report),
            f"<h2>Deviations</h2>{_legend()}{_quantities(report)}",
            f"<h2>Verbs: training and images</h2>{verbs_page.verbs_section(report.shown)}",
            f"<h2>Devices</h2>{verbs_page.devices_section(report.backends, report.device, report.device != 'cpu')}",
            f"<h2>Worst cases</h2>{_worst_cases(report)}",
            f"<h2>Allowances, and why</h2>{_allowances(report)}",
            f"<h2>Timings</h2>{_timings(report)}",
            f"<h2>Versions</h2>{_table((('Library', ''), ('Version', '')), versions().items())}",
        )
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Parity of {escape(names)}</title><style>{STYLE}{verbs_page.STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(report: Report, names: str) -> str:
    failures = report.failures
    verdict = f"{len(failures)} beyond their allowance" if failures else "all within their allowances"
    facts = (
        (f"{report.cases_done} of {report.cases_asked}", "cases of batches"),
        (f"{report.verbs_done} of {report.verbs_asked}", "cases of whole verbs"),
        (f"{sum(len(row.values) for row in report.rows.values()):,}", "deviations measured"),
        (f"{sum(row.not_judged for row in report.rows.values()):,}", "could not be judged"),
        (_duration(report.seconds), f"profile {report.profile}, seed {report.seed}"),
    )
    boxes = "".join(f"<div><b>{escape(big)}</b>{escape(small)}</div>" for big, small in facts)
    interrupted = "<p>The run was interrupted; this is what there is.</p>" if report.interrupted else ""
    return (
        f"<h1>Parity of {escape(names)}</h1>"
        f'<p class="soft">against the NumPy float64 reference{" and each other" if len(report.backends) > 1 else ""}'
        f" &middot; {escape(report.started)}</p>"
        f'<div class="verdict {"fail" if failures else "pass"}">{escape(verdict)}</div>{interrupted}'
        f'<div class="facts">{boxes}</div>'
    )


def _failures(report: Report) -> str:
    if not report.failures:
        return ""
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in report.failures)
    return f"<h2>Beyond their allowance</h2><ul>{items}</ul>"


def _legend() -> str:
    return (
        '<p class="soft">One dot a case, logarithmic from 10<sup>&minus;17</sup> (and zero) on the left to '
        "100 on the right; the shaded part is allowed, the dark stroke is the median.</p>"
    )


def _quantities(report: Report) -> str:
    heads = (("Quantity", ""), ("Backend", ""), ("Deviations", ""), ("Median", "number"),
             ("Worst", "number"), ("Allowed", "number"), ("Cases", "number"))  # fmt: skip
    return _raw_table(heads, map(_quantity, _in_order(report)))


def _in_order(report: Report) -> list[Row]:
    """By allowance, then by quantity, so that backends stand one below the other."""
    order = list(ALLOWANCES)
    first = {row.quantity: number for number, row in reversed(list(enumerate(report.rows.values())))}
    return sorted(
        report.rows.values(), key=lambda row: (order.index(row.allowance_name), first[row.quantity])
    )


def _quantity(row: Row) -> str:
    beyond = ' class="number beyond"' if row.exceeded else ' class="number"'
    judged = f"{len(row.values)}" + (
        f" <span class=soft>(+{row.not_judged})</span>" if row.not_judged else ""
    )
    return (
        f'<td class="name">{escape(row.quantity)}</td><td class="name">{escape(row.subject)}</td>'
        f"<td>{_strip(row)}</td>"
        f'<td class="number">{_figure(row.median)}</td>'
        f"<td{beyond}>{_figure(row.worst)}</td>"
        f'<td class="number">{_figure(row.allowance.bound, exact=True)}</td><td class="number">{judged}</td>'
    )


def _worst_cases(report: Report) -> str:
    """Calls that make each quantity's worst case again, to be pasted into a prompt."""
    heads = (("Quantity", ""), ("Backend", ""), ("Deviation", "number"), ("Where", ""), ("Case", ""))
    return _raw_table(
        heads,
        (
            f'<td class="name">{escape(row.quantity)}</td><td class="name">{escape(row.subject)}</td>'
            f'<td class="number">{_figure(row.worst)}</td><td>{escape(row.worst_where)}</td>'
            f'<td class="where"><code>{escape(row.worst_case)}</code></td>'
            for row in _in_order(report)
            if row.worst > 0
        ),
    )


def _strip(row: Row) -> str:
    limit = _place(row.allowance.bound)
    middle = STRIP_HEIGHT / 2
    marks = [
        f'<rect class="zone" x="0" y="2" width="{limit:.1f}" height="{STRIP_HEIGHT - 4}" rx="3"/>',
        *(
            f'<line class="tick" x1="{_place(10.0**power):.1f}" x2="{_place(10.0**power):.1f}" '
            f'y1="{STRIP_HEIGHT - 6}" y2="{STRIP_HEIGHT - 2}"/>'
            for power in range(LOWEST + 1, HIGHEST)
        ),
        f'<line class="limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="1" y2="{STRIP_HEIGHT - 1}"/>',
    ]
    stride = max(1, math.ceil(len(row.values) / MOST_DOTS))
    shown = sorted(row.values)[::-stride]
    for number, value in enumerate(shown):
        # spread up and down by the golden ratio, so that equal values do not hide one another
        y = middle + (STRIP_HEIGHT - 14) * ((number * 0.618034) % 1.0 - 0.5)
        over = "" if value <= row.allowance.bound else " over"
        marks.append(f'<circle class="dot{over}" cx="{_place(value):.1f}" cy="{y:.1f}" r="2.4"/>')
    if row.values:
        x = _place(row.median)
        marks.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{STRIP_HEIGHT - 4}"/>')
    return (
        f'<svg width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" role="img" '
        f'aria-label="median {row.median:.1e}, worst {row.worst:.1e}">{"".join(marks)}</svg>'
    )


def _place(value: float) -> float:
    """Position of `value` on a strip, pixels; zero at its left end, infinity at its right."""
    power = LOWEST if value <= 0 else HIGHEST if math.isinf(value) else math.log10(value)
    fraction = (min(max(power, LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
    return 4 + fraction * (STRIP_WIDTH - 8)


def _allowances(report: Report) -> str:
    used = {row.allowance_name for row in report.rows.values()}
    cells = (
        (name, _figure(allowed.bound, exact=True), allowed.unit, allowed.reason)
        for name, allowed in ALLOWANCES.items()
        if name in used
    )
    return _table((("What", ""), ("Allowed", "number"), ("Measured as", ""), ("Reason", "")), cells)


def _timings(report: Report) -> str:
    cells = (
        (subject, operation, f"{1000 * statistics.median(times):,.0f} ms", str(len(times)))
        for (subject, operation), times in sorted(report.timings.seconds.items())
    )
    heads = (("Backend", ""), ("Operation", ""), ("Median of a call", "number"), ("Calls", "number"))
    return _table(heads, cells)


Heads = Iterable[tuple[str, str]]


def _table(heads: Heads, rows: Iterable[Iterable[str]]) -> str:
    heads = tuple(heads)
    kinds = [kind for _, kind in heads]
    lines = (
        "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        for row in rows
    )
    return _raw_table(heads, lines)


def _raw_table(heads: Heads, rows: Iterable[str]) -> str:
    head = "".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(value: float, *, exact: bool = False) -> str:
    if value == 0.0:
        return "none" if exact else "0"
    if math.isnan(value):
        return "not judged"
    if math.isinf(value):
        return "incomparable"
    return f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
