"""One file for a trained model, whichever backend made it: `save_archive`, `load_archive`, `inspect_archive`.

A file stores the mathematics (named weights, configuration, scale, probe), not a framework's objects, and no
pickle. All of it is checked before anything is handed out.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_backends.archive import members as member
from ptycho_backends.archive.genuine_archive import MANIFEST as GENUINE_MANIFEST
from ptycho_backends.archive.genuine_archive import genuine_heading, read_genuine
from ptycho_backends.archive.lightning_checkpoint import checkpoint_heading, is_checkpoint, load_checkpoint
from ptycho_backends.archive.members import ArchiveContents
from ptycho_backends.builtin_backends import framework_modules
from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ArchiveError, printable
from ptycho_backends.files import exact_json
from ptycho_backends.files.budget import only
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.files.safe_hdf5 import hdf5_bytes
from ptycho_backends.files.safe_zip import ARCHIVE_NAME, Members, open_members
from ptycho_backends.params import params
from ptycho_backends.reference.initial_weights import PROBE, main_mode
from ptycho_backends.values import EpochRecord, TrainedModel

FORMAT = "ptycho-backends model"
VERSION = "1.0"
MODELS = ("autoencoder", "diffraction_to_obj")

_REQUIRED = (member.CONFIG, member.PARAMS, member.WEIGHTS, member.HISTORY)
# A fixed time, so that the same model gives the same bytes; the manifest has the real one.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# Where files are read and written is for the host program to say, not for whoever made the model.
_PLACES = ("output_prefix", "train_data_file_path", "test_data_file_path", "model_path")
_LIBRARIES = ("numpy", "h5py", *framework_modules())


def save_archive(model: TrainedModel, path: str | os.PathLike[str]) -> Path:
    """Write `model` as an archive, atomically.

    Parameters
    ----------
    model : TrainedModel
        Its `training_state` is stored too, if there is one, so that training can go on.
    path : path
        The zip to write. A folder, or a path without a suffix, means `wts.h5.zip` in that folder.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ConfigError, ArchiveError
        If the model is one that could not be loaded again: an invalid configuration, weights that are
        missing, unknown, of the wrong shape, or not finite.
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    target = Path(path)
    if target.is_dir() or not target.suffix or str(path).endswith((os.sep, "/")):
        target = target / ARCHIVE_NAME
    members = _members_of(model)
    manifest = exact_json.dumps(_manifest(model, members))
    with replaced_atomically(target) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, data in {member.MANIFEST: manifest, **members}.items():
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o644 << 16
            # Weights hardly shrink, and take longer to compress than to write.
            packs = not name.endswith(".h5")
            info.compress_type = zipfile.ZIP_DEFLATED if packs else zipfile.ZIP_STORED
            archive.writestr(info, data)
    return target


def load_archive(path: str | os.PathLike[str]) -> TrainedModel:
    """Read an archive, ours or one that PtychoPINN (TensorFlow) wrote, and fill `params.cfg` from it.

    A Lightning checkpoint (`.ckpt`) that the PyTorch backend wrote is read too.

    Parameters
    ----------
    path : path
        The zip, a folder holding `wts.h5.zip`, a folder into which it was unpacked, or a zip holding it.

    Raises
    ------
    ArchiveError
        If anything is wrong with the file; the text names the member and the reason. Nothing is loaded
        in part, and `params.cfg` stays as it was.
    """
    contents = _read(Path(path))
    params.cfg.update({key: value for key, value in contents.params.items() if key not in _PLACES})
    return contents.model


def read_model(path: str | os.PathLike[str]) -> TrainedModel:
    """The model in an archive or a checkpoint; `params.cfg` stays as it is.

    Raises
    ------
    ArchiveError
        As `load_archive`.
    """
    return _read(Path(path)).model


def load_archive_history(path: str | os.PathLike[str]) -> tuple[EpochRecord, ...]:
    """The training history in an archive or a checkpoint; `params.cfg` stays as it is.

    Raises
    ------
    ArchiveError
        As `load_archive`.
    """
    return tuple(read_model(path).history)


def _read(path: Path) -> ArchiveContents:
    with only(ArchiveError, path, "a readable model"):
        if is_checkpoint(path):
            model = load_checkpoint(path)
            return ArchiveContents(model, _params_snapshot(member.ConfigMember.of(model), model.weights))
        with open_members(path) as members:
            if is_genuine(members):
                return read_genuine(members)
            return _read_members(members)


def is_genuine(members: Members) -> bool:
    """Recognise an archive that PtychoPINN wrote."""
    return GENUINE_MANIFEST in members.sizes and member.MANIFEST not in members.sizes


# --- writing


