"""Archives of the legacy package PtychoPINN (TensorFlow), read as models; those of its port go to `port_model`.

Needs neither TensorFlow nor dill: the pickles are read as data, and of the Keras files only the HDF5 part.
"""

import math
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.archive import members as member
from ptycho_backends.archive.members import ArchiveContents
from ptycho_backends.archive.port_model import VERSION as PORT_VERSION
from ptycho_backends.archive.port_model import is_port_version, port_heading, read_port_archive
from ptycho_backends.builtin_backends import backend_of_framework
from ptycho_backends.config import ModelConfig, TrainingConfig, validate
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.files import exact_json
from ptycho_backends.files.budget import MAX_PICKLE_BYTES
from ptycho_backends.files.data_pickle import load_data
from ptycho_backends.files.safe_hdf5 import Hdf5Arrays
from ptycho_backends.files.safe_zip import Members, ZipMembers
from ptycho_backends.params import bridge, params
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, layer_channels, weight_shapes
from ptycho_backends.values import TrainedModel

VERSION = "1.0"
WRITER = backend_of_framework("keras")
"""Backend that counts as the maker of the model: the package's own framework."""
MANIFEST = "manifest.dill"
TRAINED, SHARING = "autoencoder", "diffraction_to_obj"
# The third file names Python classes and the fourth repeats the scale; both are checked to be whole only.
FILES = ("model.keras", "params.dill", "custom_objects.dill", "model.h5")

_GRAPH_BYTES = 64 << 20
# The trained model's file also holds the optimizer's two moments of every weight.
_COPIES = 3


def layer_numbers(config: ModelConfig) -> dict[str, int]:
    """`{layer: number}`: the legacy package's number of each layer of `layer_channels`, from 0.

    Both heads of a decoder take a number whether or not they are used.
    """
    present = layer_channels(config)
    blocks = range(len(constants.ENCODER_FILTERS[config.N]))
    order = [f"encoder/block{i}/conv{j}" for i in blocks for j in range(2)]
    has_border = config.probe_big or not config.pad_object
    for decoder in ("amplitude", "phase"):
        order += [f"{decoder}/inner_head", f"{decoder}/border_head"]
        blocks = range(len(constants.DECODER_FILTERS[config.N]))
        order += [f"{decoder}/block{i}/conv{j}" for i in blocks for j in range(2)]
        order += [f"{decoder}/border/conv{j}" for j in range(2)] if has_border else []
    return {layer: number for number, layer in enumerate(order) if layer in present}


def read_genuine(members: Members) -> ArchiveContents:
    """The model of a genuine archive, without a history, because PtychoPINN stores none.

    Raises
    ------
    ArchiveError
        If a member is damaged or hostile, or the model is one that this library does not have.
    """
    if is_port(members):
        return read_port_archive(members)
    models = _announced_models(members)
    # Every member is read to its end before any is used, so that damage anywhere is found.
    for folder in models:
        for file in FILES[2:]:
            members.read(f"{folder}/{file}", MAX_PICKLE_BYTES)
    name = f"{TRAINED}/params.dill"
    legacy = load_data(members.read(name, MAX_PICKLE_BYTES), name)
    config = _config(name, legacy)
    scale = _intensity_scale(name, legacy)
    weights = _weights(members, TRAINED, config.model)
    weights[LOG_SCALE] = np.asarray(math.log(scale), np.float32)
    weights[PROBE] = _probe(name, legacy, config.model.N)
    weights = member.checked_weights(config.model, weights, source=TRAINED)
    if SHARING in models:
        members.read(f"{SHARING}/params.dill", MAX_PICKLE_BYTES)
        _require_shared(_weights(members, SHARING, config.model), weights)
    model = TrainedModel(config=config, weights=weights, intensity_scale=scale, backend=WRITER)
    return ArchiveContents(model, _params_snapshot(legacy, model))


def is_port(members: Members) -> bool:
    """Recognise, among archives with the legacy manifest, those of PtychoPINN's PyTorch port."""
    return is_port_version(load_data(members.read(MANIFEST, MAX_PICKLE_BYTES), MANIFEST))


def genuine_heading(members: Members) -> dict[str, Any]:
    """Heading of a summary; tolerant of missing values, because only people read it."""
    if is_port(members):
        return port_heading(members)
    models = _announced_models(members)
    heading = {"format": "PtychoPINN", "version": VERSION, "backend": WRITER, "models": models}
    try:
        name = f"{TRAINED}/model.keras"
        keras = ZipMembers(BytesIO(members.read(name, member.MAX_WEIGHTS_BYTES)), budget=members.budget)
        metadata = exact_json.plain_loads(keras.read("metadata.json", member.MAX_TEXT_BYTES), name)
        keras_version, created = str(metadata["keras_version"]), str(metadata["date_saved"])
    except (ArchiveError, KeyError, TypeError):
        return heading | {"libraries": {}, "created": ""}
    return heading | {"libraries": {"keras": keras_version}, "created": created}


def _announced_models(members: Members) -> tuple[str, ...]:
    manifest = load_data(members.read(MANIFEST, MAX_PICKLE_BYTES), MANIFEST)
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if type(version) is not str or version != VERSION:
        raise ArchiveError(
            f"{MANIFEST}: version: got {_shown(version)}, want {VERSION!r} or {PORT_VERSION!r}"
        )
    models = manifest.get("models")
    known = isinstance(models, list) and all(type(model) is str for model in models)
    if not known or TRAINED not in models or set(models) - {TRAINED, SHARING}:
        raise ArchiveError(f"{MANIFEST}: models: got {_shown(models)}, want [{TRAINED!r}, {SHARING!r}]")
    wanted = {f"{model}/{file}" for model in models for file in FILES}
    if missing := sorted(wanted - set(members.sizes)):
        raise ArchiveError(f"{missing[0]}: missing")
    if members.packed and (extra := sorted(set(members.sizes) - wanted - {MANIFEST})):
        raise ArchiveError(f"{extra[0]}: unknown")
    return tuple(models)


