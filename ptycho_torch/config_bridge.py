"""From the configurations that Ptychodus sends to those of this library, and back.

One table, `SETTINGS`, defines the use of each field. A refused value is a `ConfigError` with the name that the
user of Ptychodus knows.
"""

import difflib
import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from ptycho_backends import config as neutral
from ptycho_backends.errors import ConfigError
from ptycho_backends.finetuning import PARTS
from ptycho_backends.params.bridge import LEGACY_DEFAULTS
from ptycho_backends.scans.neighbours import NeighbourChoice
from ptycho_backends.values import TrainedModel
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.settings_table import SECTIONS, SETTINGS, check, field_names

__all__ = [
    "SECTIONS",
    "SETTINGS",
    "check",
    "configs_of_model",
    "field_names",
    "hides_anything",
    "neighbour_choice",
    "to_execution_config",
    "to_inference_config",
    "to_model_config",
    "to_training_config",
]

log = logging.getLogger(__name__)

C = TypeVar(
    "C", neutral.ModelConfig, neutral.TrainingConfig, neutral.InferenceConfig, neutral.ExecutionConfig
)

MODEL_TYPES = {"Unsupervised": "pinn", "Supervised": "supervised"}

# Fields that have the same name and meaning on both sides.
SAME_MODEL_FIELDS = (
    "object_big", "probe_big", "amp_activation", "n_filters_scale", "offset", "max_position_jitter",
)  # fmt: skip
SAME_LOSS_FIELDS = ("amp_loss", "phase_loss", "amp_loss_coeff", "phase_loss_coeff")
SAME_DATA_FIELDS = ("normalize", "data_scaling", "phase_subtraction")
SAME_EXECUTION_FIELDS = (
    "learning_rate", "accum_steps", "gradient_clip_val", "scheduler", "warmup_epochs", "min_lr_ratio",
    "finetune_early_stop_patience",
)  # fmt: skip

# Most values of one prediction in memory; 256 groups of four at N = 64.
LARGEST_INFERENCE_BATCH = 2**22


def to_model_config(
    data: DataConfig, model: ModelConfig, overrides: Mapping[str, Any] | None = None
) -> neutral.ModelConfig:
    """The network and the diffraction model.

    Parameters
    ----------
    data : DataConfig
    model : ModelConfig
    overrides : mapping, optional
        Values for fields of the result that Ptychodus has no setting for.

    Raises
    ------
    ConfigError
        For a value that is not allowed, or an override that is no field.
    """
    _require(data=(data, DataConfig), model=(model, ModelConfig))
    check([data, model])
    values: dict[str, Any] = {
        "N": int(data.N),
        "gridsize": int(data.grid_size[0]),
        "model_type": MODEL_TYPES[model.mode],
        "architecture": "attention",
        "probe_mask": hides_anything(model.probe_mask),
        "probe_scale": data.probe_scale,
    }
    values |= {name: getattr(model, name) for name in SAME_MODEL_FIELDS + neutral.ATTENTION_FIELDS}
    return _made(neutral.ModelConfig, values, overrides)


def hides_anything(mask: Any) -> bool:
    """True if `mask` (None, a boolean, or an array of zeros and ones) hides a pixel."""
    if mask is None or isinstance(mask, bool):
        return bool(mask)
    return bool((np.asarray(mask) == 0).any())


