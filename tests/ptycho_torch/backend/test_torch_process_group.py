"""Two processes on this machine do together the work of one: the same weights, history and image."""

import contextlib
import dataclasses
import json
import operator
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, ShapeError
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.agreement import deviation
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.launch import is_first_process
from ptycho_backends.training.plan import plan_training, shard_batches
from ptycho_torch.backend import process_group
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.process_group import ProcessGroup, process_group_of

SINGLE_DEVICE = ExecutionConfig(
    accelerator="cpu", enable_progress_bar=False, logger_backend=None, precision="64-true"
)
TOGETHER = dataclasses.replace(SINGLE_DEVICE, devices=2, strategy="ddp")
SECONDS = 120


@pytest.fixture(scope="module")
def groups():
    """15 groups: 11 train and 4 judge, unless a test changes that."""
    return group_scan(simulate_star(64, 15, n_photons=1e5, seed=3), n_groups=15, seed=0)


def config(batch_size, **changes):
    model = {"N": 64, "n_filters_scale": 1, **changes.pop("model", {})}
    values = {"nepochs": 2, "nphotons": 1e5, "validation_share": 0.3, "seed": 5, **changes}
    return TrainingConfig(model=ModelConfig(**model), batch_size=batch_size, **values)


def assert_same_training(got, want, allowed=1e-10):
    """Compare resume states, whose moments are float64, and weights, which are rounded to float32."""
    for kind in ("first_moments", "second_moments"):
        first, second = getattr(got.training_state, kind), getattr(want.training_state, kind)
        # weights without a gradient have no moments, or after resuming zero ones
        assert not any(first[name].any() for name in set(first) - set(second))
        assert max(deviation(first[name], second[name]) for name in second) <= allowed, kind
    for name in want.weights:
        assert deviation(got.weights[name], want.weights[name]) < 1e-6, name
    assert got.training_state.step == want.training_state.step
    assert len(got.history) == len(want.history)
    for one, other in zip(got.history, want.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=allowed)
        assert one.val_loss == pytest.approx(other.val_loss, rel=allowed)


def test_the_shards_of_a_batch_are_the_batch():
    batches = [np.arange(4), np.arange(4, 8), np.arange(8, 12), np.arange(12, 13)]
    shards = [shard_batches(batches, rank, 3) for rank in range(3)]
    assert [len(own) for own in shards] == [2, 2, 2]
    for step, want in enumerate((np.arange(12), np.arange(12, 13))):
        counted = [shard[step].indices[: shard[step].groups] for shard in shards]
        np.testing.assert_array_equal(np.concatenate(counted), want)
        assert all(shard[step].batch_groups == len(want) for shard in shards)
        assert all(len(shard[step].indices) for shard in shards)


@pytest.mark.slow
def test_two_processes_train_as_one(groups, tmp_path, monkeypatch):
    """13 groups in steps of 4, 4, 4 and 1: the last leaves one process with nothing. SIGTERM in epoch 2.

    Statistics are those of all groups, and the probe, which supervised training does not see, stays.
    """
    from ptycho_torch.backend.module import PtychoModule

    changes = {
        "model": {"model_type": "supervised", "architecture": "attention", "batch_norm": True},
        "probe_trainable": True,
        "validation_share": 0.15,
    }
    together = dataclasses.replace(TOGETHER, strategy="auto", logger_backend="csv", gradient_clip_val=0.5)
    alone = dataclasses.replace(SINGLE_DEVICE, gradient_clip_val=0.5)
    original = PtychoModule.training_step

    def training_step(self, batch, batch_idx):
        if self.epochs_done == 1 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)
    threads, records = torch.get_num_threads(), []
    with pytest.raises(Terminated) as ended:
        TorchBackend().train(
            groups, config(2, **changes), execution=together, output_dir=tmp_path, on_epoch=records.append
        )
    got = ended.value.trained_model
    with pytest.raises(Terminated) as ended:
        TorchBackend().train(groups, config(4, **changes), execution=alone)
    want = ended.value.trained_model
    assert got.interrupted
    assert want.interrupted
    assert (got.training_state.step, got.training_state.batches_done) == (6, 4)
    assert_same_training(got, want, allowed=1e-9)
    assert got.training_state.loss_sum == pytest.approx(want.training_state.loss_sum, rel=1e-10)
    assert tuple(records) == got.history
    kept = TorchBackend().load(tmp_path / "checkpoints" / "last.wts.h5.zip")
    assert kept.training_state.loss_sum == got.training_state.loss_sum
    assert len((tmp_path / "logs" / "metrics.csv").read_text().splitlines()) > 1
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


