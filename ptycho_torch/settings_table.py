"""Table of all settings that Ptychodus sends, with rule and use of each; the source of checks and documentation.

docs/ptychodus-settings.md is generated from it. No framework is needed to read it.
"""

# ruff: noqa: E501 - a table reads best with one row a line
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ptycho_backends.config import AMPLITUDE_ACTIVATIONS, raise_if_any
from ptycho_backends.rules import (
    Rule,
    boolean,
    choice,
    fraction,
    integer,
    name_of,
    number,
    optional,
    shown,
)
from ptycho_backends.scans.neighbours import FUNCTIONS, SCAN_PATTERNS
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig

Use = Literal["mapped", "data", "image", "refused", "recorded"]
USES: dict[Use, str] = {
    "mapped": "a setting of this library, on both backends",
    "data": "how groups, patterns and labels are made",
    "image": "how the image is put together",
    "refused": "only this value: anything else is an error that names it",
    "recorded": "a text that is kept in the model file",
}


@dataclass(frozen=True)
class Setting:
    """One field of one of the configurations.

    Attributes
    ----------
    field : str
        The keyword.
    key : str
        The key in Ptychodus's settings file; '' if Ptychodus passes a constant.
    use : str
        One of `USES`.
    rule : Rule
        Allowed values; others are refused by name.
    text : str
        Its effect.
    """

    field: str
    key: str
    use: Use
    rule: Rule
    text: str


def _pair(text: str, accepts: Any) -> Rule:
    return Rule(text, lambda value: isinstance(value, tuple | list) and len(value) == 2 and accepts(*value))


_BOUNDS = _pair(
    "two numbers, 0 <= low < high <= 1",
    lambda low, high: number(0, 1).accepts(low) and number(0, 1).accepts(high) and low < high,
)
_GRID = _pair("two equal integers >= 1", lambda y, x: integer(1).accepts(y) and y == x)
_MASK = Rule(
    "None, True, False or an array",
    lambda value: value is None or isinstance(value, bool | np.ndarray) or hasattr(value, "__array__"),
)
_TEXT = Rule("a text", lambda value: isinstance(value, str))
_AUXILIARY = choice("Total_Variation", "Mean_Deviation", None)
_FRACTION = fraction(zero=True)
_ODD = integer(1, odd=True)
_POWER = integer(1, power_of_two=True)
_POSITIVE = number(0, exclusive=True)

_DATA = (
    Setting("N", "model_size", "mapped", integer(1), "side of a pattern; if the data have another, theirs is used, with a warning"),
    Setting("C", "num_channels", "mapped", integer(1), "positions in a group; want the product of `grid_size`"),
    Setting("normalize", "data_normalization_mode", "mapped", choice("Batch", "Group"), "patterns are scaled by one factor, or by one for each group (`normalize`)"),
    Setting("neighbor_function", "neighbor_lookup_method", "data", choice(*FUNCTIONS), "members of a group: `C` of the `K` nearest; `C` of those in a range of distances; or one of the `K_quadrant` nearest from each quadrant (`C` = 4)"),
    Setting("scan_pattern", "scan_pattern", "data", choice(*SCAN_PATTERNS), "`Rectangular`: distances are measured on the scan stretched until its steps along x and y are equal"),
    Setting("probe_normalize", "normalize_probe", "data", boolean(), "the probe gets the mean amplitude `1 / probe_scale`; if not, it is used as given"),
    Setting("x_bounds", "x_lower_bound, x_upper_bound", "data", _BOUNDS, "part of the scan's bounding box whose positions get groups when training; an image is made of all"),
    Setting("y_bounds", "y_lower_bound, y_upper_bound", "data", _BOUNDS, "likewise"),
    Setting("min_neighbor_distance", "min_neighbor_distance", "data", number(0), "for `Min_dist`, pixels"),
    Setting("max_neighbor_distance", "max_neighbor_distance", "data", number(0), "for `Min_dist`, pixels"),
    Setting("K_quadrant", "num_nearest_neighbors_for_quadrant_lookup", "data", integer(0), "for `4_quadrant`"),
    Setting("n_subsample", "coordinate_subsampling_factor", "data", integer(1), "different groups around each position; fewer give a warning"),
    Setting("probe_scale", "probe_scale", "mapped", _POSITIVE, "`probe_scale`"),
    Setting("K", "num_nearest_neighbors_for_lookup", "data", integer(0), "for `Nearest` (`neighbor_count`)"),
    Setting("grid_size", "grid_size_y, grid_size_x", "mapped", _GRID, "`gridsize`"),
    Setting("probe_ramp_removal", "probe_ramp_removal", "data", boolean(), "the probe's linear phase is taken away, so that its far field is centred"),
    Setting("data_scaling", "data_scaling_method", "mapped", choice("Parseval", "Max"), "patterns get the mean energy (N/2)^2, or the largest value 1 (`data_scaling`); the probe follows, and the object keeps its amplitude"),
    Setting("phase_subtraction", "subtract_mean_phase", "mapped", boolean(), "Supervised: each label's mean phase is removed (`phase_subtraction`)"),
)  # fmt: skip

