"""Single stages of each framework, fed and read as NumPy: one function of a mirrored file at a time.

Backends promise operations on whole arrays only, so comparing single stages needs an adapter for each framework.
"""

import dataclasses
import functools
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Stage = Any


class StageAdapter(Protocol):
    """One framework's stages."""

    name: str

    def call(
        self,
        stage: str,
        *arguments: Any,
        precision: str = "float64",
        statistics: dict[str, NDArray] | None = None,
        **options: Any,
    ) -> Any:
        """`stage` ('physics.translate') of NumPy `arguments`, computed in `precision`, as NumPy.

        Arrays, and mappings of arrays, are handed over in `precision`; whatever else as it is. Layouts
        are those of the reference. `statistics` makes a stage of `network` compute as in training, and
        gets the batch's, as with the reference. `options` are keywords of the stage. Integer arrays stay integers,
        and a stage's dataclass is read as the mapping of its fields that are not None.
        """
        ...

    def batches(self, prepared: Any) -> list[dict[str, NDArray]]:
        """The training batches of the first epoch that `Backend.prepare` made, in their order.

        `diffraction` (B, N, N, C), `offsets` (B, C, 2), and if there are any `patches_truth`
        (B, C, N, N) and `object_truth` (B, N, N).
        """
        ...


class TorchStages:
    """`ptycho_torch.backend`, whose networks are channels-first."""

    name = "torch"

    def __init__(self) -> None:
        self._torch = import_module("torch")
        self._arrays = import_module("ptycho_torch.backend.arrays")

    def call(
        self,
        stage: str,
        *arguments: Any,
        precision: str = "float64",
        statistics: dict[str, NDArray] | None = None,
        **options: Any,
    ) -> Any:
        function = _stage("ptycho_torch.backend", stage)
        moves_axes = stage.startswith(("network.", "correction."))
        given = [self._given(argument, precision, moves_axes) for argument in arguments]
        with self._torch.no_grad():
            read = functools.partial(self._read, moves_axes=moves_axes)
            return _called(functools.partial(function, **options), given, statistics, read)

    def batches(self, prepared: Any) -> list[dict[str, NDArray]]:
        found = [
            {name: tensor.numpy() for name, tensor in batch.items()} for batch in prepared.train_dataloader()
        ]
        for batch in found:
            batch["diffraction"] = np.moveaxis(batch["diffraction"], 1, -1)
        return found

    def _given(self, argument: Any, precision: str, moves_axes: bool) -> Any:
        if isinstance(argument, Mapping):
            return self._arrays.tensors_from_weights(argument, getattr(self._torch, precision))
        if not isinstance(argument, np.ndarray):
            return argument
        if moves_axes and argument.ndim == 4:
            argument = np.moveaxis(argument, -1, 1)
        return self._torch.tensor(_in_precision(argument, precision).copy())

    def _read(self, tensor: Any, moves_axes: bool) -> NDArray:
        array = tensor.numpy()
        return np.moveaxis(array, 1, -1) if moves_axes and array.ndim == 4 else array


class TensorFlowStages:
    """`ptycho_backends.tensorflow`, whose network is channels-last as the reference is."""

    name = "tensorflow"

    def __init__(self) -> None:
        self._tf = import_module("tensorflow")
        self._arrays = import_module("ptycho_backends.tensorflow.arrays")

    def call(
        self,
        stage: str,
        *arguments: Any,
        precision: str = "float64",
        statistics: dict[str, NDArray] | None = None,
        **options: Any,
    ) -> Any:
        function = _stage("ptycho_backends.tensorflow", stage)
        given = [self._given(argument, precision) for argument in arguments]
        return _called(
            functools.partial(function, **options),
            given,
            statistics,
            lambda tensor: np.asarray(tensor.numpy()),
        )

    def batches(self, prepared: Any) -> list[dict[str, NDArray]]:
        return [
            {name: tensor.numpy() for name, tensor in batch.items()} for batch in prepared.training_batches(1)
        ]

    def _given(self, argument: Any, precision: str) -> Any:
        if isinstance(argument, Mapping):
            return self._arrays.tensors_from_weights(argument, getattr(self._tf, precision))
        if not isinstance(argument, np.ndarray):
            return argument
        return self._tf.constant(_in_precision(argument, precision))


ADAPTERS: Mapping[str, type] = {"torch": TorchStages, "tensorflow": TensorFlowStages}


def _stage(package: str, stage: str) -> Stage:
    module, _, function = stage.partition(".")
    return getattr(import_module(f"{package}.{module}"), function)


def _in_precision(array: NDArray, precision: str) -> NDArray:
    if array.dtype.kind in "bi":
        # masks, and numbers of probes, pixels and positions
        return array
    double = precision == "float64"
    if array.dtype.kind == "c":
        return array.astype(np.complex128 if double else np.complex64)
    return array.astype(np.float64 if double else np.float32)


def _called(function: Stage, given: list[Any], statistics: dict[str, NDArray] | None, read: Any) -> Any:
    if statistics is None:
        return _read(function(*given), read)
    found: dict[str, Any] = {}
    result = _read(function(*given, statistics=found), read)
    statistics.update(_read(found, read))
    return result


def _read(result: Any, read: Any) -> Any:
    if dataclasses.is_dataclass(result):
        # not `asdict`, which copies tensors
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        result = {name: value for name, value in fields.items() if value is not None}
    if isinstance(result, Mapping):
        return {name: read(value) for name, value in result.items()}
    if isinstance(result, tuple):
        return tuple(read(value) for value in result)
    return read(result)
