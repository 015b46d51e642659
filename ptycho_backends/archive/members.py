"""The members of an archive one by one: content to bytes, and back with every value checked.

`docs/archive.md` describes the format for readers who have no access to this code.
"""

import copy
import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import (
    ARCHITECTURES,
    ATTENTION_FIELDS,
    LATER_FIELDS,
    LATER_MODEL_FIELDS,
    ModelConfig,
    TrainingConfig,
    validate,
)
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.files import exact_json
from ptycho_backends.files.budget import MAX_TEXT_BYTES as MAX_TEXT_BYTES
from ptycho_backends.files.safe_hdf5 import Hdf5Arrays, hdf5_bytes
from ptycho_backends.reference.initial_weights import PROBE, weight_dtype, weight_shapes
from ptycho_backends.values import EpochRecord, TrainedModel, TrainingState, Weights

MANIFEST, CONFIG, PARAMS, WEIGHTS, HISTORY = (
    "manifest.json", "config.json", "params.json", "weights.h5", "history.csv",
)  # fmt: skip
STATE, STATE_ARRAYS = "training_state.json", "training_state.h5"

# Far more than any real file needs, and little enough for any computer.
MAX_WEIGHTS_BYTES = 2 << 30
MAX_PARAMS_ARRAYS_BYTES = 64 << 20
MAX_EPOCHS = 80_000
MAX_SETTING = 100_000
MAX_DIGITS = 20
_STRUCTURE_BYTES = 1 << 20

_PARAMS_GROUP = "params"
_HISTORY_COLUMNS = tuple(field.name for field in dataclasses.fields(EpochRecord))
_MOMENTS = {"first_moments": "first", "second_moments": "second"}


# --- config.json


@dataclass(frozen=True)
class ConfigMember:
    """Everything about a model that is neither weights nor history."""

    training: TrainingConfig
    intensity_scale: float
    backend: str
    interrupted: bool

    @classmethod
    def of(cls, model: TrainedModel) -> "ConfigMember":
        """Checked: a configuration that cannot be loaded again is not saved either."""
        config = copy.deepcopy(model.config)
        validate(config)
        scale = float(model.intensity_scale)
        if not (math.isfinite(scale) and scale > 0):
            raise ArchiveError(f"{CONFIG}: intensity_scale: got {scale!r}, want a number > 0")
        return cls(config, scale, str(model.backend), bool(model.interrupted))

    def to_bytes(self) -> bytes:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["training"] = _fields_of(self.training)
        model, own = values["training"]["model"], self.training.model.own_fields
        values["training"]["model"] = {name: model[name] for name in own if name in model}
        return exact_json.dumps(values)

    @classmethod
    def from_bytes(cls, data: bytes) -> "ConfigMember":
        values = exact_json.loads(data, CONFIG)
        _require_keys(CONFIG, values, {field.name for field in dataclasses.fields(cls)})
        training = values["training"]
        _require_keys(
            CONFIG, training, {field.name for field in dataclasses.fields(TrainingConfig)}, LATER_FIELDS
        )
        shape = {field.name for field in dataclasses.fields(ModelConfig)}
        optional = (*ATTENTION_FIELDS, *LATER_MODEL_FIELDS, *_foreign_fields(training["model"]))
        _require_keys(CONFIG, training["model"], shape, optional)
        if training["n_images"] is not None:
            raise ArchiveError(f"{CONFIG}: n_images: got a value, want None; its successor is n_groups")
        try:
            model = ModelConfig(**training["model"])
            config = TrainingConfig(**{**training, "model": model})
            validate(config)
        except (ConfigError, TypeError) as error:
            raise ArchiveError(f"{CONFIG}: {error}") from error
        require_modest(config, CONFIG)
        scale, backend, interrupted = values["intensity_scale"], values["backend"], values["interrupted"]
        if type(scale) is not float or not (math.isfinite(scale) and scale > 0):
            raise ArchiveError(f"{CONFIG}: intensity_scale: got {scale!r}, want a number > 0")
        if type(backend) is not str or type(interrupted) is not bool:
            raise ArchiveError(f"{CONFIG}: backend or interrupted has the wrong type")
        return cls(config, scale, backend, interrupted)


def require_modest(config: TrainingConfig, source: str) -> None:
    """Refuse the settings of a file, the member `source`, by which training or inference would ask for terabytes."""
    model = config.model
    claimed = {
        "neighbor_count": config.neighbor_count,
        "batch_size": config.batch_size,
        "offset": model.offset * (model.gridsize - 1),
        "max_position_jitter": model.max_position_jitter,
        "n_steps": model.n_steps * model.n_rounds,
    }
    for name, value in claimed.items():
        if value > MAX_SETTING:
            raise ArchiveError(
                f"{source}: {name}: {value} needs more memory than there is; want at most {MAX_SETTING}"
            )


def _foreign_fields(model: Any) -> list[str]:
    """Fields that the architecture of a stored `model` lacks, so that they are not written."""
    architecture = model.get("architecture") if isinstance(model, dict) else None
    if architecture not in ARCHITECTURES:
        return []
    fields = dataclasses.fields(ModelConfig)
    return [
        field.name
        for field in fields
        if field.metadata["only"] and architecture not in field.metadata["only"]
    ]


