"""`RawDataTorch`, under the name that programs written for the legacy port know."""

import os
from typing import Any

from numpy.typing import NDArray

from ptycho_backends.config import InferenceConfig, TrainingConfig
from ptycho_backends.errors import GroupingError, ScanError
from ptycho_backends.legacy.raw_data import LegacyGroups, RawData
from ptycho_backends.params import bridge, params
from ptycho_backends.scans.scan import Scan

AnyConfig = TrainingConfig | InferenceConfig
AnyPath = str | os.PathLike[str]


class RawDataTorch(RawData):
    """A scan with defaults for grouping from a configuration.

    `RawDataTorch(config, npz_path)` reads a file; `RawDataTorch(xcoords, ycoords, diff3d, ...)` takes arrays.

    Parameters
    ----------
    xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess, measurement
        As `RawData.from_coords_without_pc`.
    config : TrainingConfig or InferenceConfig, optional
        Fills `params.cfg` before any grouping (rule CONFIG-001).
    npz_path : path, optional
        In place of the arrays: a file, as `RawData.from_file` reads it.

    Raises
    ------
    ConfigError, ScanError, ShapeError
        Arrays beside a file, and neither of them, are a `ScanError`.
    """

    def __init__(
        self,
        xcoords: NDArray | AnyConfig | None = None,
        ycoords: NDArray | AnyPath | None = None,
        diff3d: NDArray | None = None,
        probeGuess: NDArray | None = None,
        scan_index: NDArray | None = None,
        objectGuess: NDArray | None = None,
        config: AnyConfig | None = None,
        *,
        npz_path: AnyPath | None = None,
        measurement: str = "auto",
    ) -> None:
        if isinstance(xcoords, AnyConfig):
            config, xcoords = xcoords, None
            if isinstance(ycoords, str | os.PathLike):
                npz_path, ycoords = ycoords, None
        if config is not None:
            bridge.update_legacy_dict(params.cfg, config)
        arrays = {"xcoords": xcoords, "ycoords": ycoords, "diff3d": diff3d}
        given = [name for name, value in arrays.items() if value is not None]
        if npz_path is not None and given:
            raise ScanError(f"RawDataTorch: got {', '.join(given)} and npz_path, want arrays or a file")
        if npz_path is None and len(given) < len(arrays):
            missing = [name for name in arrays if name not in given]
            raise ScanError(f"RawDataTorch: {', '.join(missing)} missing; want arrays or npz_path")
        if npz_path is None:
            places: Any = (xcoords, ycoords, diff3d)
            raw = RawData.from_coords_without_pc(
                *places, probeGuess, scan_index, objectGuess, measurement=measurement
            )
        else:
            raw = RawData.from_file(npz_path, measurement=measurement)
        self.scan = raw.scan
        self.from_ptychodus = raw.from_ptychodus
        self.config = config

    @classmethod
    def from_scan(cls, scan: Scan) -> "RawDataTorch":
        """The legacy face of `scan`, without a configuration."""
        raw = cls.__new__(cls)
        raw.scan, raw.from_ptychodus, raw.config = scan, False, None
        return raw

    def generate_grouped_data(  # type: ignore[override]
        self,
        N: int | None = None,
        K: int | None = None,
        nsamples: int | None = None,
        gridsize: int | None = None,
        **options: Any,
    ) -> LegacyGroups:
        """`RawData.generate_grouped_data`; the data or the configuration replace arguments that are None."""
        config = self.config
        if gridsize is None and config is None:
            raise GroupingError("gridsize: not given, want an integer >= 1, or a config for RawDataTorch")
        if config is not None:
            gridsize = config.model.gridsize if gridsize is None else gridsize
            K = config.neighbor_count if K is None else K
            nsamples = config.n_groups if nsamples is None else nsamples
        return super().generate_grouped_data(
            self.scan.N if N is None else N,
            K=4 if K is None else K,
            nsamples=len(self) if nsamples is None else nsamples,
            gridsize=gridsize,
            **options,
        )
