"""The probe in `params.cfg`."""

from ptycho_backends.legacy.probe import (
    get_default_probe,
    get_probe,
    get_probe_mask,
    set_default_probe,
    set_probe_guess,
)

__all__ = ["get_default_probe", "get_probe", "get_probe_mask", "set_default_probe", "set_probe_guess"]
