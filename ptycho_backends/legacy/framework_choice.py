"""The choice of a framework for legacy callers, whose interface has no word for it.

`get_backend` follows a configuration. Behind the legacy names the field `backend` may hold nobody's choice: it was
added to a class that Ptychodus fills in without it.
"""

import dataclasses
import logging
import os

from ptycho_backends.builtin_backends import canonical_name
from ptycho_backends.config import TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import ENVIRONMENT_VARIABLE, get_backend, installed_backends

log = logging.getLogger(__name__)

DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}


def training_backend(config: TrainingConfig) -> Backend:
    """The backend to train with.

    `PTYCHO_BACKEND`; else `config.backend`, if it differs from the field's default and so was
    chosen; else that default, if it is installed; else the first that is.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        As `get_backend`; a choice is never replaced by another framework.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE) or config.backend != DEFAULTS["backend"]:
        return get_backend(config=config)
    return _preferred(config.backend, "nobody chose a framework")


def inference_backend(maker: str) -> Backend:
    """The backend to reconstruct with: `PTYCHO_BACKEND`; else the model's `maker`; else the first installed.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        As `get_backend`.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return get_backend()
    return _preferred(maker, "the model was made with a framework that is not here")


def _preferred(name: str, otherwise: str) -> Backend:
    """`name` if it is installed, else the first that is; `otherwise` is the reason for the log."""
    name = canonical_name(name)
    installed = installed_backends()
    if name in installed or not installed:
        return get_backend(name if installed else None)
    log.info("%s, and %s is not installed; computing with %s", otherwise, name, installed[0])
    return get_backend(installed[0])
