"""Lightning `.ckpt` files of the PyTorch backend to neutral models; its own are archives."""

import os
from importlib import import_module

from ptycho_backends.errors import BackendUnavailableError
from ptycho_backends.protocol import TrainedModel
from ptycho_backends.registry import BUILT_IN


def load_checkpoint(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a checkpoint (`.ckpt`) that the PyTorch backend wrote; needs PyTorch.

    Returns
    -------
    TrainedModel
        With its `training_state`, so that training goes on from it.

    Raises
    ------
    BackendUnavailableError
        If PyTorch is not installed.
    ArchiveError
        If the file is damaged, or was not written by this library.
    """
    torch = BUILT_IN["torch"]
    try:
        reader = import_module("ptycho_torch.checkpoint")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in torch.frameworks:
            raise
        raise BackendUnavailableError(
            f"{path}: a {torch.label} checkpoint, but {error.name!r} is not installed to read it; "
            f"run: {torch.install}, or resume from an archive"
        ) from error
    return reader.load_checkpoint(path)
