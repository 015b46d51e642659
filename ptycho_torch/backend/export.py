"""Models as ONNX and as `torch.export` programs, with real tensors at their boundary."""

import contextlib
import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.export.checking import require_agreement, sample_canvases, sample_inputs
from ptycho_backends.export.formats import FORMATS
from ptycho_backends.export.metadata import as_text, model_metadata
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.values import TrainedModel
from ptycho_torch.backend import network, real_unrolled
from ptycho_torch.backend.device import computing
from ptycho_torch.backend.model import PtychoModel

Outputs = dict[str, Tensor]

# The first with DFT over any axis.
OPSET = 20


class NetworkAlone(torch.nn.Module):
    """Normalised amplitudes (B, N, N, C) to amplitude and phase (B, N, N, c) of the object's patches."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = PtychoModel(model.config.model, model.weights)
        self.scale = float(model.intensity_scale)

    def forward(self, diffraction: Tensor) -> Outputs:
        weights, config = self.model.tensors, self.model.config
        fed = self.scale * diffraction.permute(0, 3, 1, 2) / torch.exp(weights["log_scale"])
        amplitude, phase = network.decode(network.encode(fed, weights, config), weights, config)
        return {"amplitude": amplitude.permute(0, 2, 3, 1), "phase": phase.permute(0, 2, 3, 1)}


class CorrectionAlone(torch.nn.Module):
    """The correction of 'unrolled': real and imaginary part of a canvas and its light (B, N, N) to a better object."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = PtychoModel(model.config.model, model.weights)

    def forward(self, canvas_real: Tensor, canvas_imag: Tensor, light: Tensor) -> Outputs:
        real, imag = real_unrolled.real_change(canvas_real, canvas_imag, light, self.model.tensors)
        return {"object_real": canvas_real + real, "object_imag": canvas_imag + imag}


class NetworkAndPhysics(torch.nn.Module):
    """Normalised amplitudes and offsets to the object (B, N, N) and the predicted amplitudes (B, N, N, C).

    `in_reals` computes 'unrolled' with real tensors alone, for formats that have no complex ones.
    """

    def __init__(self, model: TrainedModel, *, in_reals: bool = False) -> None:
        super().__init__()
        self.model = PtychoModel(model.config.model, model.weights)
        self.scale = float(model.intensity_scale)
        self.in_reals = in_reals and model.config.model.architecture == "unrolled"
        if self.in_reals:
            gain = real_unrolled.gain_of_slow_phases(self.model.tensors, self.model.config)
            self.register_buffer("gain", gain)

    def forward(self, diffraction: Tensor, offsets: Tensor) -> Outputs:
        fed = self.scale * diffraction.permute(0, 3, 1, 2)
        if self.in_reals:
            real, imag, amplitude = real_unrolled.predict(
                fed, offsets, self.model.tensors, self.model.config, self.get_buffer("gain")
            )
        else:
            _, image, amplitude = self.model(fed, offsets)
            real, imag = image.real, image.imag
        return {
            "object_real": real,
            "object_imag": imag,
            "predicted_amplitude": amplitude.permute(0, 2, 3, 1),
        }


def export_model(model: TrainedModel, path: str | os.PathLike[str], format: str, licence: str) -> Path:
    """Write `model` as 'onnx', 'onnx-physics' or 'torch-export', once the result computes the same numbers.

    Of several probes the first one counts, and all pixels are valid. The number of groups is free.

    Raises
    ------
    ExportError, OutputError
    """
    FORMATS[format].require_modules()
    metadata = as_text(model_metadata(model, format, licence))
    module, inputs = _module_of(model, format)
    with computing(ExecutionConfig()), torch.no_grad(), _quiet():
        tensors = tuple(torch.from_numpy(value) for value in inputs.values())
        # first without a tracer: constants are made here, and kept
        want = {name: value.numpy() for name, value in module(*tensors).items()}
        groups = torch.export.Dim("groups", min=1, max=1 << 20)
        # traced with two groups, checked with three: a number that was fixed is found out
        program = torch.export.export(
            module,
            tuple(tensor[:2] for tensor in tensors),
            dynamic_shapes=tuple({0: groups} for _ in tensors),
        )
        write = _write_program if format == "torch-export" else _write_onnx
        double = copy.deepcopy(module).double()(*(tensor.double() for tensor in tensors))
        exact = {name: value.numpy() for name, value in double.items()}
        return write(program, Path(path), format, metadata, inputs, want, exact)


def _module_of(model: TrainedModel, format: str) -> tuple[torch.nn.Module, dict[str, NDArray[np.float32]]]:
    if format != "onnx":
        module: torch.nn.Module = NetworkAndPhysics(model, in_reals=format == "onnx-physics")
    elif model.config.model.architecture == "unrolled":
        return CorrectionAlone(model).eval(), sample_canvases(model)
    else:
        module = NetworkAlone(model)
        return module.eval(), {"diffraction": sample_inputs(model)["diffraction"]}
    return module.eval(), sample_inputs(model)


def _write_program(
    program: torch.export.ExportedProgram,
    path: Path,
    format: str,
    metadata: str,
    inputs: Mapping[str, NDArray],
    want: Mapping[str, NDArray],
    exact: Mapping[str, NDArray],
) -> Path:
    with replaced_atomically(path) as stream:
        torch.export.save(program, stream, extra_files={"metadata.json": metadata})
        stream.seek(0)
        with open(stream.name, "rb") as written:
            again = torch.export.load(written).module()
        got = again(*(torch.from_numpy(value) for value in inputs.values()))
        require_agreement(
            FORMATS[format].label, {name: value.numpy() for name, value in got.items()}, want, exact
        )
    return path


def _write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    format: str,
    metadata: str,
    inputs: Mapping[str, NDArray],
    want: Mapping[str, NDArray],
    exact: Mapping[str, NDArray],
) -> Path:
    import onnxruntime

    options: dict[str, object] = {"dynamo": True, "opset_version": OPSET, "verbose": False, "optimize": False}
    exported = torch.onnx.export(program, (), output_names=list(want), **options)  # type: ignore[arg-type]
    assert exported is not None
    exported.model.metadata_props["metadata"] = metadata
    exported.model.producer_name = "ptycho-backends"
    content = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    got = dict(zip(want, session.run(list(want), dict(inputs)), strict=True))
    require_agreement(FORMATS[format].label, got, want, exact)
    with replaced_atomically(path) as stream:
        stream.write(content)
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes to its own developers."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
