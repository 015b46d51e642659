"""The layers of a model are torch modules: names, hooks, freezing, summaries; docs/layers.md runs as it stands."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.model_summary import ModelSummary

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.reference import network as reference
from ptycho_backends.reference.initial_weights import is_running_value
from ptycho_backends.reference.model import in_double
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.cases import Case
from ptycho_backends.training.plan import plan_training
from ptycho_torch.backend.arrays import tensors_from_batch, tensors_from_weights
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.model import PtychoModel
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.backend.training import TrainingRun

DOCS = Path(__file__).resolve().parents[3] / "docs"
QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None)

CASES = {
    "cnn": Case(groups=2),
    "unpadded": Case(groups=2, pad_object=False),
    "attention": Case(
        groups=2, architecture="attention", batch_norm=True, cbam_encoder=True, eca_decoder=True,
        cbam_bottleneck=True, use_shared_decoder=True, spatial_decoder=True,
    ),
    "unrolled": Case(architecture="unrolled", N=16, gridsize=2, n_steps=2, n_rounds=2),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def model_of(case):
    return PtychoModel(case.config.model, case.weights, torch.float64)


def inputs_of(case):
    tensors = tensors_from_batch(case.batch)
    return case.intensity_scale * tensors["diffraction"].double(), tensors["offsets"].double()


def test_every_layer_is_a_module_that_is_called(case):
    model, called = model_of(case), set()
    layers = {name.rpartition("/")[0] for name in case.weights}
    prefixes = {"/".join(layer.split("/")[:end]) for layer in layers for end in range(1, 9) if layer}
    modules = dict(model.named_modules())
    assert {name.replace(".", "/") for name in modules if name} == prefixes
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(*inputs_of(case), {})
    # the halves of a U-Net are joined level by level
    joined = {"encoder", "decoder"} if case.architecture == "unrolled" else set()
    assert called == set(modules) - joined
    assert all(model.layer(name) is modules[name.replace("/", ".")] for name in prefixes)
    with pytest.raises(AttributeError):
        model.layer("encoder/block99")


def test_a_hook_gets_the_result_of_its_layer():
    case = CASES["cnn"]
    model, weights, results = model_of(case), in_double(case.weights), {}
    for name in ("encoder/block1", "encoder/block0/conv0", "phase/block0", "encoder"):
        model.layer(name).register_forward_hook(
            lambda _, inputs, output, name=name: results.update({name: (inputs, output)})
        )
    fed, offsets = inputs_of(case)
    with torch.no_grad():
        model(fed, offsets)
    image = np.moveaxis(fed.numpy(), 1, -1) / np.exp(weights["log_scale"])
    config = case.config.model
    want = {"encoder/block0/conv0": reference.conv(image, weights, "encoder/block0/conv0")}
    first = reference.encoder_block(image, weights, "encoder/block0", config)
    want["encoder/block1"] = reference.encoder_block(first, weights, "encoder/block1", config)
    want["encoder"] = reference.encode(image, weights, config)
    want["phase/block0"] = reference.block_features(want["encoder"], weights, "phase/block0", config)
    for name, value in want.items():
        inputs, output = results[name]
        assert len(inputs) == 1
        np.testing.assert_allclose(np.moveaxis(output.numpy(), 1, -1), value, atol=1e-9)
    # not overwritten by ReLU
    assert results["encoder/block0/conv0"][1].min() < 0


def test_hooks_change_no_number(case):
    """The same bits forwards and backwards, whether somebody looks or not."""
    results = []
    for observed in (False, True):
        model = model_of(case)
        if observed:
            for module in model.modules():
                module.register_forward_hook(lambda *_: None)
                # torch has these for tensors alone
                tensors_alone = getattr(module, "computes", None) not in ("small_trunk", "small_heads")
                # no gradient goes to what 'unrolled' sees
                if tensors_alone and case.architecture != "unrolled":
                    module.register_full_backward_hook(lambda *_: None)
        fed, offsets = inputs_of(case)
        fed.requires_grad_()
        patches, _, amplitude = model(fed, offsets, {})
        (amplitude.square().sum() + patches.abs().sum()).backward()
        # 'unrolled' has none for its scale
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append((amplitude, *gradients))
        assert len(gradients) >= len(list(model.parameters())) - 1
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_replaced_layer_computes(case):
    fed, offsets = inputs_of(case)
    model = model_of(case)
    with torch.no_grad():
        want = model(fed, offsets)[2]
        first = model.encoder.block0
        first.conv1 = torch.nn.Sequential(first.conv1, torch.nn.Identity())
        if not case.config.model.batch_norm:
            assert torch.equal(model(fed, offsets)[2], want)
        model.encoder.block0 = torch.nn.MaxPool2d(2)
        with pytest.raises(RuntimeError, match="channels"):
            model(fed, offsets)


def test_a_copy_has_weights_of_its_own(case):
    model = model_of(case)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.tensors["log_scale"].add_(1.0)
        other.layer("encoder/block0/conv0").weight.zero_()
    assert not torch.equal(model(*inputs_of(case))[2], other(*inputs_of(case))[2])
    assert model.weights()["log_scale"] == np.float64(case.weights["log_scale"])


def test_state_dicts_have_the_names_of_checkpoints(case):
    """As of files that were written when the weights were a `ParameterDict`."""
    model = model_of(case)
    names = [f"parameters_by_name.{name}" for name in case.weights]
    assert list(model.state_dict()) == names
    assert list(torch.nn.Sequential(model).state_dict()) == [f"0.{name}" for name in names]

    former = torch.nn.Module()
    former.parameters_by_name = torch.nn.ParameterDict()
    for name, tensor in tensors_from_weights(case.weights, torch.float64).items():
        former.parameters_by_name[name] = torch.nn.Parameter(tensor + 1, requires_grad=False)
    assert list(former.state_dict()) == names
    model.load_state_dict(former.state_dict())
    for name, tensor in model.tensors.items():
        assert torch.equal(tensor, former.parameters_by_name[name])
        assert isinstance(tensor, torch.nn.Parameter) != is_running_value(name)

    by_module = {f"0.{name}": value for name, value in [*model.named_parameters(), *model.named_buffers()]}
    torch.nn.Sequential(model).load_state_dict(by_module)
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict({**former.state_dict(), "parameters_by_name.more": torch.zeros(1)})


def test_summaries_count_parameters():
    case = CASES["cnn"]
    model = model_of(case)
    count = sum(np.size(value) for value in case.weights.values()) + case.weights["probe"].size
    assert f"parameters={count:,}" in repr(model)
    assert re.search(
        r"\(block1\): Layer\(\s*encoder_block, parameters=[\d,]+\s+\(conv0\): Conv2d\(", repr(model)
    )
    plan = plan_training(
        simulate_star(64, 12), TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1)), "torch"
    )
    summary = ModelSummary(PtychoModule(plan.start, QUIET), max_depth=-1)
    counts = dict(zip(summary.layer_names, summary.param_nums, strict=True))
    assert counts["model.encoder.block1.conv0"] == 32 * 64 * 9 + 64
    assert counts["model"] == summary.total_parameters


def test_a_frozen_block_stays_and_training_resumes(tmp_path):
    scan = simulate_star(64, 16, n_photons=1e5, seed=3)
    model = ModelConfig(N=64, n_filters_scale=1)
    config = TrainingConfig(model=model, nepochs=1, batch_size=8, nphotons=1e5)
    plan = plan_training(scan, config, "torch", QUIET)
    module = PtychoModule(plan.start, QUIET)
    module.model.layer("encoder/block1").requires_grad_(False)
    trained = TrainingRun(plan, module, execution=QUIET, output_dir=tmp_path).fit()
    for name, value in trained.weights.items():
        frozen = name.startswith("encoder/block1/") or name == "probe"
        assert np.array_equal(value, plan.start.weights[name]) == frozen, name
        assert (name in trained.training_state.first_moments) != frozen, name
    config.nepochs = 2
    for file in (tmp_path / "checkpoints").iterdir():
        resumed = TorchBackend().train(scan, config, execution=QUIET, resume_from=file)
        assert len(resumed.history) == 2
        assert not np.array_equal(
            resumed.weights["encoder/block1/conv0/kernel"], plan.start.weights["encoder/block1/conv0/kernel"]
        )


def test_the_page_on_layers_runs(capsys):
    examples = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "layers.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(examples) == 4
    exec("\n".join(examples), {})
    assert "(block1): Layer(" in capsys.readouterr().out
