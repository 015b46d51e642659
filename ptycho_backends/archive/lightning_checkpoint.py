"""Lightning's `.ckpt` files that the PyTorch backend writes, to neutral models; needs no framework.

Weights and Adam's moments are tensors in them; everything else is one JSON text under `CHECKPOINT_KEY`.
"""

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive import members as member
from ptycho_backends.archive.port_model import is_port_checkpoint, port_checkpoint
from ptycho_backends.builtin_backends import backend_of_framework
from ptycho_backends.config import TrainingConfig, config_from_plain, validate
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.files import exact_json
from ptycho_backends.files.budget import DAMAGE, only
from ptycho_backends.files.safe_zip import ZipMembers, open_zip
from ptycho_backends.files.torch_file import StoredTensor, TorchFile
from ptycho_backends.reference.initial_weights import PROBE, weight_dtype, weight_shapes
from ptycho_backends.values import EpochRecord, TrainedModel

SUFFIX = ".ckpt"
WRITER = backend_of_framework("lightning")
"""Backend that made the model: the format is Lightning's, so there is no other."""
CHECKPOINT_KEY = "ptycho_backends"
PARAMETER_PREFIX = "model.parameters_by_name."

# Weights and two moments, all of them perhaps in float64.
_COPIES = 3
_MOMENTS = {"first_moments": "exp_avg", "second_moments": "exp_avg_sq"}


def is_checkpoint(path: Path) -> bool:
    """Recognise a checkpoint by the suffix that Lightning gives it."""
    return path.suffix.lower() == SUFFIX


