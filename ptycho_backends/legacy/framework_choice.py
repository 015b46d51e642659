"""Which framework computes where a legacy caller, who never heard of frameworks, did not say.

`get_backend` takes a configuration at its word. Behind the legacy names the word may be nobody's: the field
`backend` was added to a class that Ptychodus fills in without it.
"""

import dataclasses
import logging
import os

from ptycho_backends.config import TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import ALIASES, ENVIRONMENT_VARIABLE, get_backend, installed_backends

log = logging.getLogger(__name__)

DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}


def training_backend(config: TrainingConfig) -> Backend:
    """The backend to train with.

    `PTYCHO_BACKEND`; else `config.backend`, if it is not the field's default, 'tensorflow', so that
    somebody must have chosen it; else TensorFlow, if it is installed; else the first that is.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        As `get_backend`; what was chosen is never replaced by another one.
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
    """`name` if it is installed, else the first that is; `otherwise` says why there is a choice at all."""
    name = ALIASES.get(name.lower(), name.lower())
    installed = installed_backends()
    if name in installed or not installed:
        return get_backend(name if installed else None)
    log.info("%s, and %s is not installed; computing with %s", otherwise, name, installed[0])
    return get_backend(installed[0])
