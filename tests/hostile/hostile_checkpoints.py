"""Checkpoints as `torch.save` writes them, pickled without PyTorch, and some made to harm."""

import io
import json
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from hostile_parts import MB, Entry, model, zeros_deflated, zipped

from ptycho_backends.archive.lightning_checkpoint import CHECKPOINT_KEY, PARAMETER_PREFIX
from ptycho_backends.config import config_to_plain


def checkpoint_content() -> dict[str, Any]:
    trained = model()
    values = {
        "config": config_to_plain(trained.config), "intensity_scale": 31.25, "history": [], "epoch": 0,
        "batches_done": 0, "schedule": {}, "loss_sum": 0.0, "trainable": [],
    }  # fmt: skip
    state = {}
    for name, weight in trained.weights.items():
        value = np.stack([weight.real, weight.imag], -1) if weight.dtype.kind == "c" else weight
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 and weight.dtype.kind != "c" else value
        state[PARAMETER_PREFIX + name] = Tensor(np.array(value, np.float32, order="C"))
    return {
        CHECKPOINT_KEY: json.dumps(values), "pytorch-lightning_version": "2.6", "state_dict": state,
        "optimizer_states": [{"state": {}, "param_groups": [{"params": []}]}],
    }  # fmt: skip


class Tensor:
    """Stands for a tensor while a checkpoint is pickled without PyTorch."""

    def __init__(
        self, values: np.ndarray, shape: Any = None, strides: Any = None, length: Any = None
    ) -> None:
        self.values, self.shape = values, values.shape if shape is None else shape
        self.strides = tuple(stride // 4 for stride in values.strides) if strides is None else strides
        self.length = values.size if length is None else length


def checkpoint(content: Any) -> bytes:
    """A file as `torch.save` writes it."""
    storages: list[bytes] = []
    names = {"torch": ["FloatStorage"], "torch._utils": ["_rebuild_tensor_v2"]}
    known = {module: sys.modules.get(module) for module in names}
    for module, (name,) in names.items():
        fake: Any = types.ModuleType(module)
        thing = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(fake, name, thing)
        sys.modules[module] = fake
    rebuild: Any = sys.modules["torch._utils"]._rebuild_tensor_v2
    storage: Any = sys.modules["torch"].FloatStorage

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, _Storage):
                return None
            storages.append(value.tensor.values.tobytes())
            return ("storage", storage, str(len(storages) - 1), "cpu", value.tensor.length)

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, Tensor):
                return rebuild, (_Storage(value), 0, value.shape, value.strides, False, {})
            return NotImplemented

    stream = io.BytesIO()
    try:
        Pickler(stream, 2).dump(content)
    finally:
        for module, before in known.items():
            if before is None:
                del sys.modules[module]
            else:
                sys.modules[module] = before
    return zipped(
        Entry("archive/data.pkl", stream.getvalue()), Entry("archive/byteorder", b"little"),
        *(Entry(f"archive/data/{number}", data) for number, data in enumerate(storages)),
    )  # fmt: skip


class _Storage:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def hostile_checkpoints() -> Iterator[tuple[str, bytes]]:
    content = checkpoint_content()
    first = next(iter(content["state_dict"]))
    four = np.ones(4, np.float32)
    for name, tensor in {
        "strides of zero": Tensor(four, (10**9,), (0,)),
        "negative strides": Tensor(four, (4,), (-1,)),
        "a shape beyond its storage": Tensor(four, (10**6,), (1,)),
        "many axes": Tensor(four, (1,) * 20_000, (1,) * 20_000),
        "a length that lies": Tensor(four, length=10**12),
        "a shape of long integers": Tensor(four, (2**3000,), (1,)),
    }.items():
        yield name, checkpoint({**content, "state_dict": {**content["state_dict"], first: tensor}})
    for name, changed in {
        "no JSON": {CHECKPOINT_KEY: "{"},
        "deep JSON": {CHECKPOINT_KEY: "[" * 100_000},
        "JSON of numbers": {CHECKPOINT_KEY: "[" + "1," * 1_000_000 + "1]"},
        "a number for JSON": {CHECKPOINT_KEY: 3},
        "no weights": {"state_dict": {}},
        "weights in a list": {"state_dict": [1]},
        "no optimiser": {"optimizer_states": []},
        "odd parameter groups": {"optimizer_states": [{"state": 3, "param_groups": 4}]},
        "version": {"pytorch-lightning_version": [1] * 1000},
    }.items():
        yield name, checkpoint({**content, **changed})
    names = [f"{PARAMETER_PREFIX}{n}" for n in range(3000)]
    same = Tensor(four)
    yield "one tensor by many names", checkpoint({**content, "state_dict": dict.fromkeys(names, same)})
    yield "no pickle", zipped(Entry("archive/byteorder", b"little"))
    yield "two pickles", zipped(Entry("a/data.pkl", b"N."), Entry("b/data.pkl", b"N."))
    yield (
        "a bomb for a storage",
        zipped(
            Entry("archive/data.pkl", b"\x80\2N."),
            Entry("archive/data/0", zeros_deflated(900), 8, size=900 * MB),
        ),
    )
