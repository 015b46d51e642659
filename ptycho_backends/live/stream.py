"""Frames joined with their positions, in the units of a `Scan`: a frame waits until its position is there."""

import dataclasses
import logging
import math
import time
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ConfigError, ScanError, ShapeError
from ptycho_backends.live.frames import PATIENCE_S, FolderFrames, FrameSource, Hdf5Frames, Taken
from ptycho_backends.live.positions import PositionsFile, PositionSource
from ptycho_backends.scans.geometry import Conversion, conversion_of, scan_from_raw
from ptycho_backends.scans.readers.positions import split_dataset
from ptycho_backends.scans.scan import Scan, resolved_measurement
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions

log = logging.getLogger(__name__)

FIRST_FRAMES = 16
"""Frames that settle the centre, the mask and the measurement, unless the scan ends before or is slow."""

FIRST_WAIT_S = 2.0
"""After this time fewer frames settle them."""


class Stream:
    """A scan that is being written.

    Parameters
    ----------
    path : Path
        A folder of TIFF or NPY files, or an HDF5 file; neither need exist yet. Without a suffix it is a folder.
    options : ScanOptions
        As for a finished scan.
    measurement, valid_pixels
        As `load_scan`.
    patience_s : float
        A file that cannot be read is given up when it has not changed for so long.

    Raises
    ------
    ConfigError
        For options that need the whole scan.
    """

    def __init__(
        self,
        path: Path,
        options: ScanOptions = NO_OPTIONS,
        *,
        measurement: str = "auto",
        valid_pixels: ArrayLike | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if options.patterns_from is not None:
            raise ConfigError("patterns_from: given, but a scan is watched as it is written; watch that file")
        self.path, self._options, self._measurement, self._mask = path, options, measurement, valid_pixels
        in_folder = path.is_dir() or (not path.exists() and not path.suffix)
        self.positions: PositionSource
        if in_folder:
            self.frames: FrameSource = FolderFrames(path, patience_s)
            self.positions = PositionsFile(None, None, path)
        else:
            self.frames = self.positions = Hdf5Frames(path, options, patience_s)
        if options.positions_from is not None:
            self.positions = PositionsFile(*split_dataset(options.positions_from))
        self.left_out: list[str] = []
        self._conversion: Conversion | None = None
        self._template: Scan | None = None
        self._first: list[Taken] = []
        self._first_s = math.inf
        self._numbers: list[NDArray[np.int64]] = []

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self.path.resolve().stem

    @property
    def given_up(self) -> list[str]:
        """Files and frames that are not in the scan, each with the reason."""
        return [*self.frames.left_out, *self.left_out]

    @property
    def without_position(self) -> int:
        """Frames that were written but wait for their positions."""
        known = self.positions.known
        return max(0, self.frames.seen - (0 if known is None else len(known)))

    @property
    def waits_to_begin(self) -> bool:
        """True where frames were read but are too few to settle the conversion."""
        return bool(self._first)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(M,) numbers of the frames that were handed out."""
        return np.concatenate(self._numbers) if self._numbers else np.zeros(0, np.int64)

    @property
    def trouble(self) -> str:
        """Why nothing came so far."""
        reasons = [getattr(source, "trouble", "") for source in (self.frames, self.positions)]
        if waiting := self.without_position:
            reasons.append(
                f"{waiting} frames wait for positions; name them with --positions-from FILE, or with --dataset "
                "x=PATH and --dataset y=PATH"
            )
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or "no frame came"

    def poll(self, ended: bool = False) -> None:
        """Look for new frames and positions; `ended` where none will follow."""
        self.frames.poll(ended)
        if self.positions is not self.frames:
            self.positions.poll(ended)

    def take(self, most: int, ended: bool = False) -> tuple[Scan, NDArray[np.float64]] | None:
        """At most `most` new frames as a scan, with the numbers as `scan_index`, and the times they were written.

        Returns
        -------
        (Scan, (n,) float64) or None
            Seconds since 1970; None where nothing new is ready.

        Raises
        ------
        ScanError, ShapeError
            If the first frames do not fit the options; later ones are named and left out.
        """
        known = self.positions.known
        if known is None or len(known) == 0:
            return None
        taken = self.frames.take(most, len(known))
        if self._conversion is None:
            if taken is not None:
                self._first.append(taken)
                self._first_s = min(self._first_s, time.monotonic())
            waited = time.monotonic() - self._first_s >= FIRST_WAIT_S
            enough = sum(map(len, self._first)) >= FIRST_FRAMES or waited or ended
            if not self._first or not enough:
                return None
            taken = _joined(self._first)
            self._first = []
            self._settle(taken, known)
        if taken is None:
            return None
        return self._scan(taken, self._positions(known)[taken.numbers])

    def _settle(self, taken: Taken, known: NDArray[np.float64]) -> None:
        raw = self.frames.stored(taken.numbers)
        raw.positions, raw.positions_unit = known[taken.numbers], self._unit(raw.positions_unit)
        raw.patterns = taken.frames
        # about the middle of a scan that is not known yet: reversed about 0 here, which moves all by a constant
        still = dataclasses.replace(self._options, flip_x=False, flip_y=False)
        found = conversion_of(raw, still, measurement=self._measurement, valid_pixels=self._mask)
        patterns = found.patterns(taken.frames)
        measured = resolved_measurement(found.measurement, patterns)
        self._conversion = dataclasses.replace(found, measurement=measured)
        modes = found.probe(raw.probe if raw.probe_modes is None else raw.probe_modes, [])
        positions = self._positions(known)[taken.numbers]
        self._template = Scan(
            positions[:, 0], positions[:, 1], patterns, modes,
            measurement=measured, valid_pixels=found.valid_pixels, name=self.name, pixel_size_m=found.pixels.size_m,
        )  # fmt: skip

    def _unit(self, of_file: str | None) -> str | None:
        return self.positions.unit or of_file

    def _positions(self, known: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M, 2) positions `[x, y]` in object pixels, up to a constant where axes are reversed."""
        assert self._conversion is not None
        signs = [-1.0 if self._options.flip_x else 1.0, -1.0 if self._options.flip_y else 1.0]
        return self._conversion.positions(known) * signs

    def _scan(self, taken: Taken, positions: NDArray[np.float64]) -> tuple[Scan, NDArray[np.float64]] | None:
        """The frames as a scan; those that a scan refuses are named and left out."""
        try:
            scan = self._checked(taken, positions)
        except (ScanError, ShapeError) as error:
            if len(taken) == 1:
                self.left_out.append(f"frame {taken.numbers[0]}: {error}")
                return None
            good = [place for place in range(len(taken)) if self._is_good(taken, positions, place)]
            if not good:
                return None
            taken, positions = _part(taken, good), positions[good]
            scan = self._checked(taken, positions)
        self._numbers.append(taken.numbers)
        return scan, taken.written_s

    def _is_good(self, taken: Taken, positions: NDArray[np.float64], place: int) -> bool:
        try:
            self._checked(_part(taken, [place]), positions[[place]])
        except (ScanError, ShapeError) as error:
            self.left_out.append(f"frame {taken.numbers[place]}: {error}")
            return False
        return True

    def _checked(self, taken: Taken, positions: NDArray[np.float64]) -> Scan:
        assert self._conversion is not None
        assert self._template is not None
        template = self._template
        return Scan(
            positions[:, 0], positions[:, 1], self._conversion.patterns(taken.frames), template.probe_modes,
            measurement=template.measurement, valid_pixels=template.valid_pixels, scan_index=taken.numbers,
            name=self.name, pixel_size_m=template.pixel_size_m,
        )  # fmt: skip

    def whole_scan(self, without: NDArray[np.int64] | None = None, *, as_live: bool = False) -> Scan:
        """The scan of all frames that were handed out, as `load_scan` reads it when it is finished.

        Parameters
        ----------
        without : (n,) int64, optional
            Numbers of frames to leave out.
        as_live : bool
            With the positions of `take`, which differ by a constant where axes are reversed.

        Raises
        ------
        ScanError, ShapeError
        """
        known = self.positions.known
        assert known is not None
        numbers = np.sort(self.numbers)
        if without is not None:
            numbers = np.setdiff1d(numbers, without)
        raw = self.frames.stored(numbers)
        raw.positions, raw.positions_unit = known[numbers], self._unit(raw.positions_unit)
        raw.took("positions", "as they were measured", raw.positions_unit or "of unknown unit")
        scan = scan_from_raw(raw, self._options, measurement=self._measurement, valid_pixels=self._mask)
        if not (as_live and (self._options.flip_x or self._options.flip_y)):
            return scan
        x, y = self._positions(known)[numbers].T
        return dataclasses.replace(scan, xcoords=x, ycoords=y, xcoords_start=None, ycoords_start=None)


def _joined(parts: list[Taken]) -> Taken:
    return Taken(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.written_s for part in parts]),
    )


def _part(taken: Taken, places: list[int]) -> Taken:
    return Taken(taken.numbers[places], taken.frames[places], taken.written_s[places])
