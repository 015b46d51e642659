"""Models of PtychoPINN's own PyTorch port: its archives (`2.0-pytorch`) and its Lightning checkpoints.

Their network is `attention` with one feature channel set aside for the border for each pattern of a group, CBAM
behind the encoder's blocks and no `edge_pad`. Its perceptrons may be narrower than here, and are widened with units
that are always zero; CBAM's convolutions have no bias, and take the maximum before the mean. Neither file holds a
probe.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive import members as member
from ptycho_backends.archive.members import ArchiveContents
from ptycho_backends.builtin_backends import backend_of_framework
from ptycho_backends.config import ModelConfig, TrainingConfig, from_values, raise_if_any, validate
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.files.budget import MAX_PICKLE_BYTES
from ptycho_backends.files.data_pickle import load_data
from ptycho_backends.files.safe_zip import Members, ZipMembers
from ptycho_backends.files.torch_file import StoredTensor, TorchFile
from ptycho_backends.params import bridge, params
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, weight_shapes
from ptycho_backends.reference.probe import default_probe, intensity_scale, normalise_probe
from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)

VERSION = "2.0-pytorch"
WRITER = backend_of_framework("lightning")
MODEL = "diffraction_to_obj"
WEIGHTS = f"{MODEL}/model.pth"
PARAMS = f"{MODEL}/params.dill"
CONFIGS = "torch_scaling_metadata.pt"
"""Member with the port's four configurations."""

CURE = "use the port itself for it, or train a model here"

_PREFIX = "model.autoencoder."
_OTHERS = "model.forward_model."
_CBAM = {
    "cbam/mlp0": "ChannelGate.mlp.1",
    "cbam/mlp1": "ChannelGate.mlp.3",
    "cbam/spatial": "SpatialGate.compress",
}
_DECODERS = {"amplitude": ("decoder_amp", "amp"), "phase": ("decoder_phase", "phase")}
_HEADS = {"inner_head": "conv1", "border_head": "conv2"}
_KINDS = {"kernel": "weight", "bias": "bias"}

# Settings of the network that were compared with recorded outputs; no other value is guessed at.
_KNOWN = {
    "architecture": "cnn", "mode": "Unsupervised", "cnn_output_mode": "amp_phase",
    "physics_forward_mode": "amplitude", "use_shared_decoder": False, "batch_norm": False,
    "cbam_encoder": True, "cbam_bottleneck": False, "cbam_decoder": False, "eca_encoder": False,
    "eca_decoder": False, "spatial_decoder": False, "object_big": True, "probe_big": True, "pad_object": True,
}  # fmt: skip
_MODEL_FIELDS = (
    "n_filters_scale", "amp_activation", "offset", "max_position_jitter", "gaussian_smoothing_sigma",
    "cbam_encoder", "object_big", "probe_big", "pad_object",
)  # fmt: skip
_DATA_FIELDS = ("nphotons", "normalize", "data_scaling", "phase_subtraction")
_COPIES = 4


def is_port_version(manifest: Any) -> bool:
    """Recognise the manifest of an archive that the port wrote."""
    version = manifest.get("version") if isinstance(manifest, dict) else None
    return type(version) is str and version == VERSION


def is_port_checkpoint(content: Any) -> bool:
    """Recognise the content of a checkpoint of the port: its configurations, and weights under its names."""
    if type(content) is not dict or type(content.get("hyper_parameters")) is not dict:
        return False
    weights = content.get("state_dict")
    return "model_config" in content["hyper_parameters"] and (
        type(weights) is dict and any(type(name) is str and name.startswith(_PREFIX) for name in weights)
    )


