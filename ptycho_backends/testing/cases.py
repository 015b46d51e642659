"""Generated cases: a configuration, weights and batches that follow from a few plain values.

A `Case` prints as the call that makes it again, so a failed case of a report can be pasted into a
prompt. Hypothesis draws its fields (`strategies.cases`), or one integer does (`draw_case`).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ATTENTION_FIELDS, OF_PATCHES, ModelConfig, TrainingConfig
from ptycho_backends.reference import probe as probes
from ptycho_backends.reference.correction import HEAD
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, initial_weights
from ptycho_backends.scans.grouping import GroupedData, group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.values import Batch

LOSSES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "nll": {"nll_weight": 1.0},
        "mae": {"nll_weight": 0.0, "mae_weight": 1.0},
        "nll+mae": {"nll_weight": 0.25, "mae_weight": 0.75},
        "nll+tv": {"nll_weight": 1.0, "realspace_weight": 0.5, "tv_weight": 2.0},
        "mae+object": {
            "nll_weight": 0.0, "mae_weight": 0.5, "realspace_weight": 2.0, "realspace_mae_weight": 0.75,
        },
        "all": {
            "nll_weight": 0.5, "mae_weight": 0.75, "realspace_weight": 0.5, "tv_weight": 0.25,
            "realspace_mae_weight": 1.5,
        },
        "supervised": {"nll_weight": 0.0, "mae_weight": 0.0},
        "mae+variation": {
            "nll_weight": 0.0, "mae_weight": 1e-3, "amp_loss": "Total_Variation", "amp_loss_coeff": 0.75,
            "phase_loss": "Mean_Deviation", "phase_loss_coeff": 0.25, "amplitude_variance_coeff": 2.0,
        },
        "mae+deviation": {
            "nll_weight": 0.0, "mae_weight": 1e-3, "amp_loss": "Mean_Deviation", "amp_loss_coeff": 1.5,
            "phase_loss": "Total_Variation", "phase_loss_coeff": 0.5,
        },
        "supervised+deviation": {
            "nll_weight": 0.0, "amp_loss": "Mean_Deviation", "phase_loss": "Total_Variation",
            "amplitude_variance_coeff": 0.5,
        },
    }
)  # fmt: skip
"""Mixtures of losses by name; 'supervised' is the other kind of training.