def to_training_config(
    model: neutral.ModelConfig,
    data: DataConfig,
    network: ModelConfig,
    training: TrainingConfig,
    overrides: Mapping[str, Any] | None = None,
) -> neutral.TrainingConfig:
    """The training configuration: the model, the losses and the data of a training run.

    Parameters
    ----------
    model : ptycho_backends.config.ModelConfig
        From `to_model_config`.
    data, network, training : DataConfig, ModelConfig, TrainingConfig
    overrides : mapping, optional
        Values for fields of the result.

    Raises
    ------
    ConfigError
        As `to_model_config`; or `nphotons` among the overrides contradicts an `intensity_scale` that was
        set.
    """
    _require(
        model=(model, neutral.ModelConfig),
        data=(data, DataConfig),
        network=(network, ModelConfig),
        training=(training, TrainingConfig),
    )
    check([data, network, training])
    overrides = dict(overrides or {})
    # N is 0 as long as the data, which decide it, are not read
    side = model.N or data.N
    photons = (network.intensity_scale * side / 2) ** 2
    requested = overrides.get("nphotons")
    if network.intensity_scale == ModelConfig.intensity_scale and requested is not None:
        photons = requested
    elif requested is not None and not math.isclose(requested, photons, rel_tol=1e-6):
        raise ConfigError(
            f"nphotons: got {requested:g}, but intensity_scale={network.intensity_scale:g} means {photons:g}; "
            "leave one of them out"
        )
    overrides.pop("nphotons", None)
    likelihood = network.loss_function == "Poisson" and training.nll
    variance = network.amplitude_variance_coeff if network.amplitude_variance_loss else 0.0
    values: dict[str, Any] = {
        "model": model,
        "batch_size": training.batch_size,
        "nepochs": training.epochs,
        "nll_weight": float(likelihood),
        "mae_weight": float(not likelihood),
        "nphotons": photons,
        "n_groups": LEGACY_DEFAULTS["n_groups"],
        "neighbor_count": max(data.K, data.C),
        "intensity_scale_trainable": network.intensity_scale_trainable,
        "amplitude_variance_coeff": variance,
        "validation_share": training.finetune_val_split,
        "backend": "torch",
    }
    values |= {name: getattr(network, name) for name in SAME_LOSS_FIELDS}
    values |= {name: getattr(data, name) for name in SAME_DATA_FIELDS}
    return _made(neutral.TrainingConfig, values, overrides)


def to_inference_config(
    model: neutral.ModelConfig,
    data: DataConfig,
    inference: InferenceConfig,
    overrides: Mapping[str, Any] | None = None,
) -> neutral.InferenceConfig:
    """The inference configuration; the settings of stitching stay in `inference`.

    Raises
    ------
    ConfigError
        As `to_model_config`.
    """
    _require(
        model=(model, neutral.ModelConfig), data=(data, DataConfig), inference=(inference, InferenceConfig)
    )
    check([data, inference])
    values = {"model": model, "neighbor_count": max(data.K, data.C), "backend": "torch"}
    return _made(neutral.InferenceConfig, values, overrides)


