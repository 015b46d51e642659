"""The network `unrolled` in PyTorch: its graph ends before the last correction, also in mixed precision."""

import numpy as np
import pytest
import torch

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import SINGLE
from ptycho_torch.backend import unrolled
from ptycho_torch.backend.arrays import tensors_from_batch
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.model import PtychoModel

CASE = Case(architecture="unrolled", N=16, gridsize=2, n_steps=2, n_rounds=2, masked=True, seed=1)


def test_the_graph_ends_before_the_last_correction():
    model = PtychoModel(CASE.config.model, CASE.weights)
    batch = tensors_from_batch(CASE.batch)
    steps = unrolled.before_last_correction(
        CASE.intensity_scale * batch["diffraction"], batch["offsets"], model.tensors, CASE.config.model,
        batch["valid_pixels"],
    )  # fmt: skip
    assert not any(one.requires_grad for one in steps)
    assert unrolled.after_last_correction(steps, model.tensors, CASE.config.model).requires_grad


@pytest.mark.parametrize("rounds", [1, 2])
def test_mixed_precision_is_near(rounds):
    case = Case(architecture="unrolled", N=16, gridsize=2, n_steps=2, n_rounds=rounds, seed=2)
    mixed = ExecutionConfig(precision="bf16-mixed", accelerator="cpu")
    want = TorchBackend().forward(case.config.model, case.weights, case.batch, execution=SINGLE).object
    got = TorchBackend().forward(case.config.model, case.weights, case.batch, execution=mixed).object
    assert 1e-6 < np.linalg.norm(got - want) / np.linalg.norm(want) < 3e-2
    gradients = TorchBackend().gradients(case.config, case.weights, case.batch, execution=mixed)
    exact = TorchBackend().gradients(case.config, case.weights, case.batch, execution=SINGLE)
    for name in ("decoder/head/kernel", "encoder/block0/conv0/kernel"):
        assert np.linalg.norm(gradients[name] - exact[name]) < 0.3 * np.linalg.norm(exact[name]), name


def test_a_hook_sees_every_round():
    model, seen = PtychoModel(CASE.config.model, CASE.weights), []
    model.layer("encoder/block1").register_forward_hook(lambda _, __, output: seen.append(output))
    batch = tensors_from_batch(CASE.batch)
    with torch.no_grad():
        model.object(CASE.intensity_scale * batch["diffraction"], batch["offsets"])
    assert [tuple(one.shape) for one in seen] == [(CASE.groups, 16, 8, 8)] * 2
