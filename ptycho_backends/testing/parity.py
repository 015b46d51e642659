"""The parity report: deviations of backends from the reference and from each other, over generated cases.

`run` measures and collects, and survives Ctrl-C; `Report` is written as JSON (`write_json`) and as a page
(`parity_page.write_page`).
"""

import ast
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
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import get_backends
from ptycho_backends.testing.agreement import ALLOWANCES, Allowance
from ptycho_backends.testing.cases import Case, draw_cases
from ptycho_backends.testing.devices import on_device
from ptycho_backends.testing.measurements import (
    PROFILE_CASES,
    PROFILE_VERBS,
    PROFILES,
    Measurement,
    Timings,
    measure,
    tf32_outputs,
)
from ptycho_backends.testing.scan_measurements import ScanCase, draw_scan_case, measure_scan
from ptycho_backends.testing.verb_cases import VerbCase, draw_verb_cases
from ptycho_backends.testing.verbs import Shown, alone, measure_verbs

FORMAT = "ptycho-backends parity"
VERSION = "1.0"

# Training takes as long as several cases and varies little, so it is measured less often.
CASES_PER_SCAN = 20

PARTS = ("all", "arrays", "verbs")
"""What a run may be limited to: single batches and small scans, or what people call."""

AnyCase = Case | ScanCase | VerbCase
KINDS: Mapping[str, type[AnyCase]] = {kind.__name__: kind for kind in (Case, ScanCase, VerbCase)}

# Curves and images of more cases than these would not be looked at.
MOST_SHOWN = 6

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
    verbs_asked, verbs_done : int
        The same of cases of whole verbs.
    device : str
        `ExecutionConfig.accelerator` of all that was computed.
    shown : list of Shown
        Curves and images of the first cases of verbs.
    crashes : list of (case, error)
        Cases in which a backend raised; each is a failure.
    """

    backends: Sequence[str]
    profile: str
    seed: int
    cases_asked: int
    cases_done: int = 0
    verbs_asked: int = 0
    verbs_done: int = 0
    device: str = "cpu"
    interrupted: bool = False
    seconds: float = 0.0
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    crashes: list[tuple[str, str]] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    shown: list[Shown] = field(default_factory=list)

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
            f"{f' ({row.worst_where})' if row.worst_where else ''}; {alone(row.subject, row.worst_case)}"
            if row.values
            else f"{row.subject}: {row.quantity} could not be judged in any case"
            for row in self.rows.values()
            if row.exceeded
        ]
        crashed = [f"{case}: {error}; {alone(' '.join(self.backends), case)}" for case, error in self.crashes]
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
            "verbs_asked": self.verbs_asked,
            "verbs_done": self.verbs_done,
            "device": self.device,
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
    cases: int | None = None,
    seed: int = 0,
    profile: str = "ci",
    on_case: Callable[[Report], None] | None = None,
    fixed: Mapping[str, Any] | None = None,
    part: str = "all",
    device: str = "cpu",
    only: AnyCase | None = None,
) -> Report:
    """Measure generated cases on the backends `names`: batches, a whole scan now and then, and whole verbs.

    Parameters
    ----------
    names : sequence of str
        As for `get_backend`.
    cases : int, optional
        Cases of batches, to which cases of verbs come in the profile's proportion; of verbs, if they are the only
        `part`. Default: the profile's.
    seed : int
        The same seed gives the same cases.
    profile : {'fast', 'ci', 'nightly'}
        Extent of the measurements for each case.
    on_case : callable, optional
        Called with the report after every case.
    fixed : mapping, optional
        Values of fields, the same in every case of batches.
    part : {'all', 'arrays', 'verbs'}
    device : str
        `ExecutionConfig.accelerator`. On any but 'cpu' TF32 is measured too.
    only : Case, ScanCase or VerbCase, optional
        Nothing but this case is measured.

    Returns
    -------
    Report
        Incomplete if Ctrl-C ended the run.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        A named backend that does not load is an error, never left out.
    """
    loaded = get_backends(names)
    arrays, verbs = counts(cases, profile, part, only)
    report = Report(list(loaded), profile, seed, arrays, verbs_asked=verbs, device=device)
    measuring = _Measuring(report, loaded, device)
    started = time.perf_counter()
    of_batches = draw_cases(arrays, seed, **(fixed or {})) if only is None else iter([only][:arrays])
    of_verbs = draw_verb_cases(verbs, seed) if only is None else iter([only][:verbs])
    try:
        for number, case in enumerate(of_batches):
            measuring.arrays(case, number)
            report.cases_done += 1
            _tell(report, started, on_case)
        for case in of_verbs:
            measuring.verbs(case)
            report.verbs_done += 1
            _tell(report, started, on_case)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def counts(cases: int | None, profile: str, part: str, only: AnyCase | None) -> tuple[int, int]:
    """Numbers of cases of batches and of verbs."""
    if only is not None:
        return (0, 1) if isinstance(only, VerbCase) else (1, 0)
    if part == "verbs":
        return 0, PROFILE_VERBS[profile] if cases is None else cases
    arrays = PROFILE_CASES[profile] if cases is None else cases
    verbs = max(1, round(arrays * PROFILE_VERBS[profile] / PROFILE_CASES[profile]))
    return arrays, 0 if part == "arrays" else verbs


def _tell(report: Report, started: float, on_case: Callable[[Report], None] | None) -> None:
    report.seconds = time.perf_counter() - started
    if on_case is not None:
        on_case(report)


class _Measuring:
    """The measurements of single cases, into a report."""

    def __init__(self, report: Report, backends: Mapping[str, Backend], device: str) -> None:
        self._report, self._effort = report, PROFILES[report.profile]
        self._backends = {name: on_device(backend, device) for name, backend in backends.items()}
        self._rounded = {
            name: on_device(backend, device, allow_tf32=True)
            for name, backend in backends.items()
            if device != "cpu"
        }

    def arrays(self, case: AnyCase, number: int) -> None:
        report, text = self._report, repr(case)
        if isinstance(case, ScanCase):
            self._collect(text, measure_scan(case, self._backends, report.timings))
            return
        assert isinstance(case, Case)
        self._collect(text, measure(case, self._backends, self._effort, report.timings))
        for name, backend in self._rounded.items():
            self._collect(text, tf32_outputs(name, backend, case))
        if number % CASES_PER_SCAN == 0:
            scan = draw_scan_case(report.seed + number // CASES_PER_SCAN)
            self.arrays(scan, number)

    def verbs(self, case: AnyCase) -> None:
        report = self._report
        assert isinstance(case, VerbCase)
        shown = Shown(repr(case))
        self._collect(repr(case), measure_verbs(case, self._backends, report.timings, shown))
        if len(report.shown) < MOST_SHOWN and shown.curves:
            report.shown.append(shown)

    def _collect(self, case: str, measurements: Iterator[Measurement]) -> None:
        """Add all to the report; an exception of a backend becomes a crash in it, and the run continues."""
        try:
            for measurement in measurements:
                self._report.add(measurement, case)
        except Exception as error:
            self._report.crashes.append((case, f"{type(error).__name__}: {error}"))


def case_of(text: str) -> AnyCase:
    """The case that prints as `text`.

    Raises
    ------
    ConfigError
        If `text` is no call of a case with plain values.
    """
    problem = f"case: got {text!r}, want a call as reports print it, one of {', '.join(KINDS)}"
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        values = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return KINDS[call.func.id](**values)
    except (SyntaxError, AssertionError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{problem} ({error})") from error


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
