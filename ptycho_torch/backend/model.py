"""The model as a tree of torch modules, and its optimiser."""

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.archive.lightning_checkpoint import PARAMETER_PREFIX
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE
from ptycho_backends.training.schedule import parts_of_weights
from ptycho_backends.training.trainable import trained_weights
from ptycho_backends.values import Shown
from ptycho_torch.backend import correction, losses, network, physics, unrolled
from ptycho_torch.backend.arrays import TensorBatch, tensors_from_weights, weights_from_tensors
from ptycho_torch.backend.layers import attach_layers

log = logging.getLogger(__name__)

# Backend of `torch.compile`.
COMPILER = "inductor"

# Checkpoints name weights as a `ParameterDict` of that name would.
CHECKPOINT_PREFIX = PARAMETER_PREFIX.removeprefix("model.")


class PtychoModel(Shown, torch.nn.Module):
    """Diffraction amplitudes to object and predicted diffraction.

    Parameters
    ----------
    config : ModelConfig
    weights : mapping of arrays
        Canonical names; the probe becomes (..., N, N, 2) real numbers.
    dtype : torch.dtype
        float32 or float64.
    compiled : bool
        Generate code for the network when it is first used, and again for each new size of a batch.
    """

    shown_as = "module"

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
        self._compiled_patches = _compiled_network() if compiled else None
        self._tensors = attach_layers(self, tensors_from_weights(weights, dtype), config)
        self.register_state_dict_post_hook(_name_as_in_checkpoints)
        self.register_load_state_dict_pre_hook(_name_as_modules)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and running statistics by canonical name, in canonical order."""
        return self._tensors

    def layer(self, name: str) -> torch.nn.Module:
        """The module of a layer by its canonical name, as 'encoder/block1'.

        Raises
        ------
        AttributeError
            If the model has no such layer.
        """
        return self.get_submodule(name.replace("/", "."))

    def forward(
        self,
        diffraction_fed: Tensor,
        offsets: Tensor,
        statistics: network.Statistics | None = None,
        probe_index: Tensor | None = None,
        valid_pixels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Object patches (B, c, N, N), object (B, N, N), diffraction amplitude (B, C, N, N).

        `probe_index` (B,) numbers the probe of each group where the model has several; None for the first.
        `valid_pixels` (B, N, N) are those that 'unrolled' looks at; None for all.
        """
        weights = self.tensors
        if self.config.architecture == "unrolled":
            canvas = self._canvas(diffraction_fed, offsets, probe_index, valid_pixels)
            # the estimate follows the scale of the data, so that there is nothing to train in it
            scale, probe = weights[LOG_SCALE].detach(), torch.view_as_complex(weights[PROBE])
            with torch.autocast(canvas.device.type, enabled=False):
                views = physics.canvas_views(canvas, offsets, self.config.N)
                amplitude = physics.views_amplitude(views, probe, scale, self.config, probe_index)
            return views, physics.crop_centre(canvas, self.config.N), amplitude
        patches = self._patches(diffraction_fed, statistics)
        probe = torch.view_as_complex(weights[PROBE])
        with torch.autocast(patches.device.type, enabled=False):
            image, amplitude = physics.predict_diffraction(
                patches, offsets, probe, weights[LOG_SCALE], self.config, probe_index
            )
        return patches, image, amplitude

    def object(
        self,
        diffraction_fed: Tensor,
        offsets: Tensor,
        probe_index: Tensor | None = None,
        valid_pixels: Tensor | None = None,
    ) -> Tensor:
        """Object (B, N, N) alone, without the diffraction."""
        if self.config.architecture == "unrolled":
            canvas = self._canvas(diffraction_fed, offsets, probe_index, valid_pixels)
            return physics.crop_centre(canvas, self.config.N)
        patches = self._patches(diffraction_fed)
        with torch.autocast(patches.device.type, enabled=False):
            if not self.config.object_big:
                return patches[:, 0]
            canvas = physics.merge_patches(patches, offsets, self.config.canvas_size)
            return physics.crop_centre(canvas, self.config.N)

    def _of_parts(self, canvas: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
        """Patches and object of parts of refined canvases, which are corrected and nothing else."""
        canvas = canvas.to(torch.complex128 if light.dtype == torch.float64 else torch.complex64)
        image = correction.corrected_parts(canvas, light, self.tensors)
        return image[:, None].expand(-1, self.config.group_size, -1, -1), image

    def _canvas(
        self,
        diffraction_fed: Tensor,
        offsets: Tensor,
        probe_index: Tensor | None,
        valid_pixels: Tensor | None,
    ) -> Tensor:
        return unrolled.object_canvas(
            diffraction_fed, offsets, self.tensors, self.config, valid_pixels, probe_index
        )

    def _patches(self, diffraction_fed: Tensor, statistics: network.Statistics | None = None) -> Tensor:
        if self._compiled_patches is None:
            return network.object_patches(diffraction_fed, self.tensors, self.config, statistics)
        # tensors alone: a hook is Python's, and would cut the generated code in two
        return self._compiled_patches(diffraction_fed, dict(self.tensors), self.config, statistics)

    def loss_terms(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        statistics: network.Statistics | None = None,
    ) -> dict[str, Tensor]:
        """Every term of the loss of `batch`, and their weighted sum as `total`.

        In training `statistics` receives those of the batch, for `update_running_statistics`.
        """
        measured = intensity_scale * batch["diffraction"]
        if "canvas" in batch:
            patches, image = self._of_parts(batch["canvas"], batch["light"])
            amplitude = measured
        else:
            patches, image, amplitude = self(
                measured, batch["offsets"], statistics, batch.get("probe_index"), batch.get("valid_pixels")
            )
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
                batch.get("valid_pixels"),
            )

    @torch.no_grad()
    def update_running_statistics(self, statistics: network.Statistics) -> None:
        """Move the running statistics of batch normalisation towards those of a training batch."""
        for name, value in network.moved_running_values(self.tensors, statistics).items():
            self.tensors[name].copy_(value)

    def freeze(self, config: TrainingConfig) -> None:
        """Train the weights that `config` asks for, and no others."""
        trained = trained_weights(self.tensors, config)
        for name, tensor in self.tensors.items():
            if isinstance(tensor, torch.nn.Parameter):
                tensor.requires_grad_(name in trained)

    def weights(self) -> dict[str, NDArray]:
        """The canonical weights, in the module's precision."""
        return weights_from_tensors(self.tensors)

    def extra_repr(self) -> str:
        return f"parameters={sum(parameter.numel() for parameter in self.parameters()):,}"


