"""Two processes on loopback that `TF_CONFIG` names do together the work of one: the same weights and history."""

import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from ptycho_backends import workflows
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.tensorflow.arrays import SHARD_SIZES
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.tensorflow.module import PtychoModule
from ptycho_backends.tensorflow.process_group import ProcessGroup, own_part, process_group_of
from ptycho_backends.testing.agreement import deviation
from ptycho_backends.training.launch import is_first_process, launched

SINGLE_DEVICE = ExecutionConfig(
    accelerator="cpu", enable_progress_bar=False, logger_backend="csv", precision="64-true",
    gradient_clip_val=0.5, accum_steps=2, strategy="single_device",
)  # fmt: skip
TOGETHER = dataclasses.replace(SINGLE_DEVICE, strategy="multi_worker_mirrored")
SECONDS = 150


def config(batch_size):
    """13 of 15 groups train: 4, 4, 4 and 1 at a time, the last of which leave one process with nothing."""
    network = ModelConfig(
        N=64, n_filters_scale=1, model_type="supervised", architecture="attention", batch_norm=True,
        cbam_encoder=False, use_shared_decoder=True,
    )  # fmt: skip
    return TrainingConfig(
        model=network, batch_size=batch_size, nepochs=2, nphotons=1e5, n_groups=15, validation_share=0.15,
        seed=5, probe_trainable=True,
    )  # fmt: skip


def stopping_in_epoch_2(monkeypatch, *, here=True):
    """Ctrl-C at the first batch of the second epoch; the step goes on to the second batch."""
    original = PtychoModule.training_step

    def training_step(self, batch, **options):
        if here and self.epochs_done == 1 and self.batches_done == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, **options)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)


def work(folder: Path) -> None:
    """Task of each of the two processes."""
    scan, training, execution = pickle.loads((folder / "arguments").read_bytes())
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    records = []
    with pytest.MonkeyPatch.context() as patch:
        stopping_in_epoch_2(patch, here=rank == 1)
        result = workflows.train(
            scan, training, folder, backend="tensorflow", execution=execution, on_epoch=records.append
        )
    image = TensorFlowBackend().infer(result.model, scan, execution=execution)
    (folder / f"result-{rank}").write_bytes(
        pickle.dumps((result.model, image, sorted(result.files), records))
    )


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def two_workers(folder: Path) -> None:
    """Run `work` in both; whatever happens, nothing is left running, although TensorFlow takes no SIGTERM."""
    addresses = free_addresses(2)
    code = f"import sys; sys.path.insert(0, {os.fspath(Path(__file__).parent)!r}); from pathlib import Path; "
    code += "from test_tf_workers import work; work(Path(sys.argv[1]))"
    processes = []
    try:
        for index in range(2):
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {"TF_CONFIG": json.dumps(cluster), "TF_CPP_MIN_LOG_LEVEL": "3"}
            with (folder / f"output-{index}").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", code, os.fspath(folder)],
                        env=os.environ | environment,
                        stdout=output,
                        stderr=output,
                    )
                )
        deadline = time.monotonic() + SECONDS
        for index, process in enumerate(processes):
            process.wait(max(0.0, deadline - time.monotonic()))
            assert process.returncode == 0, (folder / f"output-{index}").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path, monkeypatch):
    """Ctrl-C on the second ends both after the same step; the first alone writes."""
    scan = simulate_star(64, 15, n_photons=1e5, seed=3)
    (tmp_path / "arguments").write_bytes(pickle.dumps((scan, config(2), TOGETHER)))
    two_workers(tmp_path)
    (first, image, files, records), (second, other, none, silent) = (
        pickle.loads((tmp_path / f"result-{rank}").read_bytes()) for rank in range(2)
    )
    stopping_in_epoch_2(monkeypatch)
    alone = workflows.train(
        scan, config(4), tmp_path / "alone", backend="tensorflow", execution=SINGLE_DEVICE
    ).model

    assert first.interrupted
    assert second.interrupted
    assert alone.interrupted
    assert (first.training_state.step, first.training_state.batches_done) == (3, 4)
    assert alone.training_state.step == 3
    assert first.training_state.loss_sum == pytest.approx(alone.training_state.loss_sum, rel=1e-12)
    for kind in ("first_moments", "second_moments"):
        got, same, want = (getattr(model.training_state, kind) for model in (first, second, alone))
        assert max(deviation(got[name], want[name]) for name in want if want[name].any()) < 1e-9, kind
        for name in want:
            np.testing.assert_array_equal(got[name], same[name])
    for name in alone.weights:
        assert deviation(first.weights[name], alone.weights[name]) < 1e-6, name
        np.testing.assert_array_equal(first.weights[name], second.weights[name])
    for name in ("train_loss", "val_loss"):
        (got,), (same,), (want,) = (
            [getattr(record, name) for record in model.history] for model in (first, second, alone)
        )
        assert got == same
        assert got == pytest.approx(want, rel=1e-12)

    assert tuple(records) == first.history
    assert not silent
    assert not none
    assert {"archive", "config", "history"} <= set(files)
    kept = TensorFlowBackend().load(tmp_path / "checkpoints" / "last.wts.h5.zip")
    assert kept.training_state.loss_sum == first.training_state.loss_sum
    assert len((tmp_path / "logs" / "metrics.csv").read_text().splitlines()) > 1

    want = TensorFlowBackend().infer(first, scan, execution=SINGLE_DEVICE)
    np.testing.assert_array_equal(image.object, other.object)
    assert deviation(image.object, want.object) < 1e-6
    np.testing.assert_allclose(image.coverage, want.coverage, rtol=1e-6)
    assert image.object_patches is None


