"""The model as a torch module, and the LightningModule that trains it."""

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, is_running_value
from ptycho_backends.training.schedule import parts_of_weights
from ptycho_torch.backend import losses, network, physics
from ptycho_torch.backend.arrays import TensorBatch, tensors_from_weights, weights_from_tensors

log = logging.getLogger(__name__)

# What `torch.compile` hands its graphs to.
COMPILER = "inductor"


class PtychoModel(torch.nn.Module):
    """Diffraction amplitudes to object and predicted diffraction.

    Parameters
    ----------
    config : ModelConfig
    weights : mapping of arrays
        Canonical names; `parameters_by_name` keeps them, the probe as (N, N, 2) real numbers.
    dtype : torch.dtype
        float32 or float64.
    compiled : bool
        Generate code for the network when it is first used, and again for each new size of a batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, NDArray],
        dtype: torch.dtype = torch.float32,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self._patches = _compiled_network() if compiled else network.object_patches
        self.parameters_by_name = torch.nn.ParameterDict()
        # one by one, because ParameterDict sorts what it is given at once
        for name, value in tensors_from_weights(weights, dtype).items():
            moves = not is_running_value(name)
            self.parameters_by_name[name] = torch.nn.Parameter(value, requires_grad=moves)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The parameters under their canonical names, in canonical order."""
        return cast("Mapping[str, Tensor]", self.parameters_by_name)

    def forward(
        self, diffraction_fed: Tensor, offsets: Tensor, statistics: network.Statistics | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Object patches (B, c, N, N), object (B, N, N), diffraction amplitude (B, C, N, N)."""
        weights = self.tensors
        patches = self._patches(diffraction_fed, weights, self.config, statistics)
        probe = torch.view_as_complex(weights[PROBE])
        with torch.autocast(patches.device.type, enabled=False):
            image, amplitude = physics.predict_diffraction(
                patches, offsets, probe, weights[LOG_SCALE], self.config
            )
        return patches, image, amplitude

    def object(self, diffraction_fed: Tensor, offsets: Tensor) -> Tensor:
        """Object (B, N, N) alone, without the diffraction."""
        patches = self._patches(diffraction_fed, self.tensors, self.config)
        with torch.autocast(patches.device.type, enabled=False):
            if not self.config.object_big:
                return patches[:, 0]
            canvas = physics.merge_patches(patches, offsets, self.config.canvas_size)
            return physics.crop_centre(canvas, self.config.N)

    def loss_terms(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        statistics: network.Statistics | None = None,
    ) -> dict[str, Tensor]:
        """Every term of the loss of `batch`, and their weighted sum as `total`.

        `statistics` is given in training: it gets the batch's, for `update_running_statistics`.
        """
        measured = intensity_scale * batch["diffraction"]
        patches, image, amplitude = self(measured, batch["offsets"], statistics)
        # in '64-true' Lightning widens the real tensors of a batch, and leaves complex ones as they are
        truth = {
            name: batch[name].to(patches.dtype) for name in ("patches_truth", "object_truth") if name in batch
        }
        with torch.autocast(patches.device.type, enabled=False):
            return losses.loss_terms(
                config,
                patches,
                image,
                amplitude,
                measured,
                truth.get("patches_truth"),
                truth.get("object_truth"),
            )

    @torch.no_grad()
    def update_running_statistics(self, statistics: network.Statistics) -> None:
        """Move the running values of batch normalisation towards those of a batch that was trained on."""
        for name, value in network.moved_running_values(self.tensors, statistics).items():
            self.parameters_by_name[name].copy_(value)

    def freeze(self, config: TrainingConfig) -> None:
        """Let the probe and the scale be trained only if `config` says so."""
        self.parameters_by_name[PROBE].requires_grad_(config.probe_trainable)
        self.parameters_by_name[LOG_SCALE].requires_grad_(config.intensity_scale_trainable)

    def weights(self) -> dict[str, NDArray]:
        """The canonical weights, in the module's precision."""
        return weights_from_tensors(dict(self.parameters_by_name.items()))


def _compiled_network() -> Callable[..., Tensor]:
    """`network.object_patches`, for which code is generated when it is first called."""
    log.info("compile_network: PyTorch generates code for the network; that may take minutes")
    generated = torch.compile(network.object_patches, backend=COMPILER)

    def object_patches(*arguments: Any) -> Tensor:
        with warnings.catch_warnings():
            # the last step alone is complex, and as quick as ever
            warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")
            return generated(*arguments)

    return object_patches


def adam(
    model: PtychoModel, learning_rate: float, *, by_part: bool = False, fused: bool = True
) -> torch.optim.Adam:
    """Adam over what is trainable, with the constants that every backend shares.

    All in one group; or `by_part`, each group's `part` being one of `config.PARTS`. `fused` takes each step
    in one pass over the weights.
    """
    trainable = {name: p for name, p in model.parameters_by_name.items() if p.requires_grad}
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for name, part in parts_of_weights(trainable).items():
        groups.setdefault(part if by_part else "all", []).append(trainable[name])
    return torch.optim.Adam(
        [{"params": parameters, "part": part} for part, parameters in groups.items()],
        lr=learning_rate,
        betas=(constants.ADAM_BETA1, constants.ADAM_BETA2),
        eps=constants.ADAM_EPSILON,
        fused=fused,
    )
