"""Grouped data as the network is fed with it."""

from ptycho_backends.legacy.loader import PtychoDataContainer, load

__all__ = ["PtychoDataContainer", "load"]
