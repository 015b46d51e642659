"""Ptychodus's data in this library's terms: training files, live arrays, and the groups made of them.

Its positions move by half a pixel (`PTYCHODUS_ANCHOR_PX`) on their way in, and images on their way out.
"""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ptycho_backends.config import SIDES
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.reference import probe as probes
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.merging import merge_groups
from ptycho_backends.scans.neighbours import group_around, seeds_within
from ptycho_backends.scans.scan import PTYCHODUS_ANCHOR_PX, Scan, without_negatives
from ptycho_backends.scans.scan_files import load_scan
from ptycho_torch.config_bridge import neighbour_choice
from ptycho_torch.config_params import DataConfig, ModelConfig

log = logging.getLogger(__name__)

# Seed of the choice of groups; constant, so that a run can be repeated.
GROUP_SEED = 0


def training_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The `*.npz` files of `folder` itself, by name; or `folder` alone if it is a file.

    Raises
    ------
    ScanError
        If there is none.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else sorted(folder.glob("*.npz"))
    if not files:
        raise ScanError(f"{folder}: no *.npz file in it; export training data there first")
    return files


def load_training_scan(path: str | os.PathLike[str]) -> Scan:
    """A scan from a file that Ptychodus exported, or from one that this library wrote.

    Files of Ptychodus hold counts of any dtype and positions in its coordinates. Those of this library name their
    measurement.

    Raises
    ------
    ScanError, ShapeError
        As `ptycho_backends.scans.scan.load_scan`.
    """
    path = Path(path)
    if _is_our_own(path):
        return load_scan(path)
    scan = load_scan(path, measurement="intensity", clip_negative=True)
    return dataclasses.replace(
        scan,
        xcoords=scan.xcoords + PTYCHODUS_ANCHOR_PX,
        ycoords=scan.ycoords + PTYCHODUS_ANCHOR_PX,
        xcoords_start=None,
        ycoords_start=None,
    )


def _is_our_own(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as entries:
            return "measurement" in entries
    except Exception:
        # `load_scan` raises with the reason
        return False


def live_scan(diff_patterns: ArrayLike, probe: ArrayLike, positions: ArrayLike) -> Scan:
    """A scan from the arrays that Ptychodus passes for a reconstruction.

    Parameters
    ----------
    diff_patterns : (M, N, N) real array, [ky, kx]
        Counts.
    probe : (P, N, N) complex array, [y, x]
        All modes are used.
    positions : (M, 2) real array, [y, x]
        Object pixels, counted as Ptychodus does.

    Raises
    ------
    ScanError, ShapeError
    """
    places = np.asarray(positions, np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ScanError(f"positions: got shape {places.shape}, want (positions, 2) with columns y, x")
    return Scan(
        xcoords=places[:, 1] + PTYCHODUS_ANCHOR_PX,
        ycoords=places[:, 0] + PTYCHODUS_ANCHOR_PX,
        patterns=without_negatives(np.asarray(diff_patterns), "diff_patterns"),
        probe_guess=np.asarray(probe),
        measurement="intensity",
        name="ptychodus",
    )


def with_size_of_the_data(data: DataConfig, side: int) -> DataConfig:
    """`data` for patterns of `side` pixels, with a warning if the setting differs.

    Raises
    ------
    ConfigError
        If no network has that size.
    """
    if not SIDES.accepts(side):
        raise ConfigError(f"N: the patterns are {side} x {side} pixels, want {SIDES.text}; crop or bin them")
    if side != data.N:
        log.warning(
            "N (model_size): the setting is %d, but the patterns are %d x %d pixels; %d is used",
            data.N, side, side, side,
        )  # fmt: skip
    return dataclasses.replace(data, N=side)


def training_groups(
    files: list[Path], data: DataConfig, network: ModelConfig
) -> tuple[GroupedData, DataConfig]:
    """The groups of all `files`, each within its own scan, and `data` with the patterns' size.

    Raises
    ------
    ConfigError
        If `num_datasets` is neither 1 nor the number of files.
    ScanError, ShapeError, GroupingError
        If a file cannot be trained on; the text names it.
    """
    if network.num_datasets not in (1, len(files)):
        raise ConfigError(
            f"num_datasets: got {network.num_datasets}, but there are {len(files)} training files; want 1 or that"
        )
    scans = [_with_probe_ramp_removed(load_training_scan(path), data) for path in files]
    data = with_size_of_the_data(data, scans[0].N)
    if network.mode == "Supervised":
        for scan in scans:
            _require_labels(scan)
    choice = neighbour_choice(data)
    parts = [
        group_around(scan, seeds_within(scan, data.x_bounds, data.y_bounds), choice, seed=GROUP_SEED)
        for scan in scans
    ]
    groups = merge_groups(parts)
    _warn_of_wide_groups(groups, network)
    log.info("training: %d groups of %d from %s", len(groups), data.C, groups.scan)
    return groups, data


def image_groups(scan: Scan, data: DataConfig) -> GroupedData:
    """Groups around every position of `scan`, for an image of it."""
    seeds = np.arange(len(scan))
    return group_around(scan, seeds, neighbour_choice(data), seed=GROUP_SEED, leave_none_out=True)


def _with_probe_ramp_removed(scan: Scan, data: DataConfig) -> Scan:
    if not data.probe_ramp_removal or scan.probe_modes is None:
        return scan
    return scan.with_probe(probes.without_phase_ramp(scan.probe_modes))


def _require_labels(scan: Scan) -> None:
    if scan.object_guess is None or (scan.object_guess == scan.object_guess.flat[0]).all():
        raise ScanError(
            f"{scan.name}: its objectGuess is {'missing' if scan.object_guess is None else 'the same everywhere'}, "
            "but Supervised training learns from it; export training data from a product with an object, or "
            "train Unsupervised"
        )


def _warn_of_wide_groups(groups: GroupedData, network: ModelConfig) -> None:
    """Warn of groups wider than their canvas, which cuts the parts outside it."""
    room = ((groups.gridsize - 1) * network.offset + network.max_position_jitter) / 2
    reach = np.abs(groups.relative_offsets_px).max(axis=(1, 2, 3))
    if (reach > room).any():
        log.warning(
            "offset, max_position_jitter: %d of %d groups reach up to %.1f pixels from their middle, and there is "
            "room for %.1f; raise max_position_jitter or choose nearer neighbours",
            np.count_nonzero(reach > room), len(groups), reach.max(), room,
        )  # fmt: skip