PROGRAM = '''
"""Program of every process of torchrun: train until Ctrl-C, go on, make an image."""
import os, pickle, signal, sys
from pathlib import Path
from ptycho_backends.config import ExecutionConfig
from ptycho_torch.backend import TorchBackend
from ptycho_torch.model import PtychoModule

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
groups, config, execution = pickle.loads((folder / "arguments").read_bytes())
backend, original = TorchBackend(), PtychoModule.training_step

def training_step(self, batch, batch_idx):
    if rank == "1" and self.epochs_done == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return original(self, batch, batch_idx)

PtychoModule.training_step = training_step
stopped = backend.train(groups, config, execution=execution, output_dir=folder)
PtychoModule.training_step = original
assert stopped.interrupted and stopped.training_state.step == 3, stopped.training_state.step
model = backend.train(groups, config, execution=execution, resume_from=stopped)
image = backend.infer(model, groups, execution=execution)
(folder / f"result-{rank}").write_bytes(pickle.dumps((model, image)))
'''


def launched(folder: Path, *arguments: str) -> None:
    """Run `torchrun` there; whatever happens, nothing of it is left running."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [*command, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except BaseException:
            # it ends its processes itself, if it is asked to
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            raise
    assert process.returncode == 0, output


@pytest.mark.slow
def test_torchrun(groups, tmp_path):
    """Every process of a launcher returns the same; Ctrl-C on one ends all after the same step."""
    run = dataclasses.replace(TOGETHER, strategy="auto", devices=1, logger_backend="csv")
    (tmp_path / "arguments").write_bytes(pickle.dumps((groups, config(4), run)))
    (tmp_path / "program.py").write_text(PROGRAM)
    launched(tmp_path, "program.py", os.fspath(tmp_path))
    (first, image), (second, other) = (
        pickle.loads((tmp_path / f"result-{rank}").read_bytes()) for rank in (0, 1)
    )
    alone = TorchBackend().train(groups, config(8), execution=SINGLE_DEVICE)
    # resumed once, from weights rounded to float32
    assert_same_training(first, alone, allowed=1e-4)
    assert_same_training(first, second, allowed=0.0)
    np.testing.assert_array_equal(image.object, other.object)
    want = TorchBackend().infer(first, groups, execution=SINGLE_DEVICE)
    assert deviation(image.object, want.object) < 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "arguments", "checkpoints", "logs", "program.py", "result-0", "result-1",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_make_the_image_of_one(groups):
    model = plan_training(groups, config(4), "torch").start
    image = TorchBackend().infer(model, groups, execution=TOGETHER)
    want = TorchBackend().infer(model, groups, execution=SINGLE_DEVICE)
    assert deviation(image.object, want.object) < 1e-6
    np.testing.assert_allclose(image.coverage, want.coverage, rtol=1e-6)
    np.testing.assert_array_equal(image.origin_px, want.origin_px)
    np.testing.assert_array_equal(image.group_centres_px, want.group_centres_px)
    assert image.object_patches is None
    image = TorchBackend().infer(model, groups, execution=TOGETHER, agree_on_phase=True)
    agreed = TorchBackend().infer(model, groups, execution=SINGLE_DEVICE, agree_on_phase=True)
    assert deviation(image.object, agreed.object) < 1e-6
    assert deviation(agreed.object, want.object) > 1e-3
    with pytest.raises(ShapeError, match="stitching size: got 65"):
        TorchBackend().infer(model, groups, execution=TOGETHER, stitching_size=65)


def test_the_error_quotes_a_process_that_fails():
    processes = ProcessGroup(size=2, local_size=2)
    with (
        pytest.raises(RuntimeError) as caught,
        process_group.working_together(processes, operator.getitem, "an argument that the task refuses"),
    ):
        processes.any(False)
    assert "process 1 ended with exit code 1" in caught.value.__notes__[0]
    assert "'ProcessGroup' object is not subscriptable" in caught.value.__notes__[0]
    assert not torch.distributed.is_initialized()


def test_mapped_patterns_are_sent_by_name(tmp_path):
    file = tmp_path / "patterns"
    np.arange(24, dtype=np.uint16).tofile(file)
    mapped = np.asarray(np.memmap(file, np.uint16, "r", 8, (5, 4), "F"))[1:, ::2]
    large = np.arange(1000.0)
    process_group._pickle_with_buffers((mapped, large, large[::2]), tmp_path)
    assert (tmp_path / "arrays").stat().st_size < 20_000
    assert b"patterns" in (tmp_path / "value").read_bytes()
    for got, want in zip(
        process_group._unpickle_with_buffers(tmp_path), (mapped, large, large[::2]), strict=True
    ):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


def test_processes_of_launchers(monkeypatch):
    run = ExecutionConfig(accelerator="cpu")
    assert process_group_of(run) == ProcessGroup()
    assert process_group_of(dataclasses.replace(run, devices=3)) == ProcessGroup(size=3, local_size=3)
    with pytest.raises(ConfigError, match="'fsdp' for 2 processes, want one of 'auto', 'ddp', 'ddp_spawn'"):
        process_group_of(dataclasses.replace(run, devices=2, strategy="fsdp"))
    with pytest.raises(ConfigError, match="'single_device' with devices=2"):
        process_group_of(dataclasses.replace(run, devices=2, strategy="single_device"))

    with monkeypatch.context() as patch:
        cluster = {"cluster": {"worker": ["a:1", "a:2"]}, "task": {"type": "worker", "index": 1}}
        patch.setenv("TF_CONFIG", json.dumps(cluster))
        with pytest.raises(ConfigError, match=r"TF_CONFIG: names 2 workers, .* torchrun or srun"):
            process_group_of(run)
        assert process_group_of(dataclasses.replace(run, strategy="single_device")) == ProcessGroup()

    slurm = {
        "PROCID": 3, "LOCALID": 1, "NODEID": 1, "STEP_ID": 0, "STEP_NUM_TASKS": 4, "STEP_TASKS_PER_NODE": "2(x2)",
    }  # fmt: skip
    with monkeypatch.context() as patch:
        for name, value in slurm.items():
            patch.setenv(f"SLURM_{name}", str(value))
        assert process_group_of(run) == ProcessGroup()
        joined = ProcessGroup(3, 4, 1, 2, launched=True)
        assert process_group_of(dataclasses.replace(run, strategy="ddp")) == joined
        assert process_group_of(dataclasses.replace(run, devices=2)) == joined
        with pytest.raises(ConfigError, match="devices: got 4, but 2 processes were launched"):
            process_group_of(dataclasses.replace(run, devices=4))

    launch = {
        "TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2,
    }  # fmt: skip
    for name, value in launch.items():
        monkeypatch.setenv(name, str(value))
    assert process_group_of(run) == ProcessGroup(1, 2, 1, 2, launched=True)
    assert not is_first_process(run, "torch")
    apart = dataclasses.replace(run, strategy="single_device")
    assert process_group_of(apart) == ProcessGroup()
    assert is_first_process(apart, "torch")


def test_a_process_by_itself_ignores_the_variables_of_a_cluster(groups, tmp_path, monkeypatch):
    """Task 3 of a sweep under SLURM, which Lightning would refuse, or take for a process that writes nothing."""
    slurm = {
        "JOB_ID": 1, "JOB_NAME": "sweep", "NTASKS": 4, "NNODES": 1, "NODEID": 0, "PROCID": 3, "LOCALID": 3,
        "STEP_ID": 0, "STEP_NUM_TASKS": 4, "STEP_TASKS_PER_NODE": 4,
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    for strategy in ("auto", "single_device"):
        run = dataclasses.replace(SINGLE_DEVICE, strategy=strategy, logger_backend="csv")
        model = TorchBackend().train(
            groups, config(4, nepochs=1), execution=run, output_dir=tmp_path / strategy
        )
        assert len(model.history) == 1
        written = {path.name for path in (tmp_path / strategy).rglob("*.*")}
        assert {"metrics.csv", "last.wts.h5.zip"} < written
        assert any(name.endswith(".ckpt") for name in written)
    assert rank_zero_only.rank == 3