_SAME_AS_C = "equal to `C`"
_MODEL = (
    Setting("mode", "", "mapped", choice("Unsupervised", "Supervised"), "`model_type` 'pinn' or 'supervised'; the latter compares with labels alone, cut from the file's `objectGuess`"),
    Setting("object_big", "object_big", "mapped", boolean(), "`object_big`"),
    Setting("probe_big", "probe_big", "mapped", boolean(), "`probe_big`"),
    Setting("loss_function", "loss_function", "mapped", choice("Poisson", "MAE"), "Unsupervised: `nll_weight` 1 or `mae_weight` 1"),
    Setting("amp_activation", "amplitude_activation_function", "mapped", choice("silu", *AMPLITUDE_ACTIVATIONS), "`amp_activation`"),
    Setting("cbam_encoder", "cbam_encoder", "mapped", boolean(), "`cbam_encoder`"),
    Setting("decoder_last_amp_channels", "", "mapped", integer(1), _SAME_AS_C),
    Setting("use_shared_decoder", "use_shared_decoder", "mapped", boolean(), "`use_shared_decoder`"),
    Setting("intensity_scale_trainable", "intensity_scale_trainable", "mapped", boolean(), "`intensity_scale_trainable`"),
    Setting("intensity_scale", "intensity_scale", "mapped", _POSITIVE, "`s`, by which normalised amplitudes are multiplied: `nphotons` is `(s N/2)^2`"),
    Setting("max_position_jitter", "max_position_jitter", "mapped", integer(0), "`max_position_jitter`"),
    Setting("num_datasets", "num_datasets", "data", integer(1), "1, or the number of training files"),
    Setting("C_model", "", "mapped", integer(1), _SAME_AS_C),
    Setting("C_forward", "", "mapped", integer(1), _SAME_AS_C),
    Setting("amp_loss", "auxiliary_amplitude_loss", "mapped", _AUXILIARY, "`amp_loss`"),
    Setting("phase_loss", "auxiliary_phase_loss", "mapped", _AUXILIARY, "`phase_loss`"),
    Setting("amp_loss_coeff", "auxiliary_amplitude_loss_coeff", "mapped", number(0), "`amp_loss_coeff`"),
    Setting("phase_loss_coeff", "auxiliary_phase_loss_coeff", "mapped", number(0), "`phase_loss_coeff`"),
    Setting("n_filters_scale", "num_filters_scale", "mapped", integer(1), "`n_filters_scale`"),
    Setting("probe_mask", "", "mapped", _MASK, "`probe_mask`: any mask means the circular one"),
    Setting("eca_decoder", "eca_decoder", "mapped", boolean(), "`eca_decoder`"),
    Setting("batch_norm", "use_batch_normalization", "mapped", boolean(), "`batch_norm`"),
    Setting("edge_pad", "edge_pad", "mapped", integer(0), "`edge_pad`"),
    Setting("decoder_last_c_outer_fraction", "decoder_last_c_outer_fraction", "mapped", fraction(), "`decoder_last_c_outer_fraction`"),
    Setting("cbam_bottleneck", "cbam_bottleneck", "mapped", boolean(), "`cbam_bottleneck`"),
    Setting("cbam_decoder", "cbam_decoder", "mapped", boolean(), "`cbam_decoder`"),
    Setting("spatial_decoder", "spatial_decoder", "mapped", boolean(), "`spatial_decoder`"),
    Setting("decoder_spatial_kernel", "decoder_spatial_kernel", "mapped", _ODD, "`decoder_spatial_kernel`"),
    Setting("eca_encoder", "eca_encoder", "mapped", boolean(), "`eca_encoder`"),
    Setting("offset", "offset", "mapped", integer(0), "`offset`"),
    Setting("probe_reference_coeff", "probe_reference_loss_coeff", "refused", choice(0.0), "off"),
    Setting("amplitude_variance_loss", "amplitude_variance_loss", "mapped", boolean(), "switch for `amplitude_variance_coeff`"),
    Setting("amplitude_variance_coeff", "amplitude_variance_coeff", "mapped", number(0), "`amplitude_variance_coeff`"),
)  # fmt: skip

