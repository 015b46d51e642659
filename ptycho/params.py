"""`params.cfg`, the flat dictionary of the legacy package."""

from ptycho_backends.params.params import cfg, get, params, set, validate

__all__ = ["cfg", "get", "params", "set", "validate"]