def _members_of(model: TrainedModel) -> dict[str, bytes]:
    config = member.ConfigMember.of(model)
    shape = config.training.model
    limit = member.weights_limit(shape)
    weights = member.checked_weights(shape, model.weights)
    members = {
        member.CONFIG: config.to_bytes(),
        member.PARAMS: member.params_to_bytes(_params_snapshot(config, weights)),
        member.HISTORY: member.history_to_bytes(model.history),
        member.WEIGHTS: hdf5_bytes(weights),
    }
    for name, data in members.items():
        allowed = limit if name == member.WEIGHTS else member.MAX_TEXT_BYTES
        if len(data) > allowed:
            raise ArchiveError(f"{name}: {len(data)} bytes, more than the {allowed} that can be read again")
    if model.training_state is not None:
        members |= member.state_to_bytes(model.training_state, shape)
    return members


def _params_snapshot(
    config: member.ConfigMember, weights: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`params.cfg` as it is for this model: its defaults, the values of an archive (`base`), the model's."""
    snapshot = params.snapshot(config.training, base)
    snapshot["intensity_scale"] = config.intensity_scale
    # (N, N, 1), as the legacy package has it; a copy, because its callers may write into the dictionary
    snapshot[PROBE] = np.array(main_mode(weights[PROBE]))[..., np.newaxis]
    return snapshot


def _manifest(model: TrainedModel, members: Mapping[str, bytes]) -> dict[str, Any]:
    # Only libraries that this process has imported took part in making the model.
    loaded = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in _LIBRARIES)
    libraries = {"ptycho-backends": _own_version(), "python": platform.python_version()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "backend": str(model.backend),
        "libraries": libraries | {name: str(version) for name, version in loaded if version},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": list(MODELS),
        "members": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in members.items()
        },
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("ptycho-backends")
    except importlib.metadata.PackageNotFoundError:  # run from its source folder
        return "unknown"


# --- reading


@dataclass(frozen=True)
class Manifest:
    """Announcement of an archive: its version, maker, models and members."""

    version: str
    backend: str
    libraries: Mapping[str, str]
    created: str
    models: tuple[str, ...]
    members: Mapping[str, tuple[str, int]]
    """SHA-256 and size of every other member."""

    @classmethod
    def read(cls, members: Members) -> "Manifest":
        if member.MANIFEST not in members.sizes:
            raise ArchiveError(f"{member.MANIFEST}: missing; this is no archive of a model")
        values = exact_json.plain_loads(members.read(member.MANIFEST, member.MAX_TEXT_BYTES), member.MANIFEST)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ArchiveError(f"{member.MANIFEST}: not the manifest of a {FORMAT!r}")
        _require_readable_version(values.get("version"))
        try:
            listed = {
                name: (_of_type(entry["sha256"], str), _of_type(entry["size"], int))
                for name, entry in values["members"].items()
            }
            libraries = {name: _of_type(text, str) for name, text in values["libraries"].items()}
            texts = {key: _of_type(values[key], str) for key in ("version", "backend", "created")}
            models = tuple(_of_type(name, str) for name in values["models"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"{member.MANIFEST}: malformed ({error})") from error
        if missing := [name for name in MODELS if name not in models]:
            raise ArchiveError(f"{member.MANIFEST}: model {', '.join(missing)} missing")
        return cls(**texts, libraries=libraries, models=models, members=listed)


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"got {value!r}, want a {kind.__name__}")
    return value


def _require_readable_version(version: Any) -> None:
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", version):
        raise ArchiveError(f"{member.MANIFEST}: version: got {version!r}, want one like {VERSION!r}")
    if int(version.partition(".")[0]) != int(VERSION.partition(".")[0]):
        raise ArchiveError(
            f"{member.MANIFEST}: version: got {version}, but this library reads {VERSION}; upgrade it"
        )


def _read_members(members: Members) -> ArchiveContents:
    manifest = Manifest.read(members)
    _require_listed(members, manifest)

    def checked(name: str, limit: int = member.MAX_TEXT_BYTES) -> bytes:
        sha256, size = manifest.members[name]
        if members.sizes[name] != size:
            raise ArchiveError(f"{name}: {members.sizes[name]} bytes, but the manifest says {size}")
        data = members.read(name, limit)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArchiveError(f"{name}: damaged; its SHA-256 checksum differs from the manifest's")
        return data

    # The configuration comes first: it bounds the size of the weights.
    config = member.ConfigMember.from_bytes(checked(member.CONFIG))
    shape = config.training.model
    data = {name: checked(name) for name in (member.PARAMS, member.HISTORY)}
    data[member.WEIGHTS] = checked(member.WEIGHTS, member.weights_limit(shape))
    state = None
    if member.STATE in manifest.members:
        text = checked(member.STATE)
        state = (text, checked(member.STATE_ARRAYS, member.weights_limit(shape, copies=2)))
    for name in set(manifest.members) - {*_REQUIRED, member.STATE, member.STATE_ARRAYS}:
        checked(name)  # from a newer minor version: not understood, but whole

    weights, arrays = member.weights_from_bytes(data[member.WEIGHTS], shape)
    snapshot = _params_snapshot(config, weights, member.params_from_bytes(data[member.PARAMS], arrays))
    model = TrainedModel(
        config=config.training,
        weights=weights,
        intensity_scale=config.intensity_scale,
        history=member.history_from_bytes(data[member.HISTORY]),
        backend=config.backend,
        interrupted=config.interrupted,
        training_state=member.state_from_bytes(*state, shape) if state else None,
    )
    return ArchiveContents(model, snapshot)