_TRAINING = (
    Setting("epochs", "epochs", "mapped", integer(1), "`nepochs`"),
    Setting("batch_size", "batch_size", "mapped", _POWER, "`batch_size`"),
    Setting("learning_rate", "learning_rate", "mapped", _POSITIVE, "`learning_rate`"),
    Setting("n_devices", "n_devices", "mapped", integer(1), "`devices`, each with batches of `batch_size`; one where `device` is missing"),
    Setting("num_workers", "num_dataloader_workers", "mapped", integer(0), "`num_workers`, at most as many as there are processor cores; none for patterns in memory, which a thread gathers"),
    Setting("accum_steps", "gradient_accumulation_steps", "mapped", integer(1), "`accum_steps`"),
    Setting("epochs_fine_tune", "epochs_finetune", "mapped", integer(0), "so many epochs more at `fine_tune_gamma` times the rate (`finetune_stages`)"),
    Setting("fine_tune_gamma", "finetune_gamma", "mapped", number(0, 1), "see `epochs_fine_tune`"),
    Setting("gradient_clip_val", "gradient_clip_val", "mapped", optional(_POSITIVE), "`gradient_clip_val`; Ptychodus passes None for 0"),
    Setting("nll", "use_negative_log_likelihood_loss", "mapped", boolean(), "`nll_weight`; if not, the amplitude's mean absolute error takes its place"),
    Setting("device", "device", "mapped", choice("auto", "cpu", "cuda", "gpu", "mps"), "`accelerator`; the processor, and a warning, where it is missing"),
    Setting("strategy", "distributed_strategy", "mapped", name_of("strategy"), "`strategy` of several devices, of which 'auto', 'ddp' and 'ddp_spawn' are the same; one device needs none"),
    Setting("framework", "", "refused", choice("Lightning"), "the only one"),
    Setting("orchestrator", "", "refused", choice("Lightning"), "the only one"),
    Setting("scheduler", "learning_rate_scheduler", "mapped", choice("Default", "Exponential", "Cosine"), "`scheduler`"),
    Setting("warmup_epochs", "learning_rate_warmup_epochs", "mapped", integer(0), "`warmup_epochs`"),
    Setting("min_lr_ratio", "minimum_learning_rate_ratio", "mapped", number(0, 1), "`min_lr_ratio`"),
    Setting("notes", "notes", "recorded", _TEXT, "kept in the model file"),
    Setting("model_name", "model_name", "recorded", _TEXT, "kept in the model file"),
    Setting("enable_staged_finetuning", "enable_staged_finetuning", "mapped", boolean(), "two or three stages of further epochs (`finetune_stages`), in place of `epochs_fine_tune`"),
    Setting("finetune_stage1_epochs", "finetune_stage1_epochs", "mapped", integer(1), "first stage: the decoders"),
    Setting("finetune_stage2_epochs", "finetune_stage2_epochs", "mapped", integer(1), "second stage: the encoder's top as well"),
    Setting("finetune_stage3_epochs", "finetune_stage3_epochs", "mapped", integer(1), "third stage: everything"),
    Setting("finetune_stage1_lr_decoder", "finetune_stage1_lr_decoder", "mapped", number(0), "factor on `learning_rate`; the phase's head, a part of its decoder, has it too"),
    Setting("finetune_stage2_lr_encoder_top", "finetune_stage2_lr_encoder_top", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_stage2_lr_decoder", "finetune_stage2_lr_decoder", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_stage2_lr_phase_head", "finetune_stage2_lr_phase_head", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_stage3_lr_encoder_bottom", "finetune_stage3_lr_encoder_bottom", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_stage3_lr_encoder_top", "finetune_stage3_lr_encoder_top", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_stage3_lr_decoder", "finetune_stage3_lr_decoder", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_stage3_lr_phase_head", "finetune_stage3_lr_phase_head", "mapped", number(0), "factor on `learning_rate`"),
    Setting("finetune_skip_stage3", "finetune_skip_stage3", "mapped", boolean(), "no third stage"),
    Setting("finetune_early_stop_patience", "finetune_early_stop_patience", "mapped", integer(1), "`finetune_early_stop_patience`"),
    Setting("finetune_val_split", "finetune_val_split", "mapped", _FRACTION, "`validation_share`, also of the main epochs"),
)  # fmt: skip