Beside the auxiliary losses the others are small, so that they do not hide their gradients. They are not absent:
auxiliary losses ignore a constant added to the amplitude, so the gradient of a bias would be rounding alone.
"""

FIELD_VALUES: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "N": (64,) * 10 + (128,) * 2 + (256,),
        "gridsize": (1, 1, 2, 2, 2, 3),
        "amp_activation": ("sigmoid", "swish", "softplus", "relu"),
        "object_big": (True, True, True, False),
        "probe_big": (True, False),
        "probe_mask": (False, True),
        "pad_object": (True, True, False),
        "gaussian_smoothing_sigma": (0.0, 0.0, 0.5, 1.3),
        "n_filters_scale": (1,) * 15 + (2,),
        "max_position_jitter": (10, 10, 7, 0),
        "loss": tuple(LOSSES),
        "nphotons": (1e9, 1e6, 1e4),
        "offsets": ("grouped", "grouped", "uncentred", "whole", "far"),
        "groups": (2, 1, 3),
        "dark": (False, False, False, True),
        "probe_trainable": (True, False),
        "intensity_scale_trainable": (True, False),
        "architecture": ("cnn", "cnn", "attention", "unrolled"),
        "n_probe_modes": (1, 1, 1, 2, 3),
        "n_probes": (1, 1, 1, 1, 2),
        "masked": (False, False, True),
    }
)
"""Values of each field of a case, repeated in proportion to their frequency; shrinking tends to the first."""

ATTENTION_VALUES: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "cbam_encoder": (False, True),
        "cbam_bottleneck": (False, True),
        "cbam_decoder": (False, True),
        "eca_encoder": (False, False, True),
        "eca_decoder": (False, False, True),
        "spatial_decoder": (False, False, True),
        "decoder_spatial_kernel": (7, 3, 1),
        "use_shared_decoder": (False, True),
        "edge_pad": (0, 0, 3, 15),
        "decoder_last_c_outer_fraction": (0.125, 0.02, 0.4, 0.7),
        "batch_norm": (False, True),
    }
)
"""The same for the fields that only the architecture 'attention' has."""

UNROLLED_VALUES: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "N": (32, 16, 16, 22, 48),
        "n_steps": (2, 1, 3, 4),
        "n_rounds": (1, 1, 2),
    }
)
"""The same for the fields that only the architecture 'unrolled' has, and for the sides of its patterns."""

OWN_VALUES: Mapping[str, Mapping[str, Sequence[Any]]] = MappingProxyType(
    {"cnn": MappingProxyType({}), "attention": ATTENTION_VALUES, "unrolled": UNROLLED_VALUES}
)
"""Values of the fields of each architecture; they come in place of those in `FIELD_VALUES`."""


OF_PATCHES_FIELDS = tuple(
    field.name for field in dataclasses.fields(ModelConfig) if field.metadata["only"] == OF_PATCHES
)

# Pixels that a case with a mask leaves out.
MASKED_FRACTION = 0.2


@dataclass(frozen=True, repr=False)
class Case:
    """One computation for every backend, given by plain values.

    Attributes
    ----------
    N, gridsize, amp_activation, object_big, probe_big, probe_mask, pad_object, gaussian_smoothing_sigma,
    n_filters_scale, max_position_jitter, probe_trainable, intensity_scale_trainable, nphotons, architecture,
    n_probe_modes, n_probes, cbam_encoder, cbam_bottleneck, cbam_decoder, eca_encoder, eca_decoder, spatial_decoder,
    decoder_spatial_kernel, use_shared_decoder, edge_pad, decoder_last_c_outer_fraction, batch_norm, n_steps, n_rounds
        As in the configuration.
    loss : str
        A name in `LOSSES`.
    offsets : {'grouped', 'uncentred', 'whole', 'far'}
        Relative offsets as grouping makes them; or drawn at random, not centred; or whole pixels; or
        so far that patches leave the canvas.
    groups : int
        Groups in a batch.
    dark : bool
        The first pattern is empty.
    masked : bool
        A fifth of the pixels, others in each group, is not valid.
    seed : int
        Of the weights, the probe, the noise and the offsets.
    """

    N: int = 64
    gridsize: int = 1
    amp_activation: str = "sigmoid"
    object_big: bool = True
    probe_big: bool = True
    probe_mask: bool = False
    pad_object: bool = True
    gaussian_smoothing_sigma: float = 0.0
    n_filters_scale: int = 1
    max_position_jitter: int = 10
    loss: str = "nll"
    nphotons: float = 1e9
    offsets: str = "grouped"
    groups: int = 2
    dark: bool = False
    probe_trainable: bool = True
    intensity_scale_trainable: bool = True
    architecture: str = "cnn"
    cbam_encoder: bool = False
    cbam_bottleneck: bool = False
    cbam_decoder: bool = False
    eca_encoder: bool = False
    eca_decoder: bool = False
    spatial_decoder: bool = False
    decoder_spatial_kernel: int = 7
    use_shared_decoder: bool = False
    edge_pad: int = 0
    decoder_last_c_outer_fraction: float = 0.125
    batch_norm: bool = False
    n_steps: int = 8
    n_rounds: int = 1
    n_probe_modes: int = 1
    n_probes: int = 1
    masked: bool = False
    seed: int = 0

    def __repr__(self) -> str:
        fields = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"Case({', '.join(fields)})"

    @cached_property
    def config(self) -> TrainingConfig:
        """The training configuration, valid and complete."""
        model = ModelConfig(
            N=self.N,
            gridsize=self.gridsize,
            n_filters_scale=self.n_filters_scale,
            model_type="supervised" if self.loss.startswith("supervised") else "pinn",
            amp_activation=self.amp_activation,
            object_big=self.object_big,
            probe_big=self.probe_big,
            probe_mask=self.probe_mask,
            pad_object=self.pad_object,
            gaussian_smoothing_sigma=self.gaussian_smoothing_sigma,
            max_position_jitter=self._jitter,
            architecture=self.architecture,
            n_probe_modes=self.n_probe_modes,
            n_probes=self.n_probes,
            n_steps=self.n_steps,
            n_rounds=self.n_rounds,
            **{name: getattr(self, name) for name in ATTENTION_FIELDS},
        )
        return TrainingConfig(
            model=model,
            batch_size=4,
            nphotons=self.nphotons,
            neighbor_count=max(4, model.group_size),
            probe_trainable=self.probe_trainable,
            intensity_scale_trainable=self.intensity_scale_trainable,
            seed=self.seed,
            **LOSSES[self.loss],
        )

    @property
    def _jitter(self) -> int:
        """With the rim that 'unrolled' needs, where it merges patches itself."""
        least = (
            math.ceil(constants.CANVAS_RIM) if self.architecture == "unrolled" and self.gridsize == 1 else 0
        )
        return max(self.max_position_jitter, least)

    @cached_property
    def intensity_scale(self) -> float:
        """`s`."""
        return probes.intensity_scale(self.nphotons, self.N)

    @cached_property
    def weights(self) -> dict[str, NDArray]:
        """Initial weights, moved off every special value: all but the kernels are perturbed."""
        scan = _scan(self.N, self.gridsize, 0)
        assert scan.probe_guess is not None
        probe = probes.normalise_probe(scan.probe_guess, self.config.model.probe_scale)
        if self.n_probe_modes > 1:
            probe = probes.probe_with_modes(probe, self.n_probe_modes)
        # the other probes lie elsewhere
        several = [np.roll(probe, 3 * number, axis=-1) for number in range(self.n_probes)]
        probe = np.stack(several) if self.n_probes > 1 else probe
        weights = initial_weights(
            self.config.model, self.seed, probe=probe, intensity_scale=self.intensity_scale
        )
        generator = np.random.default_rng([self.seed, 1])
        if self.architecture == "unrolled":
            # the correction is zero at first, and its gradient with it
            kernel = weights[f"{HEAD}/kernel"]
            weights[f"{HEAD}/kernel"] = generator.normal(0, 0.05, kernel.shape).astype(np.float32)
        for name, value in weights.items():
            if name.endswith("/bias"):
                # a relu head must not be dead everywhere, or there is nothing to compare
                lift = 0.3 if name.startswith("amplitude/") and "_head" in name else 0.0
                weights[name] = (lift + generator.uniform(-0.1, 0.1, value.shape)).astype(np.float32)
            elif name.endswith(("/norm/beta", "/norm/mean")):
                weights[name] = generator.uniform(-0.1, 0.1, value.shape).astype(np.float32)
            elif name.endswith(("/norm/gamma", "/norm/variance")):
                weights[name] = (value * generator.uniform(0.5, 1.5, value.shape)).astype(np.float32)
        weights[LOG_SCALE] = np.asarray(weights[LOG_SCALE] + generator.normal(0, 0.1), np.float32)
        noise = generator.normal(0, 0.05, (2, *weights[PROBE].shape))
        weights[PROBE] = (weights[PROBE] * (1.0 + noise[0] + 1j * noise[1])).astype(np.complex64)
        return weights

    @cached_property
    def batch(self) -> Batch:
        """The first of `batches`."""
        return next(self.batches())

    def batches(self) -> Iterator[Batch]:
        """Different batches without end, with ground truth."""
        generator = np.random.default_rng([self.seed, 2])
        while True:
            data = group_scan(
                _scan(self.N, self.gridsize, int(generator.integers(4))),
                gridsize=self.gridsize,
                n_groups=self.groups,
                neighbor_count=self.config.neighbor_count,
                seed=int(generator.integers(1 << 30)),
            )
            yield self._varied(data, generator)

    def _varied(self, data: GroupedData, generator: np.random.Generator) -> Batch:
        batch = data.batch(intensity_scale=self.intensity_scale, with_truth=True)
        offsets: NDArray = batch.relative_offsets_px
        if self.offsets == "uncentred":
            offsets = generator.uniform(-4, 6, offsets.shape)
        elif self.offsets == "whole":
            offsets = generator.integers(-4, 5, offsets.shape)
        elif self.offsets == "far":
            offsets = generator.uniform(-0.6 * self.N, 0.6 * self.N, offsets.shape)
        amplitude = batch.diffraction_amplitude.copy()
        if self.dark:
            amplitude[0, ..., 0] = 0.0
        return dataclasses.replace(
            batch,
            relative_offsets_px=offsets.astype(np.float32),
            diffraction_amplitude=amplitude,
            **self._lit_and_valid(amplitude, generator),
        )

    def _lit_and_valid(self, amplitude: NDArray, generator: np.random.Generator) -> dict[str, Any]:
        """Masks and numbers of probes of a batch, as far as the case has them; `amplitude` becomes 0 where masked."""
        values: dict[str, Any] = {}
        if self.masked:
            valid = generator.random(amplitude.shape[:-1]) > MASKED_FRACTION
            amplitude[~valid] = 0.0
            values["valid_pixels"] = valid
        if self.n_probes > 1:
            # the last one first, so that a batch of one group has another than the first
            values["probe_index"] = (self.n_probes - 1 - np.arange(len(amplitude)) % self.n_probes).astype(
                np.int32
            )
        return values


@lru_cache(maxsize=16)
def _scan(N: int, gridsize: int, number: int) -> Scan:
    """A small simulated scan with counted photons, so with patterns that are zero in places."""
    return simulate_star(N, max(9, gridsize**2 + 3), n_photons=10.0 ** (4 + number), seed=number)


def within_reason(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Drawn fields of a case, without combinations that are slow or numerically unbounded.

    Twice the filters at the larger sizes take seconds and test nothing more. Batch normalisation divides by
    the spread of a batch. With one or two groups, or an empty pattern, that spread is almost zero, and the
    division magnifies rounding without bound. Fields that an architecture lacks are left out.
    """
    fields = dict(drawn)
    if fields["architecture"] == "unrolled":
        fields = {name: value for name, value in fields.items() if name not in OF_PATCHES_FIELDS}
    if fields["N"] > 64:
        fields["n_filters_scale"] = 1
    if fields.get("batch_norm"):
        fields |= {"groups": 3, "dark": False}
    return fields


def draw_case(seed: int, **fixed: Any) -> Case:
    """The case of the integer `seed`; `fixed` fields are taken as given."""
    generator = np.random.default_rng(seed)
    drawn = {name: values[int(generator.integers(len(values)))] for name, values in FIELD_VALUES.items()}
    more = OWN_VALUES[{**drawn, **fixed}["architecture"]].items()
    drawn |= {name: values[int(generator.integers(len(values)))] for name, values in more}
    return Case(**{**within_reason({**drawn, **fixed}), "seed": seed, **fixed})


def draw_cases(count: int, seed: int = 0, **fixed: Any) -> Iterator[Case]:
    """`count` cases, the same for the same `seed`."""
    for number in range(count):
        yield draw_case(1_000_000 * seed + number, **fixed)