def cluster(job="worker", index=0, **jobs):
    jobs = jobs or {"worker": ["a:1", "a:2", "b:1"]}
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_the_parts_of_all_replicas_are_the_batch(monkeypatch, count):
    """Two processes with three devices each, of which one replica at a time is looked at."""
    found, counts = [], []
    for replica in range(6):
        context = SimpleNamespace(
            num_replicas_in_sync=6,
            replica_id_in_sync_group=replica,
            strategy=SimpleNamespace(extended=SimpleNamespace(worker_devices=("",) * 3)),
        )
        monkeypatch.setattr(tf.distribute, "get_replica_context", lambda here=context: here)
        own = ProcessGroup(replica // 3, 2).shard(count)
        held = tf.range(own.start, own.stop) if len(own) else tf.constant([-1])
        part, fraction = own_part({"diffraction": held, SHARD_SIZES: tf.constant([0, count])})
        groups = round(float(fraction) * count)
        assert set(part) == {"diffraction"}
        assert len(part["diffraction"]) == max(groups, 1)
        found.extend(part["diffraction"].numpy()[:groups])
        counts.append(groups)
    assert found == list(range(count))
    assert max(counts) - min(counts) <= 1


def test_processes_of_tf_config(monkeypatch):
    run = ExecutionConfig(accelerator="cpu")
    assert process_group_of(run) == ProcessGroup()
    monkeypatch.setenv("TF_CONFIG", cluster(index=1))
    assert process_group_of(run) == ProcessGroup(1, 3)
    assert process_group_of(dataclasses.replace(run, strategy="multi_worker_mirrored")) == ProcessGroup(1, 3)
    launch = launched(run, "tensorflow")
    assert (launch.local_rank, launch.local_size) == (1, 2)
    assert not is_first_process(run, "tensorflow")
    with pytest.raises(ConfigError, match="'mirrored' for the 3 workers of TF_CONFIG, want 'auto'"):
        process_group_of(dataclasses.replace(run, strategy="mirrored"))
    apart = dataclasses.replace(run, strategy="single_device")
    assert process_group_of(apart) == ProcessGroup()
    assert is_first_process(apart, "tensorflow")
    with pytest.raises(ConfigError, match="'single_device' with devices=2"):
        process_group_of(dataclasses.replace(apart, devices=2))

    monkeypatch.setenv("TF_CONFIG", cluster("worker", 0, worker=["a:2"], chief=["a:1"]))
    assert process_group_of(run) == ProcessGroup(1, 2)
    monkeypatch.setenv("TF_CONFIG", cluster("chief", 0, worker=["a:2"], chief=["a:1"]))
    assert process_group_of(run) == ProcessGroup(0, 2)
    monkeypatch.setenv("TF_CONFIG", cluster(worker=["a:1"]))
    assert process_group_of(dataclasses.replace(run, strategy="multi_worker_mirrored")) == ProcessGroup()
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert process_group_of(run) == ProcessGroup()


def test_several_processes_need_to_know_of_each_other(monkeypatch):
    run = ExecutionConfig(accelerator="cpu", strategy="multi_worker_mirrored")
    with pytest.raises(ConfigError, match="'multi_worker_mirrored', but TF_CONFIG is not set, and srun"):
        process_group_of(run)
    launch = {
        "TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2,
    }  # fmt: skip
    for name, value in launch.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigError, match=r"torchrun: started 2 processes, .* set TF_CONFIG in each"):
        process_group_of(run)
    monkeypatch.setenv("TF_CONFIG", cluster(index=2))
    assert process_group_of(run) == ProcessGroup(2, 3)
    assert launched(run, "torch").launcher == "torchrun"


