"""The command `ptycho-backends parity`: run with progress lines, write the report, return the exit code."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import output_directory
from ptycho_backends.testing import parity, parity_page
from ptycho_backends.testing.devices import DEVICES
from ptycho_backends.testing.measurements import PROFILE_CASES

JSON_NAME = "parity.json"
PAGE_NAME = "parity.html"


def parity_command(
    backends: Sequence[str],
    *,
    cases: int | None = None,
    seed: int = 0,
    profile: str = "fast",
    part: str = "all",
    device: str = "cpu",
    case: str | None = None,
    output_dir: str | os.PathLike[str] = "parity_report",
    say: Callable[[str], None] = print,
) -> int:
    """Compare `backends` and write `parity.json` and `parity.html` into `output_dir`.

    Parameters
    ----------
    backends : sequence of str
        One or more names; each is compared with the reference and with the others.
    cases : int, optional
        Generated cases of batches, or of verbs where these are the only `part`; default: those of the profile.
    seed : int
        The same seed gives the same cases.
    profile : {'fast', 'ci', 'nightly'}
    part : {'all', 'arrays', 'verbs'}
    device : str
        `ExecutionConfig.accelerator`.
    case : str, optional
        The only case to measure, as a report prints it.
    output_dir : path
    say : callable
        Receives each line of progress.

    Returns
    -------
    int
        0 if every deviation is within its allowance, 1 if one is not, 130 if Ctrl-C ended the run.

    Raises
    ------
    ConfigError, UnknownBackendError, BackendUnavailableError, OutputError
        Before anything is measured.
    """
    _check(backends, cases, seed, profile, part, device)
    only = None if case is None else parity.case_of(case)
    folder = output_directory(output_dir)
    batches, verbs = parity.counts(cases, profile, part, only)
    what = f"{batches} cases of batches and {verbs} of verbs" if only is None else repr(only)
    say(f"{what} on {', '.join(backends)}, profile {profile}, seed {seed}, device {device}")

    def on_case(report: parity.Report) -> None:
        done, count = report.cases_done + report.verbs_done, report.cases_asked + report.verbs_asked
        if done % max(1, count // 20) == 0 or done == count:
            beyond = len(report.failures)
            verdict = f"{beyond} beyond their allowance" if beyond else "all within their allowances"
            say(f"  {done:4d} of {count} cases, {report.seconds:.0f} s: {verdict}")
            _write(report, folder)  # so that a killed run leaves a report

    report = parity.run(
        backends,
        cases=cases,
        seed=seed,
        profile=profile,
        on_case=on_case,
        part=part,
        device=device,
        only=only,
    )
    _write(report, folder)
    for line in summary(report):
        say(line)
    say(f"report: {folder / PAGE_NAME}, {folder / JSON_NAME}")
    if report.interrupted:
        return 130
    return 1 if report.failures else 0


def _write(report: parity.Report, folder: Path) -> None:
    parity.write_json(report, folder / JSON_NAME)
    parity_page.write_page(report, folder / PAGE_NAME)


def summary(report: parity.Report) -> list[str]:
    """A table of every quantity, and the failures."""
    lines = [f"{'quantity':34} {'backend':20} {'median':>9} {'worst':>9} {'allowed':>9}"]
    for row in report.rows.values():
        mark = "  <-- beyond" if row.exceeded else ""
        lines.append(
            f"{row.quantity:34} {row.subject:20} {row.median:9.1e} {row.worst:9.1e} "
            f"{row.allowance.bound:9.1e}{mark}"
        )
    return [*lines, *report.failures]


def _check(
    backends: Sequence[str], cases: int | None, seed: int, profile: str, part: str, device: str
) -> None:
    problems = []
    if not backends:
        problems.append(f"backends: got none, want at least one name, as in `parity {' '.join(BUILT_IN)}`")
    if len(set(backends)) < len(backends):
        problems.append(f"backends: got {' '.join(backends)}, want each once")
    if cases is not None and cases < 1:
        problems.append(f"cases: got {cases}, want an integer >= 1")
    if seed < 0:
        problems.append(f"seed: got {seed}, want an integer >= 0")
    if profile not in PROFILE_CASES:
        problems.append(f"profile: got {profile!r}, want one of {', '.join(PROFILE_CASES)}")
    for what, got, known in (("part", part, parity.PARTS), ("device", device, DEVICES)):
        if got not in known:
            problems.append(f"{what}: got {got!r}, want one of {', '.join(known)}")
    if problems:
        raise ConfigError("; ".join(problems))
