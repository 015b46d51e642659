"""Search for the checkpoints of a training run."""

import os
import re
from pathlib import Path

from ptycho_backends.training.checkpoints import FOLDER

# Lightning writes the monitored loss into the name, and `-v1` after it if that name exists.
_LOSS = re.compile(r"(?:val|train)_loss=([-+0-9.e]+?)(?:-v\d+)?$")


def find_best_checkpoint(run_dir: str | os.PathLike[str]) -> Path | None:
    """The model file of the best epoch below `run_dir`, or None if there is none.

    The one with the smallest loss in its name; of those without one, the newest.
    """
    folder = Path(run_dir)
    found = [*folder.glob(f"{FOLDER}/*.ckpt"), *folder.glob("*.ckpt")]

    def rank(path: Path) -> tuple[float, float]:
        loss = _LOSS.search(path.stem)
        return (float(loss[1]) if loss else float("inf"), -path.stat().st_mtime)

    return min(found, key=rank, default=None)
