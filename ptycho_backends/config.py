"""Configurations: of the computation (`Model-`, `Training-`, `InferenceConfig`), and of the run (`ExecutionConfig`).

The fields are mutable, because Ptychodus builds a configuration before it has seen the data; so each
class checks itself when it is made, and again, through `validate`, whenever it is used.
"""

# ruff: noqa: RUF009 - `setting` and `part` return dataclass fields
import copy
import dataclasses
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ptycho_backends import constants
from ptycho_backends.builtin_backends import DEFAULT_BACKEND, LEGACY_BACKEND, canonical_name
from ptycho_backends.checks import raise_if_any
from ptycho_backends.errors import ConfigError
from ptycho_backends.finetuning import (
    STAGES,
    FinetuneStage,
)
from ptycho_backends.rules import (
    Rule,
    boolean,
    choice,
    even_integer,
    fraction,
    integer,
    name_of,
    number,
    optional,
    part,
    path,
    setting,
    shown,
)

Config = TypeVar("Config", bound="_CheckedConfig")


SIDES = choice(*constants.SUPPORTED_N, open_value=0)
"""Sides of the patterns that 'cnn' and 'attention' take."""

EVEN_SIDES = even_integer(constants.SMALLEST_SIDE, open_value=0)
"""Sides of the patterns that 'unrolled' takes."""

ARCHITECTURES = ("cnn", "attention", "unrolled")
ATTENTION, UNROLLED, OF_PATCHES = ("attention",), ("unrolled",), ("cnn", "attention")
AUXILIARY_LOSSES = ("Total_Variation", "Mean_Deviation")
AMPLITUDE_ACTIVATIONS = ("sigmoid", "swish", "softplus", "relu")
BACKEND_NAME = name_of("backend", canonical_name)
DEFAULT_BACKEND_TEXT = f"`{LEGACY_BACKEND!r}`, or the one that is installed"


