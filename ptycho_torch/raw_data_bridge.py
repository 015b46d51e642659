"""`RawDataTorch`, under the name that programs written for the legacy port know."""

from typing import Any

from numpy.typing import NDArray

from ptycho_backends.config import InferenceConfig, TrainingConfig
from ptycho_backends.errors import GroupingError
from ptycho_backends.legacy.raw_data import LegacyGroups, RawData
from ptycho_backends.params import bridge, params


class RawDataTorch(RawData):
    """A scan with defaults for grouping from a configuration.

    Parameters
    ----------
    xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess, measurement
        As `RawData.from_coords_without_pc`.
    config : TrainingConfig or InferenceConfig, optional
        Fills `params.cfg` before any grouping (rule CONFIG-001).

    Raises
    ------
    ConfigError, ScanError, ShapeError
    """

    def __init__(
        self,
        xcoords: NDArray,
        ycoords: NDArray,
        diff3d: NDArray,
        probeGuess: NDArray | None,
        scan_index: NDArray | None = None,
        objectGuess: NDArray | None = None,
        config: TrainingConfig | InferenceConfig | None = None,
        *,
        measurement: str = "auto",
    ) -> None:
        if config is not None:
            bridge.update_legacy_dict(params.cfg, config)
        raw = RawData.from_coords_without_pc(
            xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess, measurement=measurement
        )
        self.scan = raw.scan
        self.from_ptychodus = raw.from_ptychodus
        self.config = config

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
