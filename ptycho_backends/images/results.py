"""Results as files: a reconstruction as NPZ, a history as CSV, metrics as JSON; each whole or not at all."""

import csv
import dataclasses
import io
import json
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_backends.errors import ScanError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.values import EpochRecord, Reconstruction

_ARRAYS = ("object", "coverage", "origin_px", "group_centres_px")


def save_reconstruction(reconstruction: Reconstruction, path: str | os.PathLike[str]) -> Path:
    """Write the stitched image and its position as NPZ, without the single patches.

    Keys: `object` (H, W) complex64 `[y, x]`, `coverage` (H, W) float32, `origin_px` (2,) `[x, y]` of
    `object[0, 0]` in scan coordinates, `group_centres_px` (B, 2) `[x, y]`, `pixel_size_m` (NaN if
    unknown), `backend`.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file stays untouched.
    """
    path = Path(path)
    pixel_size = math.nan if reconstruction.pixel_size_m is None else reconstruction.pixel_size_m
    with replaced_atomically(path) as stream:
        np.savez_compressed(
            stream,
            **{name: getattr(reconstruction, name) for name in _ARRAYS},
            pixel_size_m=np.float64(pixel_size),
            backend=np.str_(reconstruction.backend),
        )
    return path


def load_reconstruction(path: str | os.PathLike[str]) -> Reconstruction:
    """Read a file of `save_reconstruction`.

    Raises
    ------
    ScanError
        If the file cannot be read or lacks a key; the text names the file.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as entries:
            pixel_size = float(entries["pixel_size_m"])
            return Reconstruction(
                **{name: entries[name] for name in _ARRAYS},
                backend=str(entries["backend"]),
                pixel_size_m=None if math.isnan(pixel_size) else pixel_size,
            )
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, KeyError) as error:
        raise ScanError(f"{path}: not a readable reconstruction ({error})") from error


def save_history(history: Sequence[EpochRecord], path: str | os.PathLike[str]) -> Path:
    """Write one row an epoch as CSV: epoch, train_loss, val_loss (empty if unknown), learning_rate, seconds.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(EpochRecord)])
    # repr-exact floats, so that two runs can be compared to the last digit
    writer.writerows(dataclasses.astuple(record) for record in history)
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