class _CheckedConfig:
    """Shared by the four dataclasses: normalise spellings, then report every bad field at once."""

    def __post_init__(self) -> None:
        # the deprecation points at whoever called the constructor, two frames above this one
        self._normalise(stacklevel=4)
        raise_if_any(type(self).__name__, self.problems(side_may_wait=True))

    def _normalise(self, stacklevel: int = 3) -> None:
        """Bring accepted spellings into the one form that the rest of the library knows."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, _CheckedConfig):
                value._normalise(stacklevel + 1)
                continue
            value = value.item() if isinstance(value, np.generic) else value
            rule = field.metadata.get("rule")
            setattr(self, field.name, value if rule is None else rule.convert(value))
        images = getattr(self, "n_images", None)
        if isinstance(images, int) and not self._n_images_contradicts():
            warnings.warn("n_images is deprecated; use n_groups", DeprecationWarning, stacklevel=stacklevel)
            vars(self).update(n_groups=images, n_images=None)

    def _n_images_contradicts(self) -> bool:
        """True where `n_images` and a chosen `n_groups` differ."""
        images, groups = getattr(self, "n_images", None), getattr(self, "n_groups", None)
        # a dataclass keeps its defaults as attributes of the class
        default = getattr(type(self), "n_groups", None)
        both_given = isinstance(images, int) and isinstance(groups, int)
        return both_given and groups not in (default, images)

    def problems(self, *, side_may_wait: bool = False) -> list[str]:
        """Every invalid field as "name: got X, want Y"; empty when the configuration is usable.

        `side_may_wait` accepts `N=0`, "from the data".
        """
        found = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, rule = getattr(self, field.name), field.metadata.get("rule")
            if rule is not None:
                found += rule.problems(field.name, value, may_be_open=side_may_wait)
            elif isinstance(value, ModelConfig):
                inner = value.problems(side_may_wait=side_may_wait)
                found += [f"{field.name}.{problem}" for problem in inner]
            else:
                found.append(f"{field.name}: got {shown(value)}, want a ModelConfig")
        if self._n_images_contradicts():
            found.append("n_images: contradicts n_groups; want n_groups alone")
        return found


_PATH = path()
_OPTIONAL_PATH = optional(_PATH)


@dataclass
class ModelConfig(_CheckedConfig):
    """The network and the diffraction model (`docs/model.md`)."""

    N: int = setting(64, SIDES, "side of a diffraction pattern in pixels; 0 until the data are seen")
    gridsize: int = setting(1, integer(1), "a group holds gridsize**2 neighbouring positions")
    n_filters_scale: int = setting(2, integer(1), "multiplies the filters of every convolution block")
    model_type: str = setting("pinn", choice("pinn", "supervised"), "trained on diffraction or on labels")
    architecture: str = setting("cnn", choice(*ARCHITECTURES), "family of the network")
    amp_activation: str = setting(
        "sigmoid",
        choice(*AMPLITUDE_ACTIVATIONS, spellings={"silu": "swish"}),
        "of the amplitude's last layer",
        only=OF_PATCHES,
    )
    object_big: bool = setting(
        True,
        boolean(),
        "predict a patch per position and merge them; else one patch per group",
        only=OF_PATCHES,
    )
    probe_big: bool = setting(
        True, boolean(), "a branch of its own predicts the border of the patch", only=OF_PATCHES
    )
    probe_mask: bool = setting(False, boolean(), "cut the exit wave with the circular mask")
    pad_object: bool = setting(True, boolean(), "predict the central half and pad it", only=OF_PATCHES)
    probe_scale: float = setting(
        4.0, number(0, exclusive=True), "mean amplitude of the probe guess becomes 1 / probe_scale"
    )
    gaussian_smoothing_sigma: float = setting(
        0.0, number(0), "smoothing of the exit wave, pixels; 0: none", only=OF_PATCHES
    )
    offset: int = setting(
        constants.DEFAULT_OFFSET_PX, integer(0), "canvas room for each further column of the group, pixels"
    )
    max_position_jitter: int = setting(
        constants.DEFAULT_MAX_POSITION_JITTER_PX, integer(0), "canvas room for irregular positions, pixels"
    )
    cbam_encoder: bool = setting(False, boolean(), "CBAM in every block of the encoder", only=ATTENTION)
    cbam_bottleneck: bool = setting(False, boolean(), "CBAM on the encoding", only=ATTENTION)
    cbam_decoder: bool = setting(False, boolean(), "CBAM in every block of the decoders", only=ATTENTION)
    eca_encoder: bool = setting(False, boolean(), "ECA in every block of the encoder", only=ATTENTION)
    eca_decoder: bool = setting(False, boolean(), "ECA in every block of the decoders", only=ATTENTION)
    spatial_decoder: bool = setting(
        False, boolean(), "CBAM's spatial half alone in every block of the decoders", only=ATTENTION
    )
    decoder_spatial_kernel: int = setting(
        7, integer(1, odd=True), "side of the kernel of spatial_decoder, pixels", only=ATTENTION
    )
    use_shared_decoder: bool = setting(
        False, boolean(), "amplitude and phase share a decoder and have a head each", only=ATTENTION
    )
    edge_pad: int = setting(
        0, integer(0), "width of the rim of a patch where nothing is predicted, pixels; below N/4",
        only=ATTENTION,
    )  # fmt: skip
    decoder_last_c_outer_fraction: float = setting(
        0.125, fraction(), "fraction of the last features that pad_object sets aside for the border",
        only=ATTENTION,
    )  # fmt: skip
    batch_norm: bool = setting(
        False, boolean(), "normalise after every convolution of a block", only=ATTENTION
    )
    n_steps: int = setting(
        8,
        integer(1),
        "steps of accelerated projections before the first correction",
        only=UNROLLED,
        later=True,
    )
    n_rounds: int = setting(
        1, integer(1), "times that steps and the learned correction alternate; two steps in each but the first",
        only=UNROLLED, later=True,
    )  # fmt: skip
    n_probe_modes: int = setting(
        1, integer(1), "mutually incoherent modes of the probe, whose intensities add up", later=True
    )
    n_probes: int = setting(
        1, integer(1), "filled in from the data: one probe, or one for each of several scans", later=True
    )

    def problems(self, *, side_may_wait: bool = False) -> list[str]:
        """As for every configuration; and fields that contradict another one."""
        found = super().problems(side_may_wait=side_may_wait)
        if self.architecture == "unrolled":
            found = [problem for problem in found if not problem.startswith("N:")]
            found += EVEN_SIDES.problems("N", self.N, may_be_open=side_may_wait)
        reported = {problem.partition(":")[0] for problem in found}
        foreign = () if "architecture" in reported else self._foreign_fields()
        for field in foreign:
            value = getattr(self, field.name)
            if field.name not in reported and value != field.default:
                only = " or ".join(repr(name) for name in field.metadata["only"])
                found.append(
                    f"{field.name}: got {shown(value)}, but the architecture {self.architecture!r} has no such "
                    f"thing; set architecture={only}, or leave it at {field.default!r}"
                )
        if not reported & {"N", "edge_pad"} and self.N and self.edge_pad >= self.N // 4:
            found.append(f"edge_pad: got {self.edge_pad}, want less than N/4 = {self.N // 4}")
        return found

    def _foreign_fields(self) -> tuple[dataclasses.Field, ...]:
        fields = dataclasses.fields(self)
        return tuple(
            field
            for field in fields
            if field.metadata["only"] and self.architecture not in field.metadata["only"]
        )

    @property
    def own_fields(self) -> tuple[str, ...]:
        """Names of the fields that mean something to this architecture, in order."""
        foreign = {field.name for field in self._foreign_fields()}
        return tuple(field.name for field in dataclasses.fields(self) if field.name not in foreign)

    @property
    def group_size(self) -> int:
        """Positions in a group, `gridsize**2`."""
        return self.gridsize**2

    @property
    def canvas_size(self) -> int:
        """Side of the canvas, in pixels, on which the patches of a group are merged."""
        return self.N + (self.gridsize - 1) * self.offset + self.max_position_jitter

    @property
    def patch_channels(self) -> int:
        """Object patches that the network predicts for one group."""
        return self.group_size if self.object_big else 1


ATTENTION_FIELDS = tuple(
    field.name for field in dataclasses.fields(ModelConfig) if field.metadata["only"] == ATTENTION
)
"""What only the architecture 'attention' has; files that are older than it lack these fields."""

LATER_MODEL_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig) if field.metadata["later"])
"""What archives and `params.cfg` have only where it differs from the default; older files lack these fields."""


@dataclass
class TrainingConfig(_CheckedConfig):
    """The training: model, data and loss."""

    model: ModelConfig = part(ModelConfig, "the network and the diffraction model")
    train_data_file: Path | None = setting(None, _OPTIONAL_PATH, "scan to train on")
    test_data_file: Path | None = setting(None, _OPTIONAL_PATH, "scan to reconstruct afterwards")
    batch_size: int = setting(16, integer(1, power_of_two=True), "groups in an optimiser step")
    nepochs: int = setting(50, integer(1), "passes over the training groups")
    mae_weight: float = setting(0.0, number(0, 1), "weight of the mean absolute error of the amplitude")
    nll_weight: float = setting(1.0, number(0, 1), "weight of the Poisson negative log-likelihood")
    realspace_mae_weight: float = setting(0.0, number(0), "within the real-space loss: error of the object")
    realspace_weight: float = setting(0.0, number(0), "weight of the real-space loss")
    nphotons: float | None = setting(
        None,
        optional(number(0, exclusive=True)),
        "mean photons in a pattern, which sets the intensity scale; None: measured on the scan",
    )
    n_groups: int | None = setting(
        None, optional(integer(1)), "groups to form from the scan; None: one per position"
    )
    n_images: int | None = setting(None, optional(integer(1)), "deprecated name of n_groups")
    n_subsample: int | None = setting(None, optional(integer(1)), "positions to keep before grouping")
    subsample_seed: int | None = setting(
        None, optional(integer(0)), "seed of the subsample and the groups; None: seed"
    )
    neighbor_count: int = setting(
        4, integer(1), "nearest neighbours from which a group is chosen; 4: at least gridsize**2"
    )
    enable_oversampling: bool = setting(False, boolean(), "allow more groups than positions")
    neighbor_pool_size: int | None = setting(
        None, optional(integer(1)), "replaces neighbor_count when oversampling"
    )
    positions_provided: bool = setting(True, boolean(), "for legacy callers; a scan always has positions")
    probe_trainable: bool = setting(False, boolean(), "refine the probe while training")
    intensity_scale_trainable: bool = setting(True, boolean(), "refine the intensity scale while training")
    output_dir: Path = setting(Path("training_outputs"), _PATH, "where results go")
    sequential_sampling: bool = setting(False, boolean(), "take the first positions in order, not at random")
    normalize: str = setting(
        "Batch",
        choice("Batch", "Group"),
        "patterns are scaled by one factor, or by one for each group",
        later=True,
    )
    data_scaling: str = setting(
        "Parseval",
        choice("Parseval", "Max"),
        "scaled to the mean energy (N/2)^2, or to the largest value 1",
        later=True,
    )
    phase_subtraction: bool = setting(False, boolean(), "remove the mean phase of each label", later=True)
    backend: str = setting(
        DEFAULT_BACKEND, BACKEND_NAME, "framework that computes", default_text=DEFAULT_BACKEND_TEXT
    )
    tv_weight: float = setting(0.0, number(0), "within the real-space loss: roughness of the object")
    seed: int = setting(42, integer(0), "seed of the weights, the batches and the validation set")
    amp_loss: str | None = setting(
        None, choice(*AUXILIARY_LOSSES, None), "auxiliary loss of the object's amplitude", later=True
    )
    phase_loss: str | None = setting(
        None, choice(*AUXILIARY_LOSSES, None), "auxiliary loss of the object's phase", later=True
    )
    amp_loss_coeff: float = setting(1.0, number(0), "weight of amp_loss", later=True)
    phase_loss_coeff: float = setting(1.0, number(0), "weight of phase_loss", later=True)
    amplitude_variance_coeff: float = setting(
        0.0, number(0), "weight of the variance of the object's amplitude", later=True
    )
    validation_share: float = setting(
        0.05, fraction(zero=True), "fraction of the groups, at least one, held out; 0: none", later=True
    )
    resample_groups: bool = setting(False, boolean(), "draw other training groups in every epoch", later=True)


LATER_FIELDS = tuple(
    field.name for field in dataclasses.fields(TrainingConfig) if field.metadata.get("later")
)
"""What archives that are older than these fields lack; written only where it differs from the default."""


@dataclass
class InferenceConfig(_CheckedConfig):
    """The reconstruction: model and data."""

    model: ModelConfig = part(ModelConfig, "the network and the diffraction model")
    model_path: Path | None = setting(None, _OPTIONAL_PATH, "archive of the trained model")
    test_data_file: Path | None = setting(None, _OPTIONAL_PATH, "scan to reconstruct")
    n_groups: int | None = setting(None, optional(integer(1)), "groups to form; None: one per position")
    n_images: int | None = setting(None, optional(integer(1)), "deprecated name of n_groups")
    n_subsample: int | None = setting(None, optional(integer(1)), "positions to keep before grouping")
    subsample_seed: int | None = setting(
        None, optional(integer(0)), "seed of the subsample and the groups; None: 0"
    )
    neighbor_count: int = setting(4, integer(1), "nearest neighbours from which a group is chosen")
    enable_oversampling: bool = setting(False, boolean(), "allow more groups than positions")
    neighbor_pool_size: int | None = setting(
        None, optional(integer(1)), "replaces neighbor_count when oversampling"
    )
    debug: bool = setting(False, boolean(), "log more")
    output_dir: Path = setting(Path("inference_outputs"), _PATH, "where results go")
    backend: str = setting(
        DEFAULT_BACKEND, BACKEND_NAME, "framework that computes", default_text=DEFAULT_BACKEND_TEXT
    )
    agree_on_phase: bool | None = setting(
        None, optional(boolean()), "bring patches to one constant phase; None: as the architecture wants"
    )


@dataclass
class RefinementConfig(_CheckedConfig):
    """How the image of a whole scan is refined through the diffraction model (`docs/refinement.md`)."""

    passes: int | None = setting(None, optional(integer(1)), "passes over the scan; None: the pace's own")
    pace: str = setting(
        "thorough",
        choice("thorough", "fast"),
        "13 passes, or 6 with a learned metric for scans of good overlap",
    )
    likelihood: str = setting(
        "amplitude", choice("amplitude", "poisson"), "distance between measured and predicted patterns"
    )
    n_probe_modes: int = setting(
        0, integer(0), "probe modes, the scan's own first; 0: as many as the scan has"
    )
    refine_probe: bool | None = setting(
        None, optional(boolean()), "move the probe; None: where modes or the whole probe are made up"
    )
    refine_positions: bool = setting(False, boolean(), "move the positions")
    probe_from: int = setting(2, integer(1), "first pass that moves the probe")
    positions_from: int = setting(2, integer(1), "first pass that moves the positions")
    smoothness: float = setting(1.0, number(0), "factor of the smoothness prior, which knows the dose")
    held_out_fraction: float = setting(
        1 / 64, fraction(zero=True), "fraction of the pixels that only judge, and end the refinement; 0: none"
    )
    seed: int = setting(0, integer(0), "of the batches and of the pixels held out")


SCHEDULERS = (
    "Default",
    "Exponential",
    "WarmupCosine",
    "ReduceLROnPlateau",
    "MultiStage",
    "Cosine",
    "OneCycle",
)

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_NUMBERED = r"(gpu|cuda):[0-9]{1,3}"

_ACCELERATOR = Rule(
    f"{choice(*ACCELERATORS).text}, or one GPU by its number from 0, as 'cuda:1'",
    lambda value: isinstance(value, str) and (value in ACCELERATORS or bool(re.fullmatch(_NUMBERED, value))),
    schema={"anyOf": [choice(*ACCELERATORS).schema, {"type": "string", "pattern": f"^{_NUMBERED}$"}]},
)


@dataclass
class ExecutionConfig(_CheckedConfig):
    """The run: devices, precision, schedule, logs; nothing of this enters `params.cfg` or an archive."""

    accelerator: str = setting("auto", _ACCELERATOR, "kind of device")
    devices: int = setting(1, integer(1), "number of devices, each with batches of batch_size")
    strategy: str = setting("auto", name_of("strategy"), "how devices share the work")
    precision: str = setting(
        "32-true",
        choice("32-true", "64-true", "16-mixed", "bf16-mixed"),
        "'64-true' computes everything in float64 and complex128, for checking",
    )
    allow_tf32: bool = setting(
        False, boolean(), "PyTorch on NVIDIA GPUs: the network's convolutions may round to ten bits"
    )
    compile_network: bool = setting(
        False, boolean(), "PyTorch: generate code for the network first, which takes up to minutes"
    )
    deterministic: bool = setting(True, boolean(), "the same numbers on every run")
    gradient_clip_val: float | None = setting(
        None, optional(number(0, exclusive=True)), "largest norm of a step's gradient"
    )
    accum_steps: int = setting(1, integer(1), "batches whose gradients make one optimiser step")
    num_workers: int = setting(0, integer(0), "processes that gather batches")
    pin_memory: bool = setting(False, boolean(), "page-locked host memory")
    persistent_workers: bool = setting(False, boolean(), "keep the gathering processes between epochs")
    prefetch_factor: int | None = setting(
        None, optional(integer(1)), "batches gathered ahead, per process if there are some; None: 2"
    )
    learning_rate: float = setting(1e-3, number(0, exclusive=True), "of the first epoch")
    scheduler: str = setting("Default", choice(*SCHEDULERS), "how the learning rate changes")
    warmup_epochs: int = setting(0, integer(0), "first epochs over which the rate rises to learning_rate")
    min_lr_ratio: float = setting(
        0.1, number(0, 1), "smallest fraction of learning_rate that a schedule falls to"
    )
    finetune_stages: tuple[FinetuneStage, ...] = setting(
        (), STAGES, "epochs after the main ones, with a learning rate for each part of the network"
    )
    finetune_early_stop_patience: int = setting(
        3, integer(1), "epochs without improvement before a fine-tuning stage ends"
    )
    enable_progress_bar: bool = setting(True, boolean(), "show progress")
    enable_checkpointing: bool = setting(True, boolean(), "write checkpoints while training")
    checkpoint_save_top_k: int = setting(1, integer(-1), "best checkpoints to keep; -1: all, 0: none")
    checkpoint_monitor_metric: str = setting(
        "val_loss", choice("val_loss", "train_loss"), "criterion of the best checkpoint"
    )
    checkpoint_mode: str = setting("min", choice("min", "max"), "whether small or large is best")
    early_stop_patience: int = setting(100, integer(1), "epochs without improvement before training stops")
    divergence_retries: int = setting(
        0, integer(0), "times that diverging training goes on from its last good epoch at a tenth of the rate"
    )
    logger_backend: str | None = setting(
        "csv",
        choice("csv", "tensorboard", "mlflow", "wandb", "none", None),
        "where metrics go besides the history",
    )
    picture_every: int = setting(
        0, integer(0), "epochs between two pictures of the image so far, `live.png`; 0: none"
    )
    inference_batch_size: int | None = setting(None, optional(integer(1)), "groups per inference batch")

    def problems(self, *, side_may_wait: bool = False) -> list[str]:
        """As for every configuration; and several devices where one is named."""
        found = super().problems(side_may_wait=side_may_wait)
        reported = {problem.partition(":")[0] for problem in found}
        if not reported & {"accelerator", "devices"} and self.device_number is not None and self.devices > 1:
            found.append(
                f"devices: got {self.devices} with accelerator={self.accelerator!r}, which names one; want "
                f"accelerator={self.device_kind!r}, and CUDA_VISIBLE_DEVICES to choose among them"
            )
        return found

    @property
    def device_kind(self) -> str:
        """`accelerator` without a number."""
        return self.accelerator.partition(":")[0]

    @property
    def device_number(self) -> int | None:
        """Number of the GPU that `accelerator` names, from 0; None where it names a kind alone."""
        number = self.accelerator.partition(":")[2]
        return int(number) if number else None

    @property
    def finetune_epochs(self) -> int:
        """Epochs that fine-tuning adds at most."""
        return sum(stage.epochs for stage in self.finetune_stages)


PyTorchExecutionConfig = ExecutionConfig
"""Name of `ExecutionConfig` in the legacy package."""


def validate(config: _CheckedConfig) -> None:
    """Check every field; `N=0` is no longer accepted.

    Raises
    ------
    ConfigError
        Lists every bad field with the value given and those allowed.
    """
    config._normalise()
    raise_if_any(type(config).__name__, config.problems())


def from_values(cls: type[Config], values: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """A `cls` with the fields of `values`, normalised, and its problems; raises nothing.

    For readers of files, which report these problems together with their own. Where there are
    problems the configuration is good for nothing else. A nested configuration is given as such.
    """
    config = cls()
    for key, value in values.items():
        setattr(config, key, value)
    config._normalise(stacklevel=4)
    return config, config.problems(side_may_wait=True)


def sides_of(model: ModelConfig) -> Rule:
    """Sides of the patterns that the architecture of `model` takes."""
    return EVEN_SIDES if model.architecture == "unrolled" else SIDES


def with_side(config: Config, N: int) -> Config:
    """A validated deep copy of `config` whose `N` is that of the data if it was 0.

    Raises
    ------
    ConfigError
        If a field is invalid, the data's `N` has no architecture, or `config` names another one.
    """
    completed = copy.deepcopy(config)
    model = completed if isinstance(completed, ModelConfig) else getattr(completed, "model", None)
    if isinstance(model, ModelConfig):
        sides = sides_of(model)
        if not sides.accepts(N):
            raise ConfigError(f"N: the patterns are {N} x {N} pixels, want {sides.text}; crop or bin them")
        if model.N not in (0, N):
            raise ConfigError(
                f"N: got {shown(model.N)}, but the patterns are {N} x {N} pixels; set N={N} or N=0"
            )
        model.N = N
    validate(completed)
    return completed


def config_to_plain(config: _CheckedConfig) -> dict[str, Any]:
    """`config` as nested dictionaries of strings, numbers, booleans and None; paths become strings."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if isinstance(config, ModelConfig) and field.name in LATER_MODEL_FIELDS and value == field.default:
            # as in archives, so that older versions read the file
            continue
        if isinstance(value, _CheckedConfig):
            value = config_to_plain(value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, np.generic):
            value = value.item()
        elif field.name == "finetune_stages":
            value = [{"epochs": stage.epochs, "rates": dict(stage.rates)} for stage in value]
        plain[field.name] = value
    return plain


def config_from_plain(cls: type[Config], plain: dict[str, Any]) -> Config:
    """Inverse of `config_to_plain`.

    Raises
    ------
    ConfigError
        For a value that is not allowed, or a field that `cls` does not have.
    """
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(plain) - known)
    raise_if_any(cls.__name__, [f"{name}: no such field" for name in unknown])
    values = dict(plain)
    if isinstance(values.get("model"), dict):
        values["model"] = config_from_plain(ModelConfig, values["model"])
    return cls(**values)