def test_tasks_of_srun_need_no_tf_config(monkeypatch):
    slurm = {
        "JOB_ID": 7, "NODEID": 1, "PROCID": 2, "LOCALID": 0, "STEP_ID": 0, "STEP_NUM_TASKS": 3,
        "STEP_TASKS_PER_NODE": "2,1", "STEP_NODELIST": "node[1-2]",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    run = ExecutionConfig(accelerator="cpu", strategy="multi_worker_mirrored")
    assert process_group_of(run) == ProcessGroup(2, 3)
    assert not is_first_process(run, "tensorflow")
    for strategy in ("auto", "mirrored"):
        apart = dataclasses.replace(run, strategy=strategy, devices=2)
        assert process_group_of(apart) == ProcessGroup()
        assert is_first_process(apart, "tensorflow")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert process_group_of(run) == ProcessGroup()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    tf.zeros(1)
    backend, scan = TensorFlowBackend(), simulate_star(64, 4, n_photons=1e5, seed=3)
    with pytest.raises(ConfigError, match=r"srun: names 3 workers, but TensorFlow has computed something"):
        backend.train(scan, config(2), execution=run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker 0", "got 'worker 0', which is no JSON"),
        ("[1]", r"got '\[1\]'"),
        (cluster("ps", ps=["a:1"], worker=["a:2"]), "cluster: got {'ps'"),
        (cluster(worker="a:1"), "cluster: got {'worker': 'a:1'}"),
        (cluster("evaluator"), r"task: got .*, want one of the cluster \['worker'\]"),
        (cluster(index=3), r"want an index in 0 .. 2; set it to something like .*\"index\": 0"),
        (cluster(index=None), "want an index in 0 .. 2"),
    ],
)
def test_a_cluster_that_is_not_understood_is_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match=f"^TF_CONFIG: .*{message}"):
        process_group_of(ExecutionConfig(accelerator="cpu"))


def test_after_the_first_computation_it_is_too_late(monkeypatch):
    tf.zeros(1)
    monkeypatch.setenv("TF_CONFIG", cluster())
    backend, scan = TensorFlowBackend(), simulate_star(64, 4, n_photons=1e5, seed=3)
    with pytest.raises(ConfigError, match="TensorFlow has computed something in this process already"):
        backend.train(scan, config(2), execution=ExecutionConfig(accelerator="cpu"))
    with pytest.raises(ConfigError, match="devices: got 2 for the workers of TF_CONFIG, want 1"):
        backend.train(scan, config(2), execution=ExecutionConfig(accelerator="cpu", devices=2))
