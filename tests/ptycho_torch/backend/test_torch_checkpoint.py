"""Checkpoints that Lightning wrote, read without PyTorch: every number is the one that torch reads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ptycho_backends.archive.lightning_checkpoint import PARAMETER_PREFIX
from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.cli import commands as cli
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.files.safe_zip import open_zip
from ptycho_backends.files.torch_file import StoredTensor, TorchFile
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_torch.backend.arrays import weights_from_tensors
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.model_manager_torch import TorchModelManager

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 12, n_photons=1e5, seed=7)


@pytest.fixture(scope="module", params=["32-true", "64-true", "bf16-mixed"])
def trained(request, scan, tmp_path_factory):
    """A model after one epoch, and the checkpoint that it left."""
    folder = tmp_path_factory.mktemp("run")
    run = ExecutionConfig(
        accelerator="cpu", enable_progress_bar=False, logger_backend=None, precision=request.param
    )
    config = TrainingConfig(
        model=ModelConfig(N=0, n_filters_scale=1),
        nepochs=1, batch_size=8, nphotons=1e5, probe_trainable=True,
    )  # fmt: skip
    model = TorchBackend().train(scan, config, execution=run, output_dir=folder)
    return model, next((folder / "checkpoints").glob("best-*.ckpt"))


def assert_same_content(file, got, want, where="content"):
    if isinstance(want, torch.Tensor):
        assert type(got) is StoredTensor, where
        array = file.array(got)
        assert array.dtype == want.numpy().dtype, where
        assert array.shape == tuple(want.shape), where
        assert array.tobytes() == want.numpy().tobytes(), where
    elif isinstance(want, dict):
        assert list(got) == list(want), where
        for key in want:
            assert_same_content(file, got[key], want[key], f"{where}[{key!r}]")
    elif isinstance(want, list):
        assert len(got) == len(want), where
        for number, value in enumerate(want):
            assert_same_content(file, got[number], value, f"{where}[{number}]")
    else:
        assert type(got) is type(want), where
        assert got == want, where


def test_all_that_torch_reads_is_read(trained):
    want = torch.load(trained[1], map_location="cpu", weights_only=True)
    with open_zip(trained[1], zip64=True) as members:
        file = TorchFile(members)
        file.read_storages(1 << 30)
    assert_same_content(file, file.content, want)


def test_layouts_of_tensors(tmp_path):
    """Views, shared storages, other types: contents that torch may write beside plain weights."""
    base = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    content = {
        "views": [base, base.permute(2, 0, 1), base[1, ::2, 1:3], base[0, 0, 0], base[:0]],
        "types": [torch.arange(3).to(t) for t in (torch.int64, torch.uint8, torch.bool, torch.float16)],
        "complex": torch.tensor([1 + 2j, -3j]),
        "none": torch.zeros(0),
    }
    torch.save(content, tmp_path / "x.pt")
    with open_zip(tmp_path / "x.pt", zip64=True) as members:
        file = TorchFile(members)
        file.read_storages(1 << 20)
    assert_same_content(file, file.content, content)


def test_a_checkpoint_is_read_where_no_framework_is_installed(trained, tmp_path):
    """In a process that cannot import one; the same bits as torch reads."""
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning", "ptycho_torch", "tensorflow", "keras", "h5py"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
from ptycho_backends.archive import load_archive
model = load_archive(sys.argv[1])
state = model.training_state
np.savez(
    sys.argv[2], step=state.step,
    **{"weights " + n: v for n, v in model.weights.items()},
    **{"exp_avg " + n: v for n, v in state.first_moments.items()},
    **{"exp_avg_sq " + n: v for n, v in state.second_moments.items()},
)
print(repr(model))
"""
    command = [sys.executable, "-c", program, str(trained[1]), str(tmp_path / "read.npz")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 epochs on torch" in done.stdout
    with np.load(tmp_path / "read.npz") as read:
        got = dict(read)

    want = torch.load(trained[1], map_location="cpu", weights_only=True)
    names = [name.removeprefix(PARAMETER_PREFIX) for name in want["state_dict"]]
    tensors = dict(zip(names, want["state_dict"].values(), strict=True))
    wanted = {f"weights {name}": value for name, value in weights_from_tensors(tensors).items()}
    states = want["optimizer_states"][0]["state"]
    assert len(states) == len(names)
    for key in ("exp_avg", "exp_avg_sq"):
        moments = {name: states[number][key] for number, name in enumerate(names)}
        wanted |= {f"{key} {name}": value for name, value in weights_from_tensors(moments).items()}
    assert got.pop("step") == states[0]["step"]
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.startswith("weights "):  # a model's are in single precision, whatever trained it
            value = value.astype(np.complex64 if value.dtype.kind == "c" else np.float32)
        assert got[name].dtype == value.dtype, name
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_every_door_opens_it(trained, tmp_path):
    model, path = trained
    for loaded in (TorchBackend().load(path), TorchModelManager.load(path), load_archive(path)):
        assert loaded.config == model.config
        assert loaded.history == model.history
        for name, value in model.weights.items():
            np.testing.assert_array_equal(loaded.weights[name], value)
        # the resume state survives the way into an archive
        again = load_archive(save_archive(loaded, tmp_path)).training_state
        assert again.step == model.training_state.step
        assert again.schedule == model.training_state.schedule


def test_the_command_line_takes_it(trained, scan, tmp_path):
    def ptycho(*arguments):
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    said = ptycho("inspect", trained[1])
    assert "Lightning checkpoint" in said
    assert "whole    yes" in said
    save_scan(scan, tmp_path / "scan.npz")
    ptycho(
        "infer",
        trained[1],
        tmp_path / "scan.npz",
        "-o",
        tmp_path / "out",
        "--accelerator",
        "cpu",
        "-b",
        "torch",
    )
    assert (tmp_path / "out" / "reconstruction.npz").is_file()
