"""All checks of a scan, in the order in which one depends on another."""

import logging

from ptycho_backends.checking.cures import changed
from ptycho_backends.checking.facts import Facts
from ptycho_backends.checking.findings import Finding
from ptycho_backends.checking.orientation import check_orientation
from ptycho_backends.checking.patterns import (
    check_centre,
    check_frames,
    check_measurement,
    check_pixels,
    check_probe,
)
from ptycho_backends.checking.positions import check_labels, check_positions
from ptycho_backends.errors import PtychoBackendsError, ScanError
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions

log = logging.getLogger(__name__)


def check_scan(scan: Scan, *, trials: bool = True, options: ScanOptions = NO_OPTIONS) -> list[Finding]:
    """Find the faults of a scan.

    Parameters
    ----------
    scan : Scan
    trials : bool
        Reconstruct a few positions in several orientations, which takes seconds; without, only look at the numbers.
    options : ScanOptions
        With which it was read, for cures that change one of them.

    Returns
    -------
    list of Finding
        In the order in which the cures belong; empty for a sound scan. Each check sees the scan with the cures of
        those before it.
    """
    found: list[Finding] = []

    def take(findings: list[Finding]) -> None:
        nonlocal scan
        for finding in findings:
            found.append(finding)
            try:
                scan = changed(scan, finding.cure.changes)
            except PtychoBackendsError as error:
                log.debug("%s: cure not possible: %s", finding.name, error)

    frames = list(check_frames(Facts(scan)))
    if any(finding.is_error for finding in frames):
        return frames
    take(list(check_measurement(scan)))
    take(list(check_pixels(Facts(scan))))
    take(list(check_centre(Facts(scan))))
    take(list(check_probe(Facts(scan))))
    before = len(scan)
    placed = list(check_positions(Facts(scan)))
    take(placed)
    if any(finding.name == "positions_unit" and finding.cure.changes for finding in placed):
        take(list(check_positions(Facts(scan))))
    if len(scan) == before and frames:
        # numbers of frames are those of the scan as it is
        take(frames)
    else:
        found += frames
    settled = not any(finding.name == "positions_unit" and not finding.cure.changes for finding in found)
    if trials and settled:
        take(list(check_orientation(scan, options)))
    return found + list(check_labels(scan))


def require_sound(scan: Scan) -> None:
    """The quick checks, before a training: doubts are logged as warnings, errors refused.

    Raises
    ------
    ScanError
        Names all that is certainly wrong, with the cures.
    """
    findings = check_scan(scan, trials=False)
    wrong = [finding for finding in findings if finding.is_error]
    for finding in findings:
        if not finding.is_error:
            log.warning("%s: %s", scan.name, finding)
    if wrong:
        raise ScanError(
            f"{scan.name}: {'; and '.join(map(str, wrong))}; look at it with: ptycho-backends check (--no-check trains "
            "all the same)"
        )
