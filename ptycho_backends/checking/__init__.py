"""Checks of a scan before an hour is spent on it: positions, patterns, probe, axes and signs (docs/check.md)."""

from ptycho_backends.checking.check import check_scan, require_sound
from ptycho_backends.checking.cures import cured
from ptycho_backends.checking.findings import Cure, Finding

__all__ = ["Cure", "Finding", "check_scan", "cured", "require_sound"]
