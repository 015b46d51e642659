"""Scans under the legacy names."""

from ptycho_backends.legacy.raw_data import RawData

__all__ = ["RawData"]
