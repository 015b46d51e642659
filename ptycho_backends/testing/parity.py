"""The parity report: deviations of backends from the reference and from each other, over generated cases.

`run` measures and collects, and survives Ctrl-C; `Report` is written as JSON (`write_json`) and as a page
(`parity_page.write_page`).
"""

import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptycho_backends.builtin_backends import framework_modules
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.registry import get_backends
from ptycho_backends.testing.agreement import ALLOWANCES, Allowance
from ptycho_backends.testing.cases import draw_cases
from ptycho_backends.testing.measurements import PROFILES, Measurement, Timings, measure
from ptycho_backends.testing.scan_measurements import draw_scan_case, measure_scan

FORMAT = "ptycho-backends parity"
VERSION = "1.0"

# Training takes as long as several cases and varies little, so it is measured less often.
CASES_PER_SCAN = 20

LIBRARIES = ("ptycho-backends", "numpy", "scipy", *framework_modules())


@dataclass
class Row:
    """All that was measured of one quantity of one backend, or of two."""

    quantity: str
    subject: str
    allowance_name: str
    values: list[float] = field(default_factory=list)
    worst: float = -1.0
    worst_case: str = ""
    worst_where: str = ""
    not_judged: int = 0

    @property
    def allowance(self) -> Allowance:
        return ALLOWANCES[self.allowance_name]

    @property
    def median(self) -> float:
        """NaN if no value could be judged."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def exceeded(self) -> bool:
        """True if any value is beyond the allowance, or no value could be judged."""
        return not self.values or not self.worst <= self.allowance.bound

    def add(self, measurement: Measurement, case: str) -> None:
        """Take note of one deviation."""
        if measurement.value is None:
            self.not_judged += 1
            return
        value = math.inf if math.isnan(measurement.value) else measurement.value
        self.values.append(value)
        if value > self.worst:
            self.worst, self.worst_case, self.worst_where = value, case, measurement.where


@dataclass
class Report:
    """Results of a run.

    Attributes
    ----------
    backends : sequence of str
    profile : str
    seed, cases_asked : int
    cases_done : int
        Fewer than `cases_asked` if it was interrupted.
    crashes : list of (case, error)
        Cases in which a backend raised; each is a failure.
    """

    backends: Sequence[str]
    profile: str
    seed: int
    cases_asked: int
    cases_done: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    crashes: list[tuple[str, str]] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)

    def add(self, measurement: Measurement, case: str) -> None:
        """Take note of one deviation."""
        key = (measurement.quantity, measurement.subject)
        self.rows.setdefault(key, Row(*key, measurement.allowance)).add(measurement, case)

    @property
    def failures(self) -> list[str]:
        """One line for each quantity beyond its allowance and each crash; empty when all agree."""
        beyond = [
            f"{row.subject}: {row.quantity} deviates by {row.worst:.2e}, allowed are "
            f"{row.allowance.bound:.0e}, in {row.worst_case}"
            if row.values
            else f"{row.subject}: {row.quantity} could not be judged in any case"
            for row in self.rows.values()
            if row.exceeded
        ]
        crashed = [f"{case}: {error}" for case, error in self.crashes]
        nothing = [] if self.rows else ["nothing was measured"]
        return beyond + crashed + nothing

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinite deviations are null."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "started": self.started,
            "seconds": round(self.seconds, 1),
            "backends": list(self.backends),
            "profile": self.profile,
            "seed": self.seed,
            "cases_asked": self.cases_asked,
            "cases_done": self.cases_done,
            "interrupted": self.interrupted,
            "passed": not self.failures,
            "failures": self.failures,
            "quantities": [
                {
                    "quantity": row.quantity,
                    "subject": row.subject,
                    "unit": row.allowance.unit,
                    "allowance": row.allowance.bound,
                    "reason": row.allowance.reason,
                    "count": len(row.values),
                    "not_judged": row.not_judged,
                    "median": _finite(row.median),
                    "worst": _finite(row.worst) if row.values else None,
                    "worst_case": row.worst_case,
                    "worst_where": row.worst_where,
                    "exceeded": row.exceeded,
                }
                for row in self.rows.values()
            ],
            "crashes": [{"case": case, "error": error} for case, error in self.crashes],
            "timings_s": [
                {"subject": subject, "operation": operation, "count": len(times),
                 "median": statistics.median(times), "total": sum(times)}
                for (subject, operation), times in self.timings.seconds.items()
            ],
            "versions": versions(),
        }  # fmt: skip


def run(
    names: Sequence[str],
    *,
    cases: int,
    seed: int = 0,
    profile: str = "ci",
    on_case: Callable[[Report], None] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Report:
    """Measure `cases` generated cases on the backends `names`, and a whole scan after every `CASES_PER_SCAN`.

    Parameters
    ----------
    names : sequence of str
        As for `get_backend`.
    cases, seed : int
        The same seed gives the same cases.
    profile : {'fast', 'ci', 'nightly'}
        Extent of the measurements for each case.
    on_case : callable, optional
        Called with the report after every case.
    fixed : mapping, optional
        Values of fields, the same in every case.

    Returns
    -------
    Report
        Incomplete if Ctrl-C ended the run.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        A named backend that does not load is an error, never left out.
    """
    backends = get_backends(names)
    report = Report(list(backends), profile, seed, cases)
    started = time.perf_counter()
    try:
        for number, case in enumerate(draw_cases(cases, seed, **(fixed or {}))):
            _collect(report, repr(case), measure(case, backends, PROFILES[profile], report.timings))
            if number % CASES_PER_SCAN == 0:
                scan = draw_scan_case(seed + number // CASES_PER_SCAN)
                _collect(report, repr(scan), measure_scan(scan, backends, report.timings))
            report.cases_done += 1
            report.seconds = time.perf_counter() - started
            if on_case is not None:
                on_case(report)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def _collect(report: Report, case: str, measurements: Iterator[Measurement]) -> None:
    """Add all to the report; an exception of a backend becomes a crash in it, and the run continues."""
    try:
        for measurement in measurements:
            report.add(measurement, case)
    except Exception as error:
        report.crashes.append((case, f"{type(error).__name__}: {error}"))


def write_json(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write `report` as JSON, atomically."""
    path = Path(path)
    text = json.dumps(report.as_dict(), indent=1, allow_nan=False)
    with replaced_atomically(path) as stream:
        stream.write(text.encode())
    return path


def versions() -> dict[str, str]:
    """Of Python, the machine, and the libraries that are installed."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            if library in sys.modules:
                found[library] = str(getattr(sys.modules[library], "__version__", "unknown"))
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
