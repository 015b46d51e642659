"""Table of docs/check.md: findings of `check_scan` on sound scans, and on the same ones with a fault.

Usage: python benchmarks/check_table.py [SCAN.npz...]; default: scans of ../shared/data.
"""

import logging
import os
import sys
import time
from pathlib import Path

from ptycho_backends.checking import Finding, check_scan
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.testing.scan_faults import FAULTS, Fault

DATA = Path(os.environ.get("PTYCHO_SHARED", Path(__file__).parents[2] / "shared"), "data")
SCANS = (
    "siemens_star_64",
    "siemens_n64_train",
    "siemens_n128_test",
    "w235_n64",
    "w235_n128",
    "sim_n64_test",
    "sim_n128_test",
)
SOUND = (
    *SCANS,
    "siemens_star_128",
    "siemens_n64_test",
    "siemens_n128_train",
    "sim_n64_train",
    "sim_n128_train",
)


def verdict(fault: Fault, findings: list[Finding]) -> str:
    """'yes' for the finding and the cure wanted and nothing else; what was found otherwise."""
    right = [f for f in findings if f.name == fault.finding and f.cure.options.startswith(fault.cure)]
    if len(right) == 1 and len(findings) == 1:
        return "yes"
    found = ", ".join(f"{f.name} ({f.cure.options or 'no option'})" for f in findings)
    return f"{'also' if right else 'NO'}: {found or 'nothing'}"


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(paths: list[Path]) -> int:
    """Print the table; the number of cases that are not as wanted."""
    logging.disable(logging.WARNING)
    wrong = 0
    started = time.perf_counter()
    sound = paths or [DATA / f"{name}.npz" for name in SOUND]
    for path in sound:
        findings = check_scan(load_scan(path))
        wrong += bool(findings)
        say(f"{path.stem}, as it is: {'; '.join(map(str, findings)) or 'nothing'}")
    scans = [load_scan(path) for path in paths or [DATA / f"{name}.npz" for name in SCANS]]
    say("\n| fault | " + " | ".join(scan.name for scan in scans) + " |\n| --- |" + " --- |" * len(scans))
    for fault in FAULTS.values():
        verdicts = [verdict(fault, check_scan(fault.spoil(scan))) for scan in scans]
        wrong += sum(text != "yes" for text in verdicts)
        say(f"| {fault.name} | {' | '.join(verdicts)} |")
    count = len(sound) + len(FAULTS) * len(scans)
    say(f"\n{count - wrong} of {count} as wanted, {(time.perf_counter() - started) / count:.1f} s each")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main([Path(name) for name in sys.argv[1:]]), 1))
