"""`params.cfg`, the flat dictionary of the legacy package."""

from ptycho_backends.legacy.params import cfg, get, params, set, validate

__all__ = ["cfg", "get", "params", "set", "validate"]