def read_port_archive(members: Members) -> ArchiveContents:
    """The model of an archive of the port, with the default probe and without a history.

    Raises
    ------
    ArchiveError
        If a member is damaged or hostile, or the model is one that this library does not have.
    """
    # every member to its end, so that damage anywhere is found
    for name in members.sizes:
        if members.packed:
            members.read(name, member.MAX_WEIGHTS_BYTES)
    legacy = load_data(members.read(PARAMS, MAX_PICKLE_BYTES), PARAMS)
    if not isinstance(legacy, dict) or not all(type(key) is str for key in legacy):
        raise ArchiveError(f"{PARAMS}: want a dictionary")
    if CONFIGS not in members.sizes:
        raise ArchiveError(
            f"{CONFIGS}: missing, and with it the settings of the network; save the model again with a newer "
            f"release of the port, or {CURE}"
        )
    configs = _torch_file(members, CONFIGS, MAX_PICKLE_BYTES).content
    model = _model(_torch_file(members, WEIGHTS, member.MAX_WEIGHTS_BYTES), None, configs, CONFIGS)
    snapshot = {**params.defaults(), **{key: value for key, value in legacy.items() if key != "_version"}}
    return ArchiveContents(model, _completed(snapshot, model))


def port_checkpoint(file: TorchFile) -> TrainedModel:
    """The model of a checkpoint of the port, with the default probe and without a history or resume state.

    Raises
    ------
    ArchiveError
        As `read_port_archive`.
    """
    return _model(file, file.content["state_dict"], file.content["hyper_parameters"], file.pickle)


def port_heading(members: Members) -> dict[str, Any]:
    """Heading of a summary of an archive."""
    return {
        "format": "PtychoPINN, PyTorch port", "version": VERSION, "backend": WRITER, "libraries": {},
        "created": "", "models": tuple(name for name in (MODEL, "autoencoder") if f"{name}/model.pth" in members.sizes),
    }  # fmt: skip


def _completed(snapshot: dict[str, Any], model: TrainedModel) -> dict[str, Any]:
    bridge.update_legacy_dict(snapshot, model.config)
    snapshot["intensity_scale"] = model.intensity_scale
    snapshot[PROBE] = np.array(model.probe)[..., np.newaxis]
    return snapshot


def _torch_file(members: Members, name: str, limit: int) -> TorchFile:
    try:
        # torch.save writes zip64 however small the file is
        return TorchFile(ZipMembers(BytesIO(members.read(name, limit)), zip64=True, budget=members.budget))
    except ArchiveError as error:
        raise ArchiveError(f"{name}: {error}") from error


def _model(file: TorchFile, state: Any, configs: Any, source: str) -> TrainedModel:
    state = file.content if state is None else state
    tensors = _tensors(state, source)
    config = _config(configs, tensors, source)
    file.read_storages(member.weights_limit(config.model, copies=_COPIES, source=source))
    weights = {
        name: _canonical(name, shape, file.array(tensors[_port_name(name)]))
        for name, shape in weight_shapes(config.model).items()
        if _port_name(name) in tensors
    }
    expected = {_port_name(name) for name in weight_shapes(config.model)}
    if unknown := sorted(set(tensors) - expected):
        raise ArchiveError(
            f"{source}: unknown {unknown[0]:.80}; the network is none of this library's; {CURE}"
        )
    for name, shape in weight_shapes(config.model).items():
        if name.endswith("/cbam/spatial/bias"):
            weights[name] = np.zeros(shape, np.float32)
    assert config.nphotons is not None
    scale = intensity_scale(config.nphotons, config.model.N)
    weights[LOG_SCALE] = np.asarray(math.log(scale), np.float32)
    weights[PROBE] = normalise_probe(default_probe(config.model.N), config.model.probe_scale)
    log.warning(
        "%s: a file of PtychoPINN's PyTorch port, which holds no probe; the default one stands in, so objects are the "
        "port's, and predicted patterns are not",
        source,
    )
    weights = member.checked_weights(config.model, weights, source=source)
    return TrainedModel(config=config, weights=weights, intensity_scale=scale, backend=WRITER)


def _tensors(state: Any, source: str) -> dict[str, StoredTensor]:
    """The network's tensors by the port's names without their prefix; those of the forward model are left out."""
    if type(state) is not dict or not all(type(name) is str for name in state):
        raise ArchiveError(f"{source}: want a dictionary of weights")
    found = {}
    for name, value in state.items():
        if name.startswith(_OTHERS):
            continue
        if type(value) is not StoredTensor or value.storage.dtype.kind != "f":
            raise ArchiveError(f"{source}: {name:.80}: want a tensor of real numbers")
        found[name.removeprefix(_PREFIX)] = value
    return found