def _fields_of(config: Any) -> dict[str, Any]:
    """Not `dataclasses.asdict`, which copies values and so could change their types.

    Of later fields those that have their default are left out, so older readers know all the fields.
    """
    later = LATER_FIELDS + LATER_MODEL_FIELDS
    found = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in later or getattr(config, field.name) != field.default
    }
    return {name: _fields_of(v) if dataclasses.is_dataclass(v) else v for name, v in found.items()}


def _require_keys(member: str, values: Any, wanted: set[str], optional: Sequence[str] = ()) -> None:
    if not isinstance(values, dict):
        raise ArchiveError(f"{member}: got {type(values).__name__}, want an object")
    if missing := sorted(wanted - set(values) - set(optional)):
        raise ArchiveError(f"{member}: {', '.join(missing)} missing")
    if unknown := sorted(map(str, set(values) - wanted)):
        raise ArchiveError(f"{member}: unknown {', '.join(unknown)}")


# --- weights.h5, which may hold arrays of params.json


def checked_weights(config: ModelConfig, weights: Weights, *, source: str = WEIGHTS) -> dict[str, NDArray]:
    """The weights of `config` from the member `source`, in canonical order.

    Raises
    ------
    ArchiveError
        Names missing or unknown, wrong shapes or dtypes, NaN or infinite values.
    """
    shapes = weight_shapes(config)
    if missing := [name for name in shapes if name not in weights]:
        raise ArchiveError(f"{source}: {', '.join(missing)} missing")
    if unknown := [name for name in weights if name not in shapes]:
        raise ArchiveError(f"{source}: unknown {', '.join(unknown)}")
    return {name: _checked_array(source, name, weights[name], shape) for name, shape in shapes.items()}


def _checked_array(member: str, name: str, value: Any, shape: tuple[int, ...]) -> NDArray:
    array, dtype = np.asarray(value, order="C"), weight_dtype(name)
    if array.shape != shape or array.dtype != dtype:
        raise ArchiveError(f"{member}: {name}: got {array.dtype} {array.shape}, want {dtype} {shape}")
    if bad := int(array.size - np.count_nonzero(np.isfinite(array))):
        raise ArchiveError(f"{member}: {name}: {bad} of {array.size} values are NaN or infinite")
    if name.endswith("/norm/variance") and (array < 0).any():
        raise ArchiveError(f"{member}: {name}: got {array.min():g}, want numbers >= 0")
    return array


def weights_limit(config: ModelConfig, *, copies: int = 1, source: str = CONFIG) -> int:
    """Most bytes that a file with `copies` arrays for each weight may have.

    Refuses the absurdly large models of a configuration from the member `source`.
    """
    values = sum(math.prod(shape) * weight_dtype(n).itemsize for n, shape in weight_shapes(config).items())
    if values > MAX_WEIGHTS_BYTES:
        raise ArchiveError(f"{source}: the weights would take {values} bytes, more than {MAX_WEIGHTS_BYTES}")
    # moments may have twice the precision of weights
    return (values if copies == 1 else 2 * copies * values) + MAX_PARAMS_ARRAYS_BYTES + _STRUCTURE_BYTES


def weights_from_bytes(data: bytes, config: ModelConfig) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """The checked weights, and the arrays of `params.json` by the name it knows them by."""
    arrays, shapes = Hdf5Arrays(data, WEIGHTS), weight_shapes(config)
    extra = {path for path in arrays if path.startswith(f"{_PARAMS_GROUP}/")}
    found: dict[str, NDArray] = {}
    for path, stored in arrays.stored.items():
        if path in extra:
            continue
        if path in shapes and stored.shape != shapes[path]:
            raise ArchiveError(f"{WEIGHTS}: {path}: got shape {stored.shape}, want {shapes[path]}")
        found[path] = arrays[path]
    return checked_weights(config, found), {path: arrays[path] for path in extra}


# --- params.json


def params_to_bytes(params: Mapping[str, Any]) -> bytes:
    """The snapshot of `params.cfg` without its probe, which is a weight already."""
    return exact_json.dumps({key: value for key, value in params.items() if key != PROBE})


def params_from_bytes(data: bytes, arrays: Mapping[str, NDArray]) -> dict[str, Any]:
    """The snapshot without its probe; every array must be referred to.

    Arrays are in archives of earlier versions, which kept other values of `params.cfg` too.
    """
    used: set[str] = set()

    def fetch(name: str) -> NDArray:
        if name not in arrays:
            raise ArchiveError(f"{name} missing in {WEIGHTS}")
        used.add(name)
        return arrays[name]

    params = exact_json.loads(data, PARAMS, fetch)
    if not isinstance(params, dict):
        raise ArchiveError(f"{PARAMS}: got {type(params).__name__}, want an object")
    if unused := sorted(set(arrays) - used):
        raise ArchiveError(f"{WEIGHTS}: unknown {', '.join(unused)}")
    return params


# --- history.csv


