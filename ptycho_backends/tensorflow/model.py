"""The model as a tree of modules."""

import operator
from collections.abc import Mapping

import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, layer_channels
from ptycho_backends.tensorflow import correction, losses, network, physics, process_group, unrolled
from ptycho_backends.tensorflow.arrays import (
    TensorBatch,
    channels_first,
    in_precision,
    tensors_from_weights,
    weights_from_tensors,
)
from ptycho_backends.tensorflow.layers import attach_layers
from ptycho_backends.values import Shown


class PtychoModel(Shown, tf.Module):
    """Diffraction amplitudes to object and predicted diffraction.

    Parameters
    ----------
    config : ModelConfig
    weights : mapping of arrays
        Canonical names; the probe becomes (..., N, N, 2) real numbers.
    dtype : tf.DType
        float32 or float64.
    network_dtype : tf.DType, optional
        Precision of the network's 3x3 convolutions; default `dtype`. Attention and batch normalisation sum many
        numbers, and so stay in `dtype`.
    """

    shown_as = "module"

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, NDArray],
        dtype: tf.DType = tf.float32,
        network_dtype: tf.DType | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.network_dtype = dtype if network_dtype is None else network_dtype
        self._tensors = attach_layers(self, tensors_from_weights(weights, dtype))
        self._convolved = {
            f"{layer}/{kind}" for layer in layer_channels(config) for kind in ("kernel", "bias")
        }

    @property
    def tensors(self) -> Mapping[str, tf.Variable]:
        """Trained variables and running statistics by canonical name, in canonical order."""
        return self._tensors

    def layer(self, name: str) -> tf.Module:
        """The module of a layer by its canonical name, as 'encoder/block1'.

        Raises
        ------
        AttributeError
            If the model has no such layer.
        """
        return operator.attrgetter(name.replace("/", "."))(self)

    def __call__(
        self,
        diffraction_fed: tf.Tensor,
        offsets: tf.Tensor,
        statistics: network.Statistics | None = None,
        probe_index: tf.Tensor | None = None,
        valid_pixels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `forward`."""
        return self.forward(diffraction_fed, offsets, statistics, probe_index, valid_pixels)

    def forward(
        self,
        diffraction_fed: tf.Tensor,
        offsets: tf.Tensor,
        statistics: network.Statistics | None = None,
        probe_index: tf.Tensor | None = None,
        valid_pixels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Object patches (B, c, N, N), object (B, N, N), diffraction amplitude (B, C, N, N).

        `probe_index` (B,) numbers the probe of each group where the model has several; None for the first.
        `valid_pixels` (B, N, N) are those that 'unrolled' looks at; None for all.
        """
        probe = self.tensors[PROBE]
        if self.config.architecture == "unrolled":
            canvas = self._canvas(diffraction_fed, offsets, probe_index, valid_pixels)
            views = physics.canvas_views(canvas, offsets, self.config.N)
            # the estimate follows the scale of the data, so that there is nothing to train in it
            scale = tf.stop_gradient(self.tensors[LOG_SCALE])
            probe = tf.complex(probe[..., 0], probe[..., 1])
            amplitude = physics.views_amplitude(views, probe, scale, self.config, probe_index)
            return views, physics.crop_centre(canvas, self.config.N), amplitude
        patches = self._patches(diffraction_fed, statistics)
        image, amplitude = physics.predict_diffraction(
            patches,
            offsets,
            tf.complex(probe[..., 0], probe[..., 1]),
            self.tensors[LOG_SCALE],
            self.config,
            probe_index,
        )
        return patches, image, amplitude

    def object(
        self,
        diffraction_fed: tf.Tensor,
        offsets: tf.Tensor,
        probe_index: tf.Tensor | None = None,
        valid_pixels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Object (B, N, N) alone, without the diffraction."""
        if self.config.architecture == "unrolled":
            canvas = self._canvas(diffraction_fed, offsets, probe_index, valid_pixels)
            return physics.crop_centre(canvas, self.config.N)
        patches = self._patches(diffraction_fed)
        if not self.config.object_big:
            return patches[:, 0]
        canvas = physics.merge_patches(patches, offsets, self.config.canvas_size)
        return physics.crop_centre(canvas, self.config.N)

    def _of_parts(self, canvas: tf.Tensor, light: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Patches and object of parts of refined canvases, which are corrected and nothing else."""
        image = correction.corrected_parts(canvas, light, self._weights())
        return tf.repeat(image[:, None], self.config.group_size, axis=1), image

    def _canvas(
        self,
        diffraction_fed: tf.Tensor,
        offsets: tf.Tensor,
        probe_index: tf.Tensor | None,
        valid_pixels: tf.Tensor | None,
    ) -> tf.Tensor:
        measured = channels_first(diffraction_fed)
        return unrolled.object_canvas(
            measured, offsets, self._weights(), self.config, valid_pixels, probe_index
        )

    def _weights(self) -> dict[str, tf.Tensor]:
        """All weights, those of convolutions in the network's precision."""
        return {
            name: tf.cast(variable, self.network_dtype) if name in self._convolved else variable
            for name, variable in self.tensors.items()
        }

    def _patches(self, diffraction_fed: tf.Tensor, statistics: network.Statistics | None = None) -> tf.Tensor:
        return channels_first(
            network.object_patches(diffraction_fed, self._weights(), self.config, statistics)
        )

    def loss_terms(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        statistics: network.Statistics | None = None,
    ) -> dict[str, tf.Tensor]:
        """Every term of the loss of `batch`, and their weighted sum as `total`.

        In training `statistics` receives those of the batch, for `update_running_statistics`.
        """
        batch = in_precision(batch, self.dtype)
        measured = intensity_scale * batch["diffraction"]
        if "canvas" in batch:
            patches, image = self._of_parts(batch["canvas"], batch["light"])
            amplitude = channels_first(measured)
        else:
            patches, image, amplitude = self(
                measured, batch["offsets"], statistics, batch.get("probe_index"), batch.get("valid_pixels")
            )
        return losses.loss_terms(
            config,
            patches,
            image,
            amplitude,
            channels_first(measured),
            batch.get("patches_truth"),
            batch.get("object_truth"),
            batch.get("valid_pixels"),
        )

    def loss_and_gradients(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        names: list[str],
        statistics: network.Statistics,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Total loss, and its gradient for each variable of `names`; zero where the loss does not depend on it.

        With `SharedStatistics`, `batch` is one replica's part, and the results are those of the whole batch.
        """
        variables = {name: self.tensors[name] for name in names}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(variables.values()))
            total = self.loss_terms(config, batch, intensity_scale, statistics)["total"]
            if isinstance(statistics, network.SharedStatistics):
                total = total * tf.cast(statistics.fraction, total.dtype)
        found = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        if isinstance(statistics, network.SharedStatistics):
            total, found = process_group.summed((total, found))
        return total, found

    def update_running_statistics(self, statistics: network.Statistics) -> None:
        """Move the running statistics of batch normalisation towards those of a training batch."""
        for name, value in network.moved_running_values(self.tensors, statistics).items():
            self.tensors[name].assign(value)

    def set_weights(self, weights: Mapping[str, NDArray]) -> None:
        """Take other weights of the same names and shapes."""
        for name, value in tensors_from_weights(weights, self.dtype).items():
            self.tensors[name].assign(value)

    def weights(self) -> dict[str, NDArray]:
        """The canonical weights, in the model's precision."""
        return weights_from_tensors(self.tensors)