_INFERENCE = (
    Setting("batch_size", "batch_size", "image", integer(1), "groups that are predicted at once, at most; fewer where memory would not do, which changes nothing in the image"),
    Setting("middle_trim", "middle_trim", "image", Rule("an even integer >= 2", lambda v: integer(2).accepts(v) and v % 2 == 0), "side of the central square of each patch that is used; at most the patterns' side"),
    Setting("experiment_number", "experiment_number", "refused", choice(0), "the one scan that is given"),
    Setting("patch_weighting", "patch_weighting_method", "image", choice("probe", "uniform"), "where patches overlap, weighted by the probe's intensity or all alike"),
    Setting("pad_eval", "pad_eval", "image", boolean(), "the image reaches one probe width beyond the positions; if not, `middle_trim`"),
    Setting("window", "window", "image", integer(0), "pixels along each edge of the padded image that are set to 1"),
)  # fmt: skip

SETTINGS: dict[type, tuple[Setting, ...]] = {
    DataConfig: _DATA,
    ModelConfig: _MODEL,
    TrainingConfig: _TRAINING,
    InferenceConfig: _INFERENCE,
}
"""Every field of the four configurations, in the order of the fields. `DatagenConfig` has none."""

SECTIONS: dict[type, str] = {
    DataConfig: "PtychoPINNTorchData",
    ModelConfig: "PtychoPINNTorchModel",
    TrainingConfig: "PtychoPINNTorchTraining",
    InferenceConfig: "PtychoPINNTorchInference",
}
"""Section of each in Ptychodus's settings file."""


def problems_of(config: Any) -> list[str]:
    """Every refused value of `config`, as "field (key in the settings file): got X, want Y"."""
    if type(config) not in SETTINGS:
        return [
            f"got {type(config).__name__}, want an instance of one of "
            f"{', '.join(cls.__name__ for cls in SETTINGS)} of ptycho_torch.config_params"
        ]
    found = []
    for setting in SETTINGS[type(config)]:
        value = getattr(config, setting.field)
        if isinstance(value, np.generic):
            value = value.item()
        if not setting.rule.accepts(value):
            named = f" ({setting.key})" if setting.key not in ("", setting.field) else ""
            found.append(f"{setting.field}{named}: got {shown(value)}, want {setting.rule.text}")
    return found


def check(configs: Sequence[Any]) -> None:
    """Refuse values that break a rule of the table, and contradictory values.

    Raises
    ------
    ConfigError
        Lists all problems, each under the name that Ptychodus uses.
    """
    problems = [problem for config in configs for problem in problems_of(config)]
    data = next((config for config in configs if isinstance(config, DataConfig)), None)
    model = next((config for config in configs if isinstance(config, ModelConfig)), None)
    if data is not None and not problems:
        size = data.grid_size[0] * data.grid_size[1]
        if size != data.C:
            grid = tuple(data.grid_size)
            problems.append(f"C (num_channels): got {data.C}, want {size}, the product of grid_size={grid}")
        problems += [
            f"{name}: got {getattr(model, name)}, want C={data.C}"
            for name in ("decoder_last_amp_channels", "C_model", "C_forward")
            if model is not None and getattr(model, name) != data.C
        ]
    raise_if_any("Ptychodus settings", problems)


def field_names(cls: type) -> list[str]:
    """The fields of `cls`, in order."""
    return [field.name for field in dataclasses.fields(cls)]