def history_to_bytes(history: Sequence[EpochRecord]) -> bytes:
    """A table that spreadsheets open: one row an epoch, full precision, an empty cell for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HISTORY_COLUMNS)
    for record in history:
        losses = ("" if record.val_loss is None else float(record.val_loss), float(record.learning_rate))
        writer.writerow((int(record.epoch), float(record.train_loss), *losses, float(record.seconds)))
    return text.getvalue().encode("ascii")


def history_from_bytes(data: bytes) -> tuple[EpochRecord, ...]:
    # line by line, because a table of empty cells would take fifty times the memory of its text
    lines = io.TextIOWrapper(io.BytesIO(data), "ascii", newline="")
    try:
        rows = csv.reader(lines, strict=True)
        if tuple(next(rows, ())) != _HISTORY_COLUMNS:
            raise ValueError(f"want the columns {','.join(_HISTORY_COLUMNS)}")
        found = []
        for epoch, loss, val, rate, seconds in rows:
            numbers = float(loss), float(val) if val else None, float(rate), float(seconds)
            found.append(EpochRecord(_whole_number(epoch), *numbers))
            if len(found) > MAX_EPOCHS:
                raise ValueError(f"more than {MAX_EPOCHS} epochs")
        return tuple(found)
    except (ValueError, csv.Error) as error:
        raise ArchiveError(f"{HISTORY}: not a training history ({error})") from error


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


# --- training_state.json and .h5

_STATE_NUMBERS: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: type(value) is int and value >= 0,
    "epoch": lambda value: type(value) is int and value >= 0,
    "batches_done": lambda value: type(value) is int and value >= 0,
    "loss_sum": lambda value: type(value) is float,
}


def state_to_bytes(state: TrainingState, config: ModelConfig) -> dict[str, bytes]:
    """Both members, by name."""
    numbers = {"step": int(state.step), "epoch": int(state.epoch), "batches_done": int(state.batches_done)}
    arrays: dict[str, NDArray] = {}
    for field, group in _MOMENTS.items():
        for name, value in _checked_moments(getattr(state, field), config).items():
            arrays[f"{group}/{name}"] = value
    try:
        text = exact_json.dumps(
            {**numbers, "loss_sum": float(state.loss_sum), "schedule": dict(state.schedule)}
        )
    except TypeError as error:
        raise ArchiveError(f"{STATE}: schedule: {error}") from error
    return {STATE: text, STATE_ARRAYS: hdf5_bytes(arrays)}


def state_from_bytes(text: bytes, data: bytes, config: ModelConfig) -> TrainingState:
    values = exact_json.loads(text, STATE)
    _require_keys(STATE, values, {*_STATE_NUMBERS, "schedule"})
    arrays = Hdf5Arrays(data, STATE_ARRAYS)
    groups: dict[str, dict[str, NDArray]] = {group: {} for group in _MOMENTS.values()}
    for path in arrays:
        group, _, name = path.partition("/")
        if group not in groups:
            raise ArchiveError(f"{STATE_ARRAYS}: unknown {path}")
        groups[group][name] = arrays[path]
    return checked_state(values, {field: groups[group] for field, group in _MOMENTS.items()}, config)


def checked_state(
    values: Mapping[str, Any],
    moments: Mapping[str, Weights],
    config: ModelConfig,
    *,
    sources: tuple[str, str] = (STATE, STATE_ARRAYS),
) -> TrainingState:
    """The state of `values` (numbers and schedule) and `moments`, from the members `sources`."""
    text, arrays = sources
    for name, accepts in _STATE_NUMBERS.items():
        if not accepts(values[name]):
            raise ArchiveError(f"{text}: {name}: got {values[name]!r}, want a number")
    if not isinstance(values["schedule"], dict):
        raise ArchiveError(f"{text}: schedule: got {type(values['schedule']).__name__}, want an object")
    fields: dict[str, Any] = {name: values[name] for name in (*_STATE_NUMBERS, "schedule")}
    for field in _MOMENTS:
        fields[field] = _checked_moments(moments[field], config, arrays)
    return TrainingState(**fields)


def _checked_moments(moments: Weights, config: ModelConfig, source: str = STATE_ARRAYS) -> dict[str, NDArray]:
    """Only trained weights have moments, so some may be absent; training in float64 has float64 ones."""
    shapes = weight_shapes(config)
    if unknown := [name for name in moments if name not in shapes]:
        raise ArchiveError(f"{source}: unknown {', '.join(unknown)}")
    checked = {}
    for name in (name for name in shapes if name in moments):
        array = np.asarray(moments[name], order="C")
        single = weight_dtype(name)
        double = np.dtype(np.complex128 if single.kind == "c" else np.float64)
        if array.shape != shapes[name] or array.dtype not in (single, double):
            got = f"{array.dtype} {array.shape}"
            raise ArchiveError(f"{source}: {name}: got {got}, want {single} {shapes[name]}")
        checked[name] = array
    return checked


@dataclass(frozen=True, eq=False)
class ArchiveContents:
    """Content of a whole archive; reading it has changed nothing yet."""

    model: TrainedModel
    params: Mapping[str, Any]
    """The snapshot of `params.cfg`, brought into line with `model`."""