def load_checkpoint(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a checkpoint that the PyTorch backend or PtychoPINN's port wrote; `params.cfg` stays as it is.

    Returns
    -------
    TrainedModel
        With its `training_state`, so that training goes on from it, on any backend; a model of the port has none.

    Raises
    ------
    ArchiveError
        If the file is damaged or hostile, or was written by neither; the text names the member
        and the reason.
    """
    with _opened(Path(path)) as checkpoint:
        return checkpoint.model()


def checkpoint_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object under `CHECKPOINT_KEY` alone, unchecked beyond being one; empty for a file of the port.

    Raises
    ------
    ArchiveError
        As `load_checkpoint`.
    """
    with _opened(Path(path)) as checkpoint:
        return checkpoint.values


def checkpoint_heading(path: Path) -> dict[str, Any]:
    """Heading of a summary, by the names of `archive.ArchiveSummary`, without loading the checkpoint."""
    with _opened(path) as checkpoint:
        version = str(checkpoint.content.get("pytorch-lightning_version", "unknown"))
        return {
            "format": "Lightning checkpoint" + (" of PtychoPINN's port" if checkpoint.is_of_port else ""),
            "version": version,
            "backend": WRITER,
            "libraries": {"lightning": version},
            "created": "",
            "members": checkpoint.sizes(),
        }


def canonical_weight(name: str, value: NDArray) -> NDArray:
    """The weight `name`, or one of its moments, from the layout it has in PyTorch: a copy.

    Kernels are (out, in, height, width) there, and the complex probe (..., N, N, 2) real numbers.
    """
    if name == PROBE:
        # a view, because a sum with i times the imaginary part loses the signs of zeros
        pairs = np.array(value, order="C")
        return pairs.view(np.result_type(pairs.dtype, np.complex64))[..., 0]
    return np.array(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value, order="C")


@contextmanager
def _opened(path: Path) -> Iterator["_Checkpoint"]:
    # torch.save writes zip64 however small the file is
    with only(ArchiveError, path, "a readable checkpoint"), open_zip(path, zip64=True) as members:
        yield _Checkpoint(members)


class _Checkpoint:
    """A checkpoint of this library, of which the pickle has been read and nothing else."""

    def __init__(self, members: ZipMembers) -> None:
        self._members = members
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self.content: dict[Any, Any]
        self.values: dict[str, Any]
        self._file = TorchFile(members)
        self._text = f"{self._file.pickle}: {CHECKPOINT_KEY}"
        content = self._file.content
        self.is_of_port = is_port_checkpoint(content)
        if self.is_of_port:
            self.content, self.values = content, {}
            return
        text = content.get(CHECKPOINT_KEY) if type(content) is dict else None
        if type(text) is not str:
            raise ArchiveError(
                f"{self._text}: missing, so neither this library nor PtychoPINN's port wrote it"
            )
        self.content = content
        try:
            # unlike an archive's, it may have NaN in it: a loss that diverged
            self.values = exact_json.bounded_loads(text.encode(), self._text)
        except UnicodeEncodeError as error:
            raise ArchiveError(f"{self._text}: no text ({error.reason})") from error
        if type(self.values) is not dict:
            raise ArchiveError(f"{self._text}: got {type(self.values).__name__}, want an object")

    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Size of each member; those that tensors are in, hundreds perhaps, as one."""
        sizes = self._members.sizes
        storages = [size for name, size in sizes.items() if self._file.holds_numbers(name)]
        others = sorted((name, size) for name, size in sizes.items() if not self._file.holds_numbers(name))
        return (*others, (f"{len(storages)} storages", sum(storages)))

    def model(self) -> TrainedModel:
        try:
            return port_checkpoint(self._file) if self.is_of_port else self._model()
        except ArchiveError:
            raise
        # missing keys and values of other types; ConfigError is a ValueError
        except DAMAGE as error:
            reason = error if isinstance(error, ConfigError) else f"{type(error).__name__}: {error!s:.300}"
            raise ArchiveError(f"{self._file.pickle}: damaged ({reason})") from error

    def _model(self) -> TrainedModel:
        values = self.values
        config = config_from_plain(TrainingConfig, values["config"])
        validate(config)
        member.require_modest(config, self._text)
        if not config.model.N:
            raise ArchiveError(f"{self._text}: N: got 0, want the side of the patterns")
        # The configuration bounds the size of the rest.
        self._file.read_storages(member.weights_limit(config.model, copies=_COPIES, source=self._text))
        self._shapes = weight_shapes(config.model)
        scale = float(values["intensity_scale"])
        if not (math.isfinite(scale) and scale > 0):
            raise ArchiveError(f"{self._text}: intensity_scale: got {scale!r}, want a number > 0")
        moments, step = self._moments()
        numbers = {key: values[key] for key in ("epoch", "batches_done", "schedule")}
        return TrainedModel(
            config=config,
            weights=member.checked_weights(config.model, self._weights(), source=self._file.pickle),
            intensity_scale=scale,
            history=tuple(_record(row) for row in values["history"]),
            backend=WRITER,
            interrupted=len(values["history"]) < config.nepochs,
            training_state=member.checked_state(
                {**numbers, "step": step, "loss_sum": float(values["loss_sum"])},
                moments,
                config.model,
                sources=(self._text, self._file.pickle),
            ),
        )

    def _weights(self) -> dict[str, NDArray]:
        found = {}
        for full_name, tensor in self.content["state_dict"].items():
            name = full_name.removeprefix(PARAMETER_PREFIX)
            if name != full_name:
                with np.errstate(over="ignore"):  # a number beyond float32 is refused as infinite
                    found[name] = self._canonical(name, tensor).astype(weight_dtype(name), copy=False)
        return found

    def _moments(self) -> tuple[dict[str, dict[str, NDArray]], int]:
        """Adam's moments by canonical name, under the names of `TrainingState`; and the steps done."""
        optimizer = self.content["optimizer_states"][0]
        # numbered through all groups, in which the parameters stand in the order of their names
        groups = [group["params"] for group in optimizer["param_groups"]]
        names = self.values["trainable"]
        # counted first: a small pickle may have one long list many times
        count = sum(map(len, groups))
        if len(names) != count or len({*names}) != count:
            raise ArchiveError(
                f"{self._file.pickle}: optimizer_states: {count} parameters, want {len(names)} of as many names"
            )
        numbers = itertools.chain.from_iterable(groups)
        states = {
            name: optimizer["state"][number]
            for name, number in zip(names, numbers, strict=True)
            if number in optimizer["state"]
        }
        moments = {
            field: {name: self._canonical(name, state[key]) for name, state in states.items()}
            for field, key in _MOMENTS.items()
        }
        return moments, max((self._steps(state["step"]) for state in states.values()), default=0)

    def _canonical(self, name: str, tensor: Any) -> NDArray:
        if name not in self._shapes:
            raise ArchiveError(f"{self._file.pickle}: unknown {name:.80}")
        if type(tensor) is not StoredTensor or tensor.storage.dtype.kind != "f":
            raise ArchiveError(f"{self._file.pickle}: {name}: want a tensor of real numbers")
        # before anything is copied, because many names may stand for one large tensor
        want = (*self._shapes[name], 2) if name == PROBE else self._shapes[name]
        if len(tensor.shape) != len(want) or math.prod(tensor.shape) != math.prod(want):
            raise ArchiveError(
                f"{self._file.pickle}: {name}: got shape {tensor.shape}, want {want} reordered"
            )
        return canonical_weight(name, self._file.array(tensor))

    def _steps(self, step: Any) -> int:
        return int(self._file.array(step).item() if type(step) is StoredTensor else step)


def _record(row: Mapping[str, Any]) -> EpochRecord:
    val_loss = row["val_loss"]
    return EpochRecord(
        epoch=int(row["epoch"]),
        train_loss=float(row["train_loss"]),
        val_loss=None if val_loss is None else float(val_loss),
        learning_rate=float(row["learning_rate"]),
        seconds=float(row["seconds"]),
    )
