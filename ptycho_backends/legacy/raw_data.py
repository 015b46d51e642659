"""`RawData`: a scan under the legacy package's names. A face over `Scan`, with no logic of its own."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import GroupingError
from ptycho_backends.grouping import group_scan
from ptycho_backends.scan import Scan, load_scan, save_scan


class RawData:
    """A scan as legacy callers see it.

    Parameters
    ----------
    xcoords, ycoords : (M,) real array
        Patch centres in object pixels; x is the column, y the row.
    xcoords_start, ycoords_start : (M,) real array or None
        The same before any refinement; None: the positions.
    diff3d : (M, N, N) real array, [ky, kx]
        Diffraction patterns, zero frequency at `[N//2, N//2]`.
    probeGuess : (N, N) or (modes, N, N) complex array or None, [y, x]
        Of several modes the most intense is kept.
    scan_index : (M,) integer array, optional
    objectGuess : (H, W) complex array, optional, [y, x]
    measurement : {'auto', 'amplitude', 'intensity'}
        What `diff3d` holds, as in `Scan`.

    Attributes
    ----------
    scan : Scan
        What everything else is read from.

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

    @classmethod
    def from_scan(cls, scan: Scan) -> "RawData":
        """The legacy face of `scan`; nothing is copied or checked again."""
        raw = cls.__new__(cls)
        raw.scan = scan
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
        """A scan whose positions were never refined; parameters as in the class."""
        return cls(
            xcoords, ycoords, None, None, diff3d, probeGuess, scan_index, objectGuess, measurement=measurement
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, measurement: str = "auto") -> "RawData":
        """Read an NPZ file, as `load_scan`."""
        return cls.from_scan(load_scan(path, measurement=measurement))

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
        """(M, N, N), as given: amplitudes or counts, which `measurement` tells."""
        return self.scan.patterns

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
    ) -> dict[str, Any]:
        """Group the scan, as `group_scan`, into the dictionary with the legacy keys.

        Parameters
        ----------
        N : int
            Side of the patterns; must be that of the scan.
        K : int
            `neighbor_count`.
        nsamples : int
            `n_groups`.
        dataset_path : str, optional
            Unused: groups are formed anew each time, so there is no cache beside the data.
        gridsize : int
            Must be given: `params.cfg` is not asked.
        seed, sequential_sampling, enable_oversampling, neighbor_pool_size
            As in `group_scan`.

        Returns
        -------
        dict
            `GroupedData.to_legacy_dict`.

        Raises
        ------
        GroupingError
            If `gridsize` is missing, `N` is not that of the patterns, or the groups are impossible.
        """
        if gridsize is None:
            raise GroupingError("gridsize: not given, want an integer >= 1; params.cfg is not asked for it")
        if N != self.scan.N:
            raise GroupingError(f"N: got {N}, but the patterns are {self.scan.N} x {self.scan.N} pixels")
        grouped = group_scan(
            self.scan,
            gridsize=gridsize,
            n_groups=nsamples,
            neighbor_count=K,
            sequential_sampling=sequential_sampling,
            seed=seed,
            enable_oversampling=enable_oversampling,
            neighbor_pool_size=neighbor_pool_size,
        )
        return grouped.to_legacy_dict()
