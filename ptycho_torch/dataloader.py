"""`PtychoDataset`, under the name that programs written for the legacy port know."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ptycho_backends.scans.grouping import GroupedData
from ptycho_torch.api.base_api import ConfigManager
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.scan_folder import training_files, training_groups

Item = tuple[dict[str, Tensor], Tensor, Tensor]


class PtychoDataset(Dataset):
    """The groups of all `*.npz` files of a folder, each within its own scan.

    `dataset[i]` is `(values, probe, scale)`; `DataLoader(dataset, batch_size=16)` gives batches of them. `values`:

    * `images` (C, N, N) float32, normalised amplitude; `X = scale * images` is what a network is fed;
    * `coords_global` (C, 1, 2), `coords_center` (1, 1, 2) float64 and `coords_relative` (C, 1, 2) float32, all
      `[x, y]` in object pixels: positions, centre of the group, and centre minus position;
    * `nn_indices` (C,) int64, numbers of the positions; `experiment_id` () int64, number of the file;
    * with an object in the file: `Y` (C, N, N) complex64, its patches, and their `label_amp` and `label_phase`
      (radians), float32.

    `probe` (modes, N, N) complex64 is that of the file, `scale` () float32 the factor of the patterns.

    Parameters
    ----------
    ptycho_dir : path
        Or one file.
    model_config, data_config, training_config
        Of `config_params`, or mappings of their fields; None for the defaults.

    Attributes
    ----------
    groups : GroupedData
    data_config : DataConfig
        With the size of the patterns.

    Raises
    ------
    ConfigError, ScanError, ShapeError, GroupingError
    """

    def __init__(
        self,
        ptycho_dir: str | os.PathLike[str],
        model_config: ModelConfig | Mapping[str, Any] | None = None,
        data_config: DataConfig | Mapping[str, Any] | None = None,
        training_config: TrainingConfig | Mapping[str, Any] | None = None,
    ) -> None:
        manager = ConfigManager(data_config, model_config, training_config)
        config = manager.fill_params()
        groups, self.data_config = training_groups(
            training_files(ptycho_dir), manager.data_config, manager.model_config
        )
        self.groups: GroupedData = groups.as_configured(config)
        self._scans = self.groups.parts or (self.groups.scan,)
        self._labelled = all(scan.object_guess is not None for scan in self._scans)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"group {index} of {len(self)}")
        index = index % len(self)
        batch = self.groups.batch(slice(index, index + 1), with_truth=self._labelled)
        part = 0 if self.groups.part_of_group is None else int(self.groups.part_of_group[index])
        members = self.groups.nn_indices[index]
        values = {
            "images": _channels_first(batch.diffraction_amplitude),
            "coords_global": self.groups.scan.positions_of(members)[:, None],
            "coords_center": np.moveaxis(self.groups.group_centres_px[index], -1, 0),
            "coords_relative": np.moveaxis(batch.relative_offsets_px[0], -1, 0),
            "nn_indices": members,
            "experiment_id": np.int64(part),
        }
        if batch.object_patches is not None:
            truth = _channels_first(batch.object_patches)
            values |= {"Y": truth, "label_amp": np.abs(truth), "label_phase": np.angle(truth)}
        modes = self._scans[part].probe_modes
        probe = np.zeros((0, self.groups.N, self.groups.N), np.complex64) if modes is None else modes
        scale = np.float32(self.groups.group_normalisation[index])
        return (
            {name: _tensor(value) for name, value in values.items()},
            _tensor(probe),
            _tensor(scale),
        )


def _tensor(value: np.ndarray | np.generic) -> torch.Tensor:
    """A copy on the host, of the same type."""
    return torch.from_numpy(np.array(value))


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(1, N, N, C) to (C, N, N)."""
    return np.moveaxis(images[0], -1, 0)