# --- params.dill


def _config(name: str, legacy: Any) -> TrainingConfig:
    if not isinstance(legacy, dict) or not all(type(key) is str for key in legacy):
        raise ArchiveError(f"{name}: want a dictionary")
    architecture = legacy.get("architecture", "cnn")
    if type(architecture) is not str or architecture != "cnn":
        raise ArchiveError(f"{name}: architecture {_shown(architecture)} is not supported, only 'cnn' is")
    try:
        config = bridge.training_config_from_legacy_dict({**legacy, "backend": WRITER})
        validate(config)
    except ConfigError as error:
        raise ArchiveError(f"{name}: {error}") from error
    member.require_modest(config, name)
    return config


def _intensity_scale(name: str, legacy: Mapping[str, Any]) -> float:
    value = legacy.get("intensity_scale")
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iuf":
        is_number = True
    scale = float(np.asarray(value).item()) if is_number else math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise ArchiveError(f"{name}: intensity_scale: got {_shown(value)}, want a number > 0")
    return scale


def _probe(name: str, legacy: Mapping[str, Any], side: int) -> NDArray:
    probe = legacy.get(PROBE)
    if not isinstance(probe, np.ndarray) or probe.shape not in ((side, side, 1), (side, side)):
        raise ArchiveError(f"{name}: probe: got {_shown(probe)}, want shape ({side}, {side}, 1)")
    if probe.dtype.kind != "c":
        raise ArchiveError(f"{name}: probe: got {probe.dtype}, want complex64")
    return probe.astype(np.complex64).reshape(side, side)


def _shown(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.80}"


def _params_snapshot(legacy: Mapping[str, Any], model: TrainedModel) -> dict[str, Any]:
    snapshot = {**params.defaults(), **{key: value for key, value in legacy.items() if key != "_version"}}
    bridge.update_legacy_dict(snapshot, model.config)
    snapshot["intensity_scale"] = model.intensity_scale
    snapshot[PROBE] = np.array(model.probe)[..., np.newaxis]
    return snapshot


# --- model.keras


def _weights(members: Members, model: str, config: ModelConfig) -> dict[str, NDArray]:
    """Kernels and biases by their canonical names; shapes are checked, values are not."""
    name = f"{model}/model.keras"
    limit = member.weights_limit(config, copies=_COPIES, source=f"{TRAINED}/params.dill") + _GRAPH_BYTES
    try:
        keras = ZipMembers(BytesIO(members.read(name, limit)), budget=members.budget)
        inner = "model.weights.h5"
        layers = _numbered_layers(keras.read(inner, limit), inner)
        return _canonical(layers, config)
    except ArchiveError as error:
        if str(error).startswith(f"{model}/"):
            raise
        raise ArchiveError(f"{name}: {error}") from error


def _numbered_layers(data: bytes, member_name: str) -> dict[int, dict[str, NDArray]]:
    """`{number: {'kernel': ..., 'bias': ...}}` of the convolutions, numbered from 0."""
    arrays = Hdf5Arrays(data, member_name, group="layers", with_names=True)
    found: dict[int, dict[str, NDArray]] = {}
    for path in arrays:
        # layers/<group>/vars/<0 or 1>; the group counts in graph order, its attribute names the layer
        group, _, variable = path.rpartition("/vars/")
        label = arrays.names.get(f"{group}/vars", arrays.names.get(group, ""))
        number = re.fullmatch(r"conv2d(?:_([0-9]{1,9}))?", label)
        if not number or variable not in ("0", "1"):
            raise ArchiveError(f"{path}: layer {label or '?'!r} is not one of a 'cnn' that this library has")
        layer = found.setdefault(int(number[1] or 0), {})
        kind = "kernel" if variable == "0" else "bias"
        if kind in layer:
            raise ArchiveError(f"{path}: a second layer of the name {label!r}")
        layer[kind] = arrays[path]
    # A file that was written late in a process starts with a higher number.
    first = min(found, default=0)
    return {number - first: layer for number, layer in found.items()}


def _canonical(layers: Mapping[int, Mapping[str, NDArray]], config: ModelConfig) -> dict[str, NDArray]:
    shapes, numbers = weight_shapes(config), layer_numbers(config)
    if layers.keys() != set(numbers.values()):
        raise ArchiveError(
            f"convolutions {sorted(layers)}, want {sorted(numbers.values())} for the parameters given; "
            "this architecture is not supported"
        )
    weights: dict[str, NDArray] = {}
    for layer, number in numbers.items():
        for kind in ("kernel", "bias"):
            name, values = f"{layer}/{kind}", layers[number].get(kind)
            if values is None:
                raise ArchiveError(f"convolution {number}: {kind} missing")
            if values.shape != shapes[name] or values.dtype != np.float32:
                got = f"{values.dtype} {values.shape}"
                raise ArchiveError(f"convolution {number}: {kind}: got {got}, want float32 {shapes[name]}")
            weights[name] = values
    return weights


def _require_shared(weights: Mapping[str, NDArray], trained: Mapping[str, NDArray]) -> None:
    for name, values in weights.items():
        if not np.array_equal(values, trained[name]):
            raise ArchiveError(f"{SHARING}/model.keras: {name} differs from that of {TRAINED}")
