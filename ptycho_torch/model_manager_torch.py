"""`TorchModelManager`, under the name that programs written for the legacy port know."""

import os
from pathlib import Path

from ptycho_backends.values import TrainedModel
from ptycho_torch.backend.backend import TorchBackend


class TorchModelManager:
    """Saves models, and loads them from whatever file holds one."""

    @staticmethod
    def save(model: TrainedModel, path: str | os.PathLike[str]) -> Path:
        """Write the shared archive (`wts.h5.zip`); a folder means the file in it."""
        return TorchBackend().save(model, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> TrainedModel:
        """Read an archive of either backend, one of the genuine PtychoPINN, or a Lightning `.ckpt`.

        Raises
        ------
        ArchiveError
            If the file is none of these, or is damaged.
        """
        return TorchBackend().load(path)