def to_execution_config(
    training: TrainingConfig,
    inference: InferenceConfig | None = None,
    data: DataConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> neutral.ExecutionConfig:
    """The execution configuration, adapted to the devices of this machine.

    Parameters
    ----------
    training : TrainingConfig
    inference : InferenceConfig, optional
        For `inference_batch_size`, with `data`.
    data : DataConfig, optional
    overrides : mapping, optional
        Values for fields of the result.

    Raises
    ------
    ConfigError
        As `to_model_config`.
    """
    check([training] if inference is None else [training, inference])
    values: dict[str, Any] = {
        **_devices(training),
        "num_workers": min(training.num_workers, os.cpu_count() or 1),
        "persistent_workers": training.num_workers > 0,
        "enable_progress_bar": False,
        "finetune_stages": _finetune_stages(training),
    }
    values |= {name: getattr(training, name) for name in SAME_EXECUTION_FIELDS}
    if inference is not None and data is not None:
        most = max(1, LARGEST_INFERENCE_BATCH // (data.N**2 * data.C))
        values["inference_batch_size"] = min(inference.batch_size, most)
    return _made(neutral.ExecutionConfig, values, overrides)


def _devices(training: TrainingConfig) -> dict[str, Any]:
    """The requested devices if this machine has them, else one processor; Ptychodus requests CUDA by default."""
    accelerator = _accelerator(training.device)
    if training.n_devices == 1 or accelerator != training.device:
        return {"accelerator": accelerator}
    return {"accelerator": accelerator, "devices": training.n_devices, "strategy": training.strategy}


def _accelerator(device: str) -> str:
    import torch

    is_available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "gpu": lambda: torch.cuda.is_available() or torch.backends.mps.is_available(),
        "mps": torch.backends.mps.is_available,
    }
    if device not in is_available or is_available[device]():
        return device
    log.warning("device: %r is not available here; the processor computes", device)
    return "cpu"


def _finetune_stages(training: TrainingConfig) -> tuple[Any, ...]:
    if not training.enable_staged_finetuning:
        if training.epochs_fine_tune == 0:
            return ()
        rates = dict.fromkeys(PARTS, training.fine_tune_gamma)
        return (neutral.FinetuneStage(training.epochs_fine_tune, rates),)
    first = training.finetune_stage1_lr_decoder
    stages = [
        neutral.FinetuneStage(training.finetune_stage1_epochs, {"decoder": first, "phase_head": first}),
        neutral.FinetuneStage(
            training.finetune_stage2_epochs,
            {
                "encoder_top": training.finetune_stage2_lr_encoder_top,
                "decoder": training.finetune_stage2_lr_decoder,
                "phase_head": training.finetune_stage2_lr_phase_head,
            },
        ),
        neutral.FinetuneStage(
            training.finetune_stage3_epochs,
            {
                "encoder_bottom": training.finetune_stage3_lr_encoder_bottom,
                "encoder_top": training.finetune_stage3_lr_encoder_top,
                "decoder": training.finetune_stage3_lr_decoder,
                "phase_head": training.finetune_stage3_lr_phase_head,
            },
        ),
    ]
    return tuple(stages[:2] if training.finetune_skip_stage3 else stages)


def neighbour_choice(data: DataConfig) -> NeighbourChoice:
    """The choice of neighbours for groups."""
    return NeighbourChoice(
        group_size=data.C,
        function=data.neighbor_function,
        neighbor_count=data.K,
        min_distance_px=data.min_neighbor_distance,
        max_distance_px=data.max_neighbor_distance,
        quadrant_count=data.K_quadrant,
        groups_per_seed=data.n_subsample,
        scan_pattern=data.scan_pattern,
    )


def _require(**arguments: tuple[Any, type]) -> None:
    """Refuse an argument that is none of its class; callers mix up classes of the same name."""
    problems = [
        f"{name}: got {type(value).__name__} of {type(value).__module__}, want {kind.__name__} of {kind.__module__}"
        for name, (value, kind) in arguments.items()
        if not isinstance(value, kind)
    ]
    neutral.raise_if_any("configurations", problems)


def _made(cls: type[C], values: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> C:
    known = field_names(cls)
    unknown = [name for name in overrides or {} if name not in known]
    problems = [
        f"{name}: no field of {cls.__name__}; did you mean {difflib.get_close_matches(name, known, 1, 0.0)[0]!r}?"
        for name in unknown
    ]
    neutral.raise_if_any("overrides", problems)
    return cls(**{**values, **(overrides or {})})


def configs_of_model(
    model: TrainedModel,
) -> tuple[DataConfig, ModelConfig, TrainingConfig, InferenceConfig]:
    """Configurations of a model that was not trained through Ptychodus.

    Settings without a counterpart in such a model keep their defaults, except that one group is formed around
    each position.
    """
    trained = model.config
    network = trained.model
    side, count = network.N, network.group_size
    data = DataConfig(
        N=side,
        C=count,
        grid_size=(network.gridsize, network.gridsize),
        K=max(trained.neighbor_count, count),
        n_subsample=1,
        probe_scale=network.probe_scale,
        **{name: getattr(trained, name) for name in SAME_DATA_FIELDS},
    )
    described: dict[str, Any] = {name: getattr(network, name) for name in SAME_MODEL_FIELDS}
    described |= {name: getattr(network, name) for name in neutral.ATTENTION_FIELDS}
    described |= {name: getattr(trained, name) for name in SAME_LOSS_FIELDS}
    described |= dict.fromkeys(("decoder_last_amp_channels", "C_model", "C_forward"), count)
    likelihood = trained.nll_weight > 0
    return (
        data,
        ModelConfig(
            mode=next(mode for mode, kind in MODEL_TYPES.items() if kind == network.model_type),
            loss_function="Poisson" if likelihood else "MAE",
            intensity_scale=model.intensity_scale,
            intensity_scale_trainable=trained.intensity_scale_trainable,
            probe_mask=True if network.probe_mask else None,
            amplitude_variance_loss=trained.amplitude_variance_coeff > 0,
            amplitude_variance_coeff=trained.amplitude_variance_coeff,
            **described,
        ),
        TrainingConfig(epochs=trained.nepochs, batch_size=trained.batch_size, nll=likelihood),
        InferenceConfig(),
    )
