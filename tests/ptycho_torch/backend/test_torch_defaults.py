"""A program's default device and default type of torch do not matter: numbers and types stay the same."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import ptycho_torch
from ptycho_backends import ExecutionConfig, RefinementConfig, get_backend
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.simulate import simulate_star

EXECUTION = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None)
MAKERS = {
    "arange",
    "as_tensor",
    "asarray",
    "empty",
    "eye",
    "fftfreq",
    "full",
    "linspace",
    "ones",
    "rand",
    "randn",
}
MAKERS |= {"rfftfreq", "tensor", "zeros"}


@pytest.fixture(
    params=[("meta", torch.float32), ("cpu", torch.float64), ("meta", torch.float64)],
    ids=["device", "type", "both"],
)
def other_defaults(request):
    """A function that lets torch have other defaults from then on; any tensor on 'meta' has no numbers."""
    device, dtype = request.param

    def begin():
        torch.set_default_device(device)
        torch.set_default_dtype(dtype)

    yield begin
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def twice(work, begin):
    """The result of `work` with the usual defaults, and with the others, which it leaves as they are."""
    want = work()
    begin()
    before = torch.get_default_device(), torch.get_default_dtype()
    got = work()
    assert (torch.get_default_device(), torch.get_default_dtype()) == before
    return want, got


@pytest.mark.parametrize(("architecture", "side"), [("cnn", 64), ("unrolled", 32)])
def test_training_and_inference(architecture, side, other_defaults):
    model = ModelConfig(N=side, gridsize=2, architecture=architecture, n_filters_scale=1, probe_mask=True)
    config = TrainingConfig(model=model, nepochs=2, batch_size=2, validation_share=0.25)
    scan = simulate_star(side, 9, n_photons=1e5, step_px=4.0)
    groups = group_scan(scan, gridsize=2, n_groups=4, seed=0)
    backend = get_backend("torch")

    def work():
        trained = backend.train(groups, config, execution=EXECUTION)
        longer = dataclasses.replace(config, nepochs=3)
        resumed = backend.train(groups, longer, resume_from=trained, execution=EXECUTION)
        return (
            resumed,
            backend.predict(resumed, groups, execution=EXECUTION),
            backend.infer(resumed, groups, execution=EXECUTION),
        )

    (want, prediction, image), (got, found, also) = twice(work, other_defaults)
    for name, value in want.weights.items():
        assert got.weights[name].dtype == value.dtype
        np.testing.assert_array_equal(got.weights[name], value, err_msg=name)
    for name in ("object", "amplitude", "intensity"):
        assert getattr(found, name).dtype == getattr(prediction, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(prediction, name))
    np.testing.assert_array_equal(also.object, image.object)


def test_refinement(other_defaults):
    scan = simulate_star(32, 24, n_photons=1e5, step_px=4.0)
    config = RefinementConfig(passes=4, n_probe_modes=2, refine_positions=True)
    want, got = twice(
        lambda: get_backend("torch").refine(None, scan, config, execution=EXECUTION), other_defaults
    )
    np.testing.assert_array_equal(got.object, want.object)
    np.testing.assert_array_equal(got.probe_modes, want.probe_modes)
    np.testing.assert_array_equal(got.positions_px, want.positions_px)


def relying_on_defaults(source):
    """Calls in `source` that make a tensor of the default device or type."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in MAKERS or not ast.unparse(node.func).startswith("torch."):
            continue
        # what is given as data has a type of its own
        wanted = {"device"} if node.func.attr in ("as_tensor", "asarray", "tensor") else {"device", "dtype"}
        if not wanted <= {keyword.arg for keyword in node.keywords}:
            yield ast.unparse(node)


def test_new_tensors_name_their_device_and_type():
    # a GPU runs lines that no processor does
    files = sorted(Path(ptycho_torch.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    found = {path.name: list(relying_on_defaults(path.read_text())) for path in files}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_such_calls_are_found():
    assert list(relying_on_defaults("torch.zeros(3, device=here)")) == ["torch.zeros(3, device=here)"]
    assert list(relying_on_defaults("torch.zeros_like(x), numpy.zeros(3)")) == []
