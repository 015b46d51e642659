"""Results as files: a reconstruction as NPZ, a history as CSV, metrics as JSON; each whole or not at all."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import DAMAGE
from ptycho_backends.files.file_kind import words_for
from ptycho_backends.files.npz_file import NpzFile
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.values import EpochRecord, Reconstruction, RefinementRecord

_ARRAYS = ("object", "coverage", "origin_px", "group_centres_px")
# Of refined images only.
_REFINED = ("probe_modes", "positions_px", "positions_used")
_START, _PASS = "start_", "pass_"


def save_reconstruction(reconstruction: Reconstruction, path: str | os.PathLike[str]) -> Path:
    """Write the stitched or refined image and its position as NPZ, without the single patches.

    Keys: `object` (H, W) complex64 `[y, x]`, `coverage` (H, W) float32, `origin_px` (2,) `[x, y]` of
    `object[0, 0]` in scan coordinates, `group_centres_px` (B, 2) `[x, y]`, `pixel_size_m` (NaN if
    unknown), `backend`.

    A refined image has more: `probe_modes` (K, N, N) complex64 `[y, x]`, `positions_px` (M, 2) `[x, y]`,
    `positions_used` (M,), `interrupted`, the history as columns `pass_number`, `pass_error` and so on (one for each
    field of `RefinementRecord`; NaN where nothing was held out), and the keys of the image that it was refined from
    with `start_` before them.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file stays untouched.
    """
    path = Path(path)
    entries = _image_entries(reconstruction)
    for name in _REFINED:
        if getattr(reconstruction, name) is not None:
            entries[name] = getattr(reconstruction, name)
    if reconstruction.probe_modes is not None:
        entries["interrupted"] = np.bool_(reconstruction.interrupted)
    if reconstruction.passes:
        entries |= {
            _PASS + field.name: _column([getattr(record, field.name) for record in reconstruction.passes])
            for field in dataclasses.fields(RefinementRecord)
        }
    if reconstruction.start is not None:
        entries |= {_START + name: value for name, value in _image_entries(reconstruction.start).items()}
    with replaced_atomically(path) as stream:
        np.savez_compressed(stream, **entries)
    return path


def load_reconstruction(path: str | os.PathLike[str]) -> Reconstruction:
    """Read a file of `save_reconstruction`, of this version or of an earlier one.

    Raises
    ------
    ScanError
        If the file cannot be read or lacks a key; the text names the file.
    """
    path = Path(path)
    try:
        with NpzFile(path) as file:
            entries = {name: file.array(name, sparse=True) for name in file.names}
        refined: dict[str, Any] = {name: entries[name] for name in _REFINED if name in entries}
        start = Reconstruction(**_image_fields(entries, _START)) if f"{_START}object" in entries else None
        return Reconstruction(
            **_image_fields(entries),
            **refined,
            passes=_passes(entries),
            start=start,
            interrupted=bool(entries["interrupted"]) if "interrupted" in entries else False,
        )
    except DAMAGE as error:
        words = words_for(path)
        raise ScanError(
            f"{path}: not a readable reconstruction ({error if words in (None, 'a zip file') else words})"
        ) from error


def _image_entries(reconstruction: Reconstruction) -> dict[str, Any]:
    pixel_size = math.nan if reconstruction.pixel_size_m is None else reconstruction.pixel_size_m
    entries = {name: getattr(reconstruction, name) for name in _ARRAYS}
    return {**entries, "pixel_size_m": np.float64(pixel_size), "backend": np.str_(reconstruction.backend)}


def _image_fields(entries: Mapping[str, NDArray], prefix: str = "") -> dict[str, Any]:
    pixel_size = float(entries[f"{prefix}pixel_size_m"])
    return {
        **{name: entries[prefix + name] for name in _ARRAYS},
        "backend": str(entries[f"{prefix}backend"]),
        "pixel_size_m": None if math.isnan(pixel_size) else pixel_size,
    }


def _column(values: Sequence[float | None]) -> NDArray:
    return np.array([math.nan if value is None else value for value in values])


def _passes(entries: Mapping[str, NDArray]) -> tuple[RefinementRecord, ...]:
    if f"{_PASS}number" not in entries:
        return ()
    names = [field.name for field in dataclasses.fields(RefinementRecord)]
    rows = zip(*(entries[_PASS + name].tolist() for name in names), strict=True)
    return tuple(_record(dict(zip(names, row, strict=True))) for row in rows)


def _record(values: dict[str, Any]) -> RefinementRecord:
    if math.isnan(values["held_out_error"]):
        values["held_out_error"] = None
    return RefinementRecord(**values)


def save_history(history: Sequence[EpochRecord], path: str | os.PathLike[str]) -> Path:
    """Write one row an epoch as CSV: epoch, train_loss, val_loss (empty if unknown), learning_rate, seconds.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    return _save_table(history, EpochRecord, path)


def save_passes(passes: Sequence[RefinementRecord], path: str | os.PathLike[str]) -> Path:
    """Write one row a pass of a refinement as CSV, with the fields of `RefinementRecord`; empty where None.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    return _save_table(passes, RefinementRecord, path)


def _save_table(rows: Sequence[Any], kind: type, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(kind)])
    # repr-exact floats, so that two runs can be compared to the last digit
    writer.writerows(dataclasses.astuple(row) for row in rows)
    with replaced_atomically(path) as stream:
        stream.write(text.getvalue().encode())
    return path


def save_json(values: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write `values` as JSON, indented; NaN is not JSON and is refused.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    text = json.dumps(values, indent=2, allow_nan=False)
    with replaced_atomically(path) as stream:
        stream.write(f"{text}\n".encode())
    return path
