"""Import of matplotlib that survives an `MPLBACKEND` made for another environment."""

import logging
import os
import sys
from importlib import import_module

_ENVIRONMENT_NAME = "MPLBACKEND"

logger = logging.getLogger(__name__)


def import_matplotlib() -> None:
    """Import matplotlib and apply `MPLBACKEND` if matplotlib accepts it; ignore it otherwise.

    A notebook's kernel exports `MPLBACKEND` to every program it starts. In an environment without the named
    backend, a bare `import matplotlib` raises `ValueError`, and so does every library that imports matplotlib
    in passing (Keras, torchmetrics). This package draws without any window and needs no such backend.

    The environment keeps the variable. Without it, or with matplotlib imported already, nothing happens.
    """
    requested = os.environ.get(_ENVIRONMENT_NAME)
    if not requested or "matplotlib" in sys.modules:
        return
    del os.environ[_ENVIRONMENT_NAME]
    try:
        matplotlib = import_module("matplotlib")
    finally:
        os.environ[_ENVIRONMENT_NAME] = requested
    try:
        matplotlib.rcParams["backend"] = requested
    except ValueError:
        logger.info("%s=%s is ignored: matplotlib has no such backend", _ENVIRONMENT_NAME, requested)
