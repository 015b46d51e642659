"""Checkpoints of a refinement: one NPZ file, written whole, from which it goes on."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import DAMAGE
from ptycho_backends.files.exact_json import bounded_loads
from ptycho_backends.files.file_kind import words_for
from ptycho_backends.files.npz_file import NpzFile
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.refinement.plan import RefinementState
from ptycho_backends.values import RefinementRecord

NAME = "refinement_checkpoint.npz"
FORMAT = "ptycho-backends refinement 1"
_ARRAYS = ("canvas", "velocity", "probe", "probe_velocity", "positions_px", "common_shift_px")


def save_state(state: RefinementState, path: str | os.PathLike[str]) -> Path:
    """Write `state`, atomically.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file stays untouched.
    """
    path = Path(path)
    numbers = {
        "format": FORMAT,
        "step": state.step,
        "misfit": state.misfit,
        "trust": state.trust,
        "dose": state.dose,
        "origin": state.origin,
        "passes": [dataclasses.asdict(record) for record in state.passes],
    }
    with replaced_atomically(path) as stream:
        np.savez(
            stream, numbers=np.str_(json.dumps(numbers)), **{name: getattr(state, name) for name in _ARRAYS}
        )
    return path


def load_state(path: str | os.PathLike[str]) -> RefinementState:
    """Read a file of `save_state`; a folder means the checkpoint in it.

    Raises
    ------
    ScanError
        If the file cannot be read, or is no checkpoint of a refinement; the text names the file.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        with NpzFile(path) as file:
            numbers = bounded_loads(str(file.array("numbers")).encode(), "numbers")
            if numbers["format"] != FORMAT:
                raise ValueError(f"format {numbers['format']!r}")
            return RefinementState(
                **{name: file.array(name) for name in _ARRAYS},
                step=float(numbers["step"]),
                misfit=float(numbers["misfit"]),
                trust=float(numbers["trust"]),
                dose=None if numbers.get("dose") is None else float(numbers["dose"]),
                passes=[RefinementRecord(**record) for record in numbers["passes"]],
                origin=tuple(numbers["origin"]) if numbers.get("origin") else None,
            )
    except DAMAGE as error:
        words = words_for(path)
        raise ScanError(
            f"{path}: no checkpoint of a refinement ({error if words in (None, 'a zip file') else words}); "
            "refine from the start"
        ) from error
