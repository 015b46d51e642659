"""Steps of one batch that is on the device already, for `gpu.py`: how fast it computes, whatever feeds it."""

import time
from typing import Any

import numpy as np
import torch
from gpu_measures import Figures, Where, model_and_groups

from ptycho_torch.backend.arrays import TensorBatch, tensors_from_batch
from ptycho_torch.backend.device import autocast, compute_dtype, computing
from ptycho_torch.backend.model import PtychoModel, adam


class OneBatch:
    """A model and a batch that are on the device already: what a step costs there."""

    def __init__(
        self, where: Where, architecture: str, side: int, channels: int, patterns: int, **fields: Any
    ) -> None:
        self.where, self.execution = where, where.execution(**fields)
        start, groups = model_and_groups(architecture, side, channels, patterns)
        self.config, self.scale, self.patterns = (
            start.config,
            start.intensity_scale,
            len(groups) * channels,
        )
        model = PtychoModel(
            self.config.model,
            start.weights,
            compute_dtype(self.execution),
            compiled=self.execution.compile_network,
        )
        self.model = model.to(where.device)
        self.model.freeze(self.config)
        self.optimizer = adam(self.model, 1e-4)
        batch = groups.batch(np.arange(len(groups)))
        self.tensors: TensorBatch = {
            name: tensor.to(where.device) for name, tensor in tensors_from_batch(batch).items()
        }

    def train(self) -> None:
        with autocast(self.execution, torch.device(self.where.device)):
            total = self.model.loss_terms(self.config, self.tensors, self.scale, {})["total"]
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def infer(self) -> torch.Tensor:
        with (
            torch.inference_mode(),
            autocast(self.execution, torch.device(self.where.device)),
        ):
            return self.model.object(self.scale * self.tensors["diffraction"], self.tensors["offsets"])


def step(
    where: Where, architecture: str, side: int, channels: int, training: bool, patterns: int, **fields: Any
) -> Figures:
    """A training step, or an inference, of one batch that is on the device."""
    found: Figures = {"patterns_in_batch": patterns}
    with where.peak(found):
        one = OneBatch(where, architecture, side, channels, patterns, **fields)
        with computing(one.execution):
            started = time.perf_counter()
            work = one.train if training else one.infer
            work()
            where.synchronise()
            found["first_s"] = time.perf_counter() - started
            found["seconds"] = where.seconds(work)
    found["patterns_per_s"] = one.patterns / found["seconds"]
    return found


def convolutions(where: Where, side: int, channels: int, training: bool, patterns: int) -> Figures:
    """A step by the layout of its kernels, and with cuDNN's choice by trial; the library has neither setting."""
    found: Figures = {}
    before = torch.backends.cudnn.benchmark
    for layout in ("channels last", "channels first"):
        for by_trial in (False, True):
            one = OneBatch(where, "cnn", side, channels, patterns)
            if layout == "channels first":
                for parameter in one.model.parameters():
                    parameter.data = parameter.data.contiguous()
            torch.backends.cudnn.benchmark = by_trial
            label = f"{layout}{', by trial' if by_trial else ''}: patterns_per_s"
            try:
                with where.peak(found), computing(one.execution):
                    found[label] = one.patterns / where.seconds(one.train if training else one.infer)
            finally:
                torch.backends.cudnn.benchmark = before
            found[label.replace("patterns_per_s", "peak_MiB")] = found.pop("peak_MiB", None)
    return found


def graph(where: Where, architecture: str, side: int, channels: int, patterns: int) -> Figures:
    """What a CUDA graph of the inference would take: the library does not offer it."""
    one = OneBatch(where, architecture, side, channels, patterns)
    captured = torch.cuda.CUDAGraph()
    with computing(one.execution):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                one.infer()
        torch.cuda.current_stream().wait_stream(beside)
        with torch.cuda.graph(captured):
            one.infer()
        seconds = where.seconds(captured.replay)
    return {"seconds": seconds, "patterns_per_s": one.patterns / seconds}