def _checkpoint_names(model: PtychoModel, prefix: str) -> dict[str, str]:
    """`{name in checkpoints: name among the modules}` of every weight, both behind `prefix`."""
    names = {}
    for name, attribute in model._tensors.attributes.items():
        layer = name.rpartition("/")[0].replace("/", ".")
        names[f"{prefix}{CHECKPOINT_PREFIX}{name}"] = (
            f"{prefix}{layer}.{attribute}" if layer else f"{prefix}{attribute}"
        )
    return names


def _name_as_in_checkpoints(
    module: torch.nn.Module, state_dict: dict[str, Any], prefix: str, _: dict[str, Any]
) -> None:
    """Rename the entries of a state dict that was just made."""
    assert isinstance(module, PtychoModel)
    for checkpoint_name, module_name in _checkpoint_names(module, prefix).items():
        if module_name in state_dict:
            state_dict[checkpoint_name] = state_dict.pop(module_name)


def _name_as_modules(module: torch.nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the entries of a state dict that is about to be loaded."""
    assert isinstance(module, PtychoModel)
    for checkpoint_name, module_name in _checkpoint_names(module, prefix).items():
        if checkpoint_name in state_dict:
            state_dict[module_name] = state_dict.pop(checkpoint_name)


def _compiled_network() -> Callable[..., Tensor]:
    """`network.object_patches`, with code generated at its first call."""
    log.info("compile_network: PyTorch generates code for the network; that may take minutes")
    generated = torch.compile(network.object_patches, backend=COMPILER)

    def object_patches(*arguments: Any) -> Tensor:
        with warnings.catch_warnings():
            # the last step alone is complex, and takes the same time as without
            warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")
            try:
                return generated(*arguments)
            except Exception as error:
                if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                    raise
                raise ConfigError(
                    f"compile_network: got True, but no code could be generated "
                    f"({' '.join(str(error).split())[:300]}); use compile_network=False"
                ) from error

    return object_patches


def adam(
    model: PtychoModel, learning_rate: float, *, by_part: bool = False, fused: bool = True
) -> torch.optim.Adam:
    """Adam over the trainable parameters, with the constants that every backend shares.

    All are in one group; or `by_part` in several, each group's `part` being one of `finetuning.PARTS`. `fused` takes
    each step in one pass over the weights.
    """
    trainable = {name: tensor for name, tensor in model.tensors.items() if tensor.requires_grad}
    groups: dict[str, list[Tensor]] = {}
    for name, part in parts_of_weights(trainable).items():
        groups.setdefault(part if by_part else "all", []).append(trainable[name])
    return torch.optim.Adam(
        [{"params": parameters, "part": part} for part, parameters in groups.items()],
        lr=learning_rate,
        betas=(constants.ADAM_BETA1, constants.ADAM_BETA2),
        eps=constants.ADAM_EPSILON,
        fused=fused,
    )
