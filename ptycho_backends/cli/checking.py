"""The command `check`: findings about a scan, their cures, and the scan with the cures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho_backends.cli.groups import Messages
from ptycho_backends.cli.options import ScanFile, option
from ptycho_backends.cli.reading import READ_AS_IT_IS, Reading
from ptycho_backends.cli.reporting import Say

if TYPE_CHECKING:
    from ptycho_backends.checking import Finding
    from ptycho_backends.scans.scan import Scan

# Exit code where something is certainly wrong.
EXIT_WRONG = 1


def check(
    scan: ScanFile,
    reading: Reading = READ_AS_IT_IS,
    fix: Annotated[
        bool,
        option("--fix", help="Write the scan with all cures as SCAN_fixed.npz, and a mask as SCAN_mask.npy."),
    ] = False,
    output: Annotated[
        Path | None, option("--output", "-o", help="Where --fix writes the scan.", metavar="FILE.npz")
    ] = None,
    picture: Annotated[
        Path | None,
        option("--picture", help="Draw positions, patterns and quick images.", metavar="FILE.png"),
    ] = None,
    trials: Annotated[
        bool,
        option("--trials/--quick", help="Reconstruct a few positions in several orientations. (trials)"),
    ] = True,
    *,
    messages: Messages,
) -> None:
    """Find the faults of a scan before an hour is spent on it; each finding has a cure to copy.

    Exit code 1 if something is certainly wrong.

    Example: ptycho-backends check scan.npz --picture scan.png
    """
    with messages.session() as say:
        from ptycho_backends.checking import check_scan
        from ptycho_backends.cli.settings import scan_of

        loaded = scan_of(scan, reading)
        findings = check_scan(loaded, trials=trials, options=reading.options)
        if not findings:
            doubt = (
                "" if loaded.probe_guess is not None else "; axes and signs not tried, for it has no probe"
            )
            say(f"{loaded.name}: nothing found{doubt}")
        # where --fix writes it
        mask_name, mask_path = f"{loaded.name}_mask.npy", str(_mask_path(loaded.name, scan))
        for finding in findings:
            cure = str(finding.cure).replace(mask_name, mask_path)
            say(f"{finding.severity}: {finding.text}\n    evidence: {finding.evidence}\n    cure: {cure}")
        options = " ".join(finding.cure.options for finding in findings if finding.cure.options)
        if options:
            say(
                f"\nall cures: ptycho-backends run {scan}{reading.words} {options.replace(mask_name, mask_path)}"
            )
        if picture is not None:
            from ptycho_backends.checking.picture import save_check_figure

            say(f"wrote {save_check_figure(loaded, findings, picture)}")
        if fix and findings:
            _write_fixed(loaded, scan, findings, output, say)
    if not fix and any(finding.is_error for finding in findings):
        raise typer.Exit(EXIT_WRONG)


def _mask_path(name: str, path: Path) -> Path:
    return path.with_name(f"{name}_mask.npy")


def _write_fixed(
    loaded: "Scan", path: Path, findings: "list[Finding]", output: Path | None, say: Say
) -> None:
    """Write the scan with all cures, and its mask where pixels are bad."""
    import numpy as np

    from ptycho_backends.checking import check_scan, cured
    from ptycho_backends.files.output import replaced_atomically
    from ptycho_backends.scans.scan_files import save_scan

    fixed = cured(loaded, findings)
    valid = fixed.valid_pixels
    if valid is not None and any("bad_pixels" in finding.cure.changes for finding in findings):
        mask = _mask_path(loaded.name, path)
        with replaced_atomically(mask) as stream:
            np.save(stream, valid)
        say(f"wrote {mask}")
    target = path.with_name(f"{path.name.split('.')[0]}_fixed.npz") if output is None else output
    say(f"wrote {save_scan(fixed, target)}")
    for finding in check_scan(fixed):
        say(f"still {finding.severity}: {finding}")