def _config(configs: Any, tensors: Mapping[str, StoredTensor], source: str) -> TrainingConfig:
    parts = [configs.get(f"{part}_config") if type(configs) is dict else None for part in ("model", "data")]
    network, data = parts
    if type(network) is not dict or type(data) is not dict:
        raise ArchiveError(f"{source}: model_config or data_config missing, want the port's configurations")
    training = configs.get("training_config")
    training = training if type(training) is dict else {}
    wrong = [
        f"{name}={network[name]!r:.40}"
        for name, known in _KNOWN.items()
        if name in network and (type(network[name]) is not type(known) or network[name] != known)
    ]
    if wrong:
        raise ArchiveError(
            f"{source}: a model of PtychoPINN's PyTorch port with {', '.join(wrong)}, which this library does not "
            f"have or was not compared with; {CURE}"
        )
    inner = tensors.get("decoder_amp.amp.conv1.weight")
    features = tensors.get("decoder_amp.amp.conv_up_block.conv1.weight")
    if inner is None or features is None or len(inner.shape) != 4 or len(features.shape) != 4:
        raise ArchiveError(
            f"{source}: decoder_amp.amp.conv1 missing; the network is none of this library's; {CURE}"
        )
    aside, kept = features.shape[1], inner.shape[1]
    grid = data.get("grid_size")
    values = {name: network[name] for name in _MODEL_FIELDS if name in network} | {
        "N": data.get("N"),
        "gridsize": grid[0] if type(grid) is tuple and grid else None,
        "architecture": "attention",
        "edge_pad": 0,
        "decoder_last_c_outer_fraction": aside / max(aside + kept, 1),
        "probe_scale": data.get("probe_scale", ModelConfig.probe_scale),
    }
    run = {name: data[name] for name in _DATA_FIELDS if name in data} | {
        "batch_size": training.get("batch_size", TrainingConfig.batch_size),
        "nepochs": training.get("epochs", TrainingConfig.nepochs),
        "n_groups": training.get("n_groups", TrainingConfig.n_groups),
        "backend": WRITER,
    }
    try:
        model, problems = from_values(ModelConfig, values)
        config, more = from_values(TrainingConfig, run)
        raise_if_any("configurations", problems + more)
        config.model = model
        config.neighbor_count = max(config.neighbor_count, model.group_size)
        validate(config)
    except ConfigError as error:
        raise ArchiveError(f"{source}: {error}") from error
    member.require_modest(config, source)
    if not model.N or config.nphotons is None:
        raise ArchiveError(f"{source}: N or nphotons missing, want the port's configurations")
    return config


def _port_name(name: str) -> str:
    """The port's name, without its prefix, of a canonical weight; empty where it has none."""
    layer, _, kind = name.rpartition("/")
    if name in (LOG_SCALE, PROBE) or name.endswith("/cbam/spatial/bias"):
        return ""
    part, _, rest = layer.partition("/")
    place = ".".join(_places(part, rest))
    return f"{place}.{_KINDS[kind]}"


def _places(part: str, rest: str) -> Iterator[str]:
    if part == "encoder":
        yield "encoder.blocks"
    else:
        decoder, head = _DECODERS[part]
        yield decoder
        if rest in _HEADS:
            yield f"{head}.{_HEADS[rest]}"
            return
        if rest.startswith("border/"):
            yield f"{head}.conv_up_block"
        else:
            yield "blocks"
    block, _, layer = rest.partition("/")
    if block != "border":
        yield block.removeprefix("block")
    if layer in _CBAM:
        yield f"attention.{_CBAM[layer]}"
    else:
        yield f"conv{int(layer.removeprefix('conv')) + 1}"


def _canonical(name: str, shape: tuple[int, ...], value: NDArray) -> NDArray:
    """A weight from the port's layout: kernels (out, in, ...), the narrow perceptron widened with zeros."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    if name.endswith("/cbam/spatial/kernel"):
        # mean before maximum
        value = value[:, :, ::-1]
    if "/cbam/mlp" in name and value.ndim == len(shape):
        missing = [(0, max(want - have, 0)) for want, have in zip(shape, value.shape, strict=True)]
        value = np.pad(value, missing)
    return np.array(value, np.float32, order="C")
