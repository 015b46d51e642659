"""Archives that the legacy package PtychoPINN (TensorFlow) loads, written without Keras and dill."""

import io
import json
import math
import os
import pickle
import secrets
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive import members as member
from ptycho_backends.archive.genuine_archive import MANIFEST, SHARING, TRAINED, VERSION, layer_numbers
from ptycho_backends.archive.genuine_graph import MODEL_NAMES, graph_json, group_names, ordered_nodes
from ptycho_backends.config import ATTENTION_FIELDS, ModelConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.params import params
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE
from ptycho_backends.values import TrainedModel

# The version whose format this is; Keras reads files of older versions.
KERAS_VERSION = "3.15.1"

# The legacy package writes protocol 4, and every Python that it runs on reads it.
_PICKLE_PROTOCOL = 4
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_FIRST_KERNEL = "encoder/block0/conv0/kernel"


def write_genuine_archive(model: TrainedModel, path: str | os.PathLike[str]) -> Path:
    """Write `model` as an archive for PtychoPINN, which then predicts the same from the same scan.

    PtychoPINN knows one intensity scale where a trained model here has two: the one that measured
    amplitudes are multiplied by, and the learnt one that the network divides by. It is given the learnt
    one; if the two differ, their ratio is worked into the first kernel, which is exact but for rounding.

    Parameters
    ----------
    model : TrainedModel
        Its training state and history have no place in that format and are left out.
    path : path
        The zip to write; PtychoPINN wants the name `wts.h5.zip`.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ConfigError
        As `save_archive`; and for an architecture, several modes or several probes, which PtychoPINN does not have.
    ArchiveError
        As `save_archive`.
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    config = member.ConfigMember.of(model)
    architecture = config.training.model.architecture
    if architecture != "cnn":
        raise ConfigError(
            f"architecture: got {architecture!r}, but an archive of PtychoPINN holds 'cnn' alone; save the model "
            "as an archive of this library, or train one with architecture='cnn'"
        )
    for name in ("n_probe_modes", "n_probes"):
        if (count := getattr(config.training.model, name)) != 1:
            raise ConfigError(
                f"{name}: got {count}, but an archive of PtychoPINN holds one mode of one probe; save the model as an "
                f"archive of this library, or train one with {name}=1"
            )
    weights = member.checked_weights(config.training.model, model.weights)
    scale, weights = _with_one_scale(config.intensity_scale, weights)
    files = {MANIFEST: _pickled({"models": [TRAINED, SHARING], "version": VERSION})}
    pickled_params = _pickled(_plain_params(config, scale, weights))
    for name in (SHARING, TRAINED):
        files |= {
            # PtychoPINN adds the classes that it does not find here.
            f"{name}/custom_objects.dill": _pickled({}),
            f"{name}/model.keras": _keras_file(config.training.model, name, weights),
            f"{name}/model.h5": _scale_file(scale),
            f"{name}/params.dill": pickled_params,
        }
    target = Path(path)
    with replaced_atomically(target) as stream:
        _write_zip(stream, files, zipfile.ZIP_DEFLATED)
    return target


def _with_one_scale(fed: float, weights: Mapping[str, NDArray]) -> tuple[float, dict[str, NDArray]]:
    learnt = weights[LOG_SCALE]
    if np.float32(math.log(fed)) == learnt:
        return fed, dict(weights)
    scale = math.exp(float(learnt))
    kernel = weights[_FIRST_KERNEL].astype(np.float64) * (fed / scale)
    return scale, {**weights, _FIRST_KERNEL: kernel.astype(np.float32)}


def _pickled(value: dict[str, Any]) -> bytes:
    return pickle.dumps(value, protocol=_PICKLE_PROTOCOL)


def _plain_params(
    config: member.ConfigMember, scale: float, weights: Mapping[str, NDArray]
) -> dict[str, Any]:
    """`params.cfg` of the model in values that any pickle reader knows; others are left out."""
    snapshot = params.snapshot(config.training)
    plain = {}
    for key, value in snapshot.items():
        value = value.item() if isinstance(value, np.generic) else value
        if key not in ATTENTION_FIELDS and (value is None or type(value) in (bool, int, float, str)):
            plain[key] = value
    plain[PROBE] = np.array(weights[PROBE])[..., np.newaxis]
    return {**plain, "intensity_scale": scale, "_version": VERSION}


def _keras_file(config: ModelConfig, model: str, weights: Mapping[str, NDArray]) -> bytes:
    saved = datetime.now(UTC).strftime("%Y-%m-%d@%H:%M:%S")
    stream = io.BytesIO()
    files = {
        "metadata.json": json.dumps({"keras_version": KERAS_VERSION, "date_saved": saved}).encode(),
        "config.json": json.dumps(graph_json(config, model)).encode(),
        "model.weights.h5": _weights_file(config, model, weights),
    }
    _write_zip(stream, files, zipfile.ZIP_STORED)
    return stream.getvalue()


def _weights_file(config: ModelConfig, model: str, weights: Mapping[str, NDArray]) -> bytes:
    import h5py  # late: only those who write need the C library

    nodes = ordered_nodes(config, model)
    layers = {f"conv2d_{n}" if n else "conv2d": layer for layer, n in layer_numbers(config).items()}
    with h5py.File(f"in-memory-{secrets.token_hex(8)}", "w", driver="core", backing_store=False) as file:
        file.create_group("vars").attrs["name"] = MODEL_NAMES[model]
        for name, group in group_names(nodes).items():
            variables = file.create_group(f"layers/{group}/vars")
            variables.attrs["name"] = name
            if layer := layers.get(name):
                variables.create_dataset("0", data=weights[f"{layer}/kernel"])
                variables.create_dataset("1", data=weights[f"{layer}/bias"])
        file.flush()
        return file.id.get_file_image()


def _scale_file(scale: float) -> bytes:
    import h5py

    with h5py.File(f"in-memory-{secrets.token_hex(8)}", "w", driver="core", backing_store=False) as file:
        file.attrs["intensity_scale"] = np.float64(scale)
        file.flush()
        return file.id.get_file_image()


def _write_zip(stream: IO[bytes], files: Mapping[str, bytes], compression: int) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o644 << 16
            info.compress_type = compression
            archive.writestr(info, data)
