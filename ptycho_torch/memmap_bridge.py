"""`MemmapDatasetBridge`, under the name that programs written for the legacy port know."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.legacy.raw_data import LegacyGroups
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.training.plan import plan_training
from ptycho_torch.backend.arrays import tensors_from_batch
from ptycho_torch.backend.data import PtychoDataModule
from ptycho_torch.raw_data_bridge import RawDataTorch


class MemmapDatasetBridge(Dataset):
    """A scan whose patterns stay on disk and are read as they are needed, as groups for PyTorch.

    `bridge[i]` is one group: `diffraction` (C, N, N) float32 and `offsets` (C, 2) float32 `[x, y]`; with ground
    truth if the loss needs it. So `DataLoader(bridge, batch_size=16)` gives batches. Training itself uses
    `data_module`. The numbers are those of the same scan in memory.

    Parameters
    ----------
    npz_path : path
        As `load_scan` reads it, uncompressed.
    config : TrainingConfig
    memmap_dir : path, optional
        For a compressed file: folder of an uncompressed copy, which is written once and then used.
    measurement : {'auto', 'amplitude', 'intensity'}
        As in `load_scan`.

    Attributes
    ----------
    scan : Scan
    raw_data : RawDataTorch
        The same under the legacy names; groups as `config` says.
    groups : GroupedData

    Raises
    ------
    ScanError, ShapeError, ConfigError, GroupingError, OutputError
        A compressed file without `memmap_dir` is a `ScanError`.
    """

    def __init__(
        self,
        npz_path: str | os.PathLike[str],
        config: TrainingConfig,
        memmap_dir: str | os.PathLike[str] | None = None,
        *,
        measurement: str = "auto",
    ) -> None:
        path = Path(npz_path) if memmap_dir is None else _uncompressed(Path(npz_path), Path(memmap_dir))
        self.scan: Scan = load_scan(path, measurement=measurement, mapped=True)
        self._plan = plan_training(self.scan, config, "torch")
        self.config = self._plan.config
        self.groups: GroupedData = self._plan.groups
        self.raw_data = RawDataTorch.from_scan(self.scan)
        self.raw_data.config = self.config

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"group {index} of {len(self)}")
        first = index % len(self)
        return {name: tensor[0] for name, tensor in self.batch(slice(first, first + 1)).items()}

    def batch(self, indices: NDArray | slice) -> dict[str, Tensor]:
        """The groups `indices` as tensors with a leading axis."""
        return tensors_from_batch(self._plan.gather(np.arange(len(self))[indices]))

    def generate_grouped_data(
        self,
        N: int | None = None,
        K: int | None = None,
        nsamples: int | None = None,
        gridsize: int | None = None,
        **options: Any,
    ) -> LegacyGroups:
        """`RawDataTorch.generate_grouped_data`: the grouped dictionary, whose patterns are read on access."""
        return self.raw_data.generate_grouped_data(N, K, nsamples, gridsize, **options)

    # name of the port
    get_grouped_data = generate_grouped_data

    def data_module(self, execution: ExecutionConfig | None = None) -> PtychoDataModule:
        """Training and validation batches for a Lightning trainer."""
        return PtychoDataModule(self._plan, ExecutionConfig() if execution is None else execution)


def _uncompressed(path: Path, folder: Path) -> Path:
    """A copy of the scan in `folder` that can be mapped; an existing newer copy is used."""
    copy = folder / f"{path.stem}.mapped.npz"
    if not copy.is_file() or copy.stat().st_mtime_ns < path.stat().st_mtime_ns:
        save_scan(load_scan(path), copy, compressed=False)
    return copy
