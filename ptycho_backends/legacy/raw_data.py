"""`RawData`: a scan under the legacy package's names; a face over `Scan` with the conventions of Ptychodus."""

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import GroupingError
from ptycho_backends.images.stitching import Canvas, canvas_around
from ptycho_backends.legacy.reassembly import GroupCentres
from ptycho_backends.scans.grouping import GroupedData, group_scan
from ptycho_backends.scans.scan import PTYCHODUS_ANCHOR_PX, Scan, without_negatives
from ptycho_backends.scans.scan_files import is_ptychodus_file, load_scan, save_scan

log = logging.getLogger(__name__)

# Seed of group_scan if the caller gives none, so that the same call gives the same image.
DEFAULT_SEED = 0


class RawData:
    """A scan with the interface of the legacy package.

    Parameters
    ----------
    xcoords, ycoords : (M,) real array
        Patch centres in object pixels; x is the column, y the row.
    xcoords_start, ycoords_start : (M,) real array or None
        The same before any refinement; None: the positions.
    diff3d : (M, N, N) real array, [ky, kx]
        Diffraction patterns, zero frequency at `[N//2, N//2]`.
    probeGuess : (N, N) or (modes, N, N) complex array or None, [y, x]
        All modes are kept, and trained with.
    scan_index : (M,) integer array, optional
    objectGuess : (H, W) complex array, optional, [y, x]
    measurement : {'auto', 'amplitude', 'intensity'}
        Meaning of `diff3d`, as in `Scan`.

    Attributes
    ----------
    scan : Scan
        Source of all other attributes.
    from_ptychodus : bool
        True for a scan from a file of Ptychodus.

    Raises
    ------
    ScanError, ShapeError
        As `Scan`.
    """

    def __init__(
        self,
        xcoords: NDArray,
        ycoords: NDArray,
        xcoords_start: NDArray | None,
        ycoords_start: NDArray | None,
        diff3d: NDArray,
        probeGuess: NDArray | None,
        scan_index: NDArray | None = None,
        objectGuess: NDArray | None = None,
        *,
        measurement: str = "auto",
    ) -> None:
        self.scan = Scan(
            xcoords=xcoords,
            ycoords=ycoords,
            patterns=diff3d,
            probe_guess=probeGuess,
            object_guess=objectGuess,
            measurement=measurement,
            scan_index=scan_index,
            xcoords_start=xcoords_start,
            ycoords_start=ycoords_start,
            name="RawData",
        )
        self.from_ptychodus = False

    @classmethod
    def from_scan(cls, scan: Scan) -> "RawData":
        """The legacy face of `scan`; nothing is copied or checked again."""
        raw = cls.__new__(cls)
        raw.scan = scan
        raw.from_ptychodus = False
        return raw

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: NDArray,
        ycoords: NDArray,
        diff3d: NDArray,
        probeGuess: NDArray | None,
        scan_index: NDArray | None = None,
        objectGuess: NDArray | None = None,
        *,
        measurement: str = "auto",
    ) -> "RawData":
        """A scan whose positions were never refined; parameters as in the class.

        With `measurement='auto'`, patterns that come with a stack of probe modes are counts of any dtype,
        because only Ptychodus calls in this way. Negative counts, which its filling of bad pixels may leave,
        become 0.
        """
        if measurement == "auto" and probeGuess is not None and np.ndim(probeGuess) == 3:
            measurement = "intensity"
            diff3d = np.asarray(without_negatives(np.asarray(diff3d), "diff3d"))
            log.info("measurement: patterns that come with a stack of probe modes are taken for counts")
        return cls(
            xcoords, ycoords, None, None, diff3d, probeGuess, scan_index, objectGuess, measurement=measurement
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, measurement: str = "auto") -> "RawData":
        """Read an NPZ file, as `load_scan`."""
        raw = cls.from_scan(load_scan(path, measurement=measurement))
        raw.from_ptychodus = is_ptychodus_file(path)
        return raw

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write an NPZ file, as `save_scan`; patterns and their `measurement` stay as they are."""
        save_scan(self.scan, path)

    @property
    def xcoords(self) -> NDArray[np.float64]:
        return self.scan.xcoords

    @property
    def ycoords(self) -> NDArray[np.float64]:
        return self.scan.ycoords

    @property
    def xcoords_start(self) -> NDArray[np.float64] | None:
        return self.scan.xcoords_start

    @property
    def ycoords_start(self) -> NDArray[np.float64] | None:
        return self.scan.ycoords_start

    @property
    def diff3d(self) -> NDArray:
        """(M, N, N), as given: amplitudes or counts, according to `measurement`."""
        return self.scan.patterns  # type: ignore[return-value] # indexed alike in memory and in a file

    @property
    def probeGuess(self) -> NDArray[np.complex64] | None:
        """(N, N) complex64, `[y, x]`: the most intense mode."""
        return self.scan.probe_guess

    @property
    def scan_index(self) -> NDArray[np.int64] | None:
        return self.scan.scan_index

    @property
    def objectGuess(self) -> NDArray[np.complex64] | None:
        """(H, W) complex64, `[y, x]`."""
        return self.scan.object_guess

    @property
    def measurement(self) -> str:
        """'amplitude' or 'intensity', decided."""
        return self.scan.measurement

    @property
    def labelled_scan(self) -> Scan:
        """`scan` with its positions in the coordinates of `objectGuess`.

        Those of Ptychodus differ by `PTYCHODUS_ANCHOR_PX`.
        """
        if not self.from_ptychodus:
            return self.scan
        names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start")
        moved = {name: getattr(self.scan, name) + PTYCHODUS_ANCHOR_PX for name in names}
        return dataclasses.replace(self.scan, **moved)

    def __len__(self) -> int:
        return len(self.scan)

    def __repr__(self) -> str:
        return f"RawData({self.scan!r})"

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        dataset_path: str | None = None,
        seed: int | None = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
    ) -> "LegacyGroups":
        """Group the scan, as `group_scan`, into a mapping with the legacy keys.

        Parameters
        ----------
        N : int
            Side of the patterns; must be that of the scan.
        K : int
            `neighbor_count`.
        nsamples : int
            `n_groups`; for `gridsize=1`, more than there are positions means all of them.
        dataset_path : str, optional
            Unused: groups are formed anew each time, so there is no cache beside the data.
        gridsize : int
            Must be given: `params.cfg` is not read.
        seed : int, optional
            None: 0, so that the same call gives the same groups, on every framework.
        sequential_sampling, enable_oversampling, neighbor_pool_size
            As in `group_scan`.

        Returns
        -------
        LegacyGroups
            As `GroupedData.to_legacy_dict`; `coords_offsets` also carries the scan's canvas.

        Raises
        ------
        GroupingError
            If `gridsize` is missing, `N` is not that of the patterns, or the groups are impossible.
        """
        if gridsize is None:
            raise GroupingError("gridsize: not given, want an integer >= 1; params.cfg is not asked for it")
        if N != self.scan.N:
            raise GroupingError(f"N: got {N}, but the patterns are {self.scan.N} x {self.scan.N} pixels")
        self._check_counts(K, nsamples, gridsize, enable_oversampling)
        grouped = group_scan(
            self.scan,
            gridsize=gridsize,
            n_groups=nsamples,
            neighbor_count=K,
            sequential_sampling=sequential_sampling,
            seed=DEFAULT_SEED if seed is None else seed,
            enable_oversampling=enable_oversampling,
            neighbor_pool_size=neighbor_pool_size,
        )
        return LegacyGroups(grouped, canvas_around(self.scan.scan_positions_px, N))

    def _check_counts(self, K: int, nsamples: int, gridsize: int, enable_oversampling: bool) -> None:
        """Raise `GroupingError` with the legacy parameter names; `group_scan` would use its own."""
        if nsamples < 1:
            raise GroupingError(f"nsamples: got {nsamples}, want at least 1 group")
        if gridsize == 1:
            return
        size = gridsize**2
        if size > K:
            raise GroupingError(
                f"K: got {K} nearest neighbours, want at least {size} to choose groups of {size} from "
                f"(gridsize {gridsize})"
            )
        if nsamples > len(self) and not enable_oversampling:
            raise GroupingError(
                f"nsamples: got {nsamples} groups, but the scan has {len(self)} positions; want at most "
                f"{len(self)}, or enable_oversampling=True to choose several groups around each position"
            )


class LegacyGroups(Mapping[str, Any]):
    """The grouped dictionary; its large arrays are gathered on first access and then kept.

    Labels take twice the memory of the patterns, and reconstruction does not need them. A process that runs
    out of memory is killed, and Ptychodus then waits for it for ever.
    """

    _LARGE = ("diffraction", "X_full", "Y")

    def __init__(self, groups: GroupedData, canvas: Canvas) -> None:
        self.groups = groups
        self._gathered = groups.legacy_coordinates()
        self._gathered["coords_offsets"] = GroupCentres(groups.group_centres_px, canvas, groups.scan)

    def __getitem__(self, key: str) -> Any:
        if key in self._LARGE and key not in self._gathered:
            self._gathered[key] = self._gather(key)
        return self._gathered[key]

    def __contains__(self, key: object) -> bool:
        # the inherited method would gather
        return key in self._LARGE or key in self._gathered

    def _gather(self, key: str) -> NDArray | None:
        if key == "diffraction":
            return self.groups.legacy_diffraction()
        if key == "X_full":
            return self.groups.batch().diffraction_amplitude
        if self.groups.scan.object_guess is None:
            return None
        return self.groups.batch(with_truth=True).object_patches

    def __iter__(self) -> Iterator[str]:
        return iter((*self._LARGE, *(key for key in self._gathered if key not in self._LARGE)))

    def __len__(self) -> int:
        return len(set(self._gathered) | set(self._LARGE))

    def __repr__(self) -> str:
        return f"LegacyGroups({self.groups!r})"