def _require_listed(members: Members, manifest: Manifest) -> None:
    wanted = set(manifest.members) | set(_REQUIRED)
    if (member.STATE in wanted) != (member.STATE_ARRAYS in wanted):
        wanted |= {member.STATE, member.STATE_ARRAYS}
    if missing := sorted(name for name in wanted if name not in members.sizes):
        raise ArchiveError(f"{missing[0]}: missing")
    if unlisted := sorted(name for name in wanted if name not in manifest.members):
        raise ArchiveError(f"{unlisted[0]}: not listed in {member.MANIFEST}")
    # Beside an unpacked archive there may be anything; a zip holds only its own members.
    if members.packed and (extra := sorted(set(members.sizes) - wanted - {member.MANIFEST})):
        raise ArchiveError(f"{extra[0]}: not listed in {member.MANIFEST}")


# --- summary


@dataclass(frozen=True)
class ArchiveSummary:
    """Content and maker of an archive, and the damage that was found in it."""

    path: Path
    format: str
    version: str
    backend: str
    libraries: Mapping[str, str]
    created: str
    models: tuple[str, ...]
    members: tuple[tuple[str, int], ...]
    """Name and size in bytes of each."""
    problem: str | None
    """Reason why the archive cannot be loaded; None if it is whole. Later fields are known only then."""
    config: TrainingConfig | None = None
    weight_count: int = 0
    """Arrays, log_scale and probe among them."""
    parameter_count: int = 0
    """Real numbers in them."""
    epochs: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    interrupted: bool = False
    resumable: bool = False

    @property
    def whole(self) -> bool:
        return self.problem is None

    def lines(self) -> list[tuple[str, str]]:
        """Rows of a table for people: label and value."""
        rows = [
            ("archive", str(self.path)),
            ("whole", "yes" if self.whole else f"no: {self.problem}"),
            ("format", f"{self.format} {self.version}"),
            ("backend", self.backend or "unknown"),
            ("made", self.created or "unknown"),
            ("with", ", ".join(f"{name} {version}" for name, version in self.libraries.items())),
            ("models", ", ".join(self.models)),
        ]
        if self.config is not None:
            rows += self._model_lines(self.config)
        return rows + [("member", f"{name}, {size:,} bytes") for name, size in self.members]

    def _model_lines(self, config: TrainingConfig) -> list[tuple[str, str]]:
        chosen = ", ".join(f"{name}={getattr(config.model, name)}" for name in config.model.own_fields)
        losses = {"train_loss": self.train_loss, "val_loss": self.val_loss}
        known = ", ".join(f"{name} {loss:.6g}" for name, loss in losses.items() if loss is not None)
        state = [
            text for text, true in (("interrupted", self.interrupted), ("resumable", self.resumable)) if true
        ]
        return [
            ("model", chosen),
            ("weights", f"{self.weight_count} arrays, {self.parameter_count:,} real numbers"),
            ("trained", ", ".join([f"{self.epochs} epochs recorded", *([known] if known else []), *state])),
        ]

    def __str__(self) -> str:
        # of a stranger's file, in which a line feed or an escape sequence may forge other lines
        return "\n".join(
            f"{label:<8} {printable(value).replace(chr(10), ' ')}" for label, value in self.lines()
        )


def inspect_archive(path: str | os.PathLike[str]) -> ArchiveSummary:
    """Read and check an archive or a checkpoint without using it; `params.cfg` stays as it is.

    Raises
    ------
    ArchiveError
        If the archive cannot be recognised: no zip, or no manifest. An archive that is damaged
        further in gives a summary with `problem`.
    """
    path = Path(path)
    heading = _heading(path)
    try:
        model = _read(path).model
    except ArchiveError as error:
        return ArchiveSummary(path, **heading, problem=str(error).removeprefix(f"{path}: "))
    last = model.history[-1] if model.history else None
    return ArchiveSummary(
        path,
        **heading,
        problem=None,
        config=model.config,
        weight_count=len(model.weights),
        parameter_count=sum(w.size * (2 if w.dtype.kind == "c" else 1) for w in model.weights.values()),
        epochs=len(model.history),
        train_loss=last.train_loss if last else None,
        val_loss=last.val_loss if last else None,
        interrupted=model.interrupted,
        resumable=model.training_state is not None,
    )


def _heading(path: Path) -> dict[str, Any]:
    with only(ArchiveError, path, "a readable model"):
        if is_checkpoint(path):
            return {**checkpoint_heading(path), "models": MODELS}
        with open_members(path) as members:
            return {**_archive_heading(members), "members": tuple(sorted(members.sizes.items()))}


def _archive_heading(members: Members) -> dict[str, Any]:
    if is_genuine(members):
        return genuine_heading(members)
    manifest = Manifest.read(members)
    shown = ("version", "backend", "libraries", "created", "models")
    return {"format": FORMAT, **{name: getattr(manifest, name) for name in shown}}
