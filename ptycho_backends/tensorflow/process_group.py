"""Devices that train or make an image together: replicas of the model in one process, or in several.

`docs/several-devices.md` describes their work. Processes that a `TF_CONFIG` names join, and tasks of `srun` whose
strategy is 'multi_worker_mirrored'; TensorFlow connects them once, when the first of the backend's methods is called,
for as long as they run.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.tensorflow.arrays import SHARD_SIZES, TensorBatch, shard_sizes
from ptycho_backends.tensorflow.compiling import compiled
from ptycho_backends.training.launch import (
    EXAMPLE,
    SINGLE_DEVICE,
    TF_CONFIG,
    TORCHRUN,
    Cluster,
    ProcessRank,
    known_cluster,
    launched,
)

# Strategies that are one and the same here: a replica on each device of this process.
SHARED = ("auto", "mirrored")
# The strategy of several processes, with a replica on each device of each of them.
SEVERAL_PROCESSES = "multi_worker_mirrored"
# A processor is not divided into more devices than it has cores; but in two, to try it.
LEAST_CORES = 2
# A variable is the same on all replicas, because the same number is added to it on all of them.
SAME_EVERYWHERE = tf.VariableAggregation.ONLY_FIRST_REPLICA


@dataclass(frozen=True)
class ProcessGroup(ProcessRank):
    """Processes that work together; this one has the rank `rank`."""

    def any(self, asked: bool) -> bool:
        """True if `asked` is true in any process; a collective operation of all of them."""
        return asked if self.size == 1 else bool(_sum_over_processes(tf.constant(int(asked))))

    def add_up(self, array: NDArray[np.floating]) -> None:
        """Replace `array` by its sum over the processes."""
        if self.size > 1:
            array[...] = _sum_over_processes(tf.convert_to_tensor(array)).numpy()


@compiled
def _sum_over_processes(tensor: tf.Tensor) -> tf.Tensor:
    """The sum of the `tensor` of each process, on every one of them."""
    strategy = _joined[0].strategy

    def of_first_replica(here: tf.Tensor) -> tf.Tensor:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        is_first = tf.equal(number % len(strategy.extended.worker_devices), 0)
        return summed(tf.where(is_first, here, tf.zeros_like(here)))

    return strategy.experimental_local_results(strategy.run(of_first_replica, (tensor,)))[0]


@dataclass(frozen=True)
class _Joined:
    """Connection of this process with the others, which is made once."""

    cluster: Cluster
    kind: str
    devices: int
    strategy: tf.distribute.Strategy


_joined: list[_Joined] = []


def process_group_of(execution: ExecutionConfig) -> ProcessGroup:
    """The processes that take part in the work that begins now.

    Raises
    ------
    ConfigError
        If processes were launched without each other's addresses, or this backend does not know the strategy,
        or the strategy is not for their number.
    """
    known = (*SHARED, SEVERAL_PROCESSES, SINGLE_DEVICE)
    if execution.strategy not in known:
        raise ConfigError(f"strategy: got {execution.strategy!r}, want one of " + ", ".join(map(repr, known)))
    if execution.strategy == SINGLE_DEVICE:
        if execution.devices > 1:
            raise ConfigError(
                f"strategy: got {SINGLE_DEVICE!r} with devices={execution.devices}; use 'auto' or 'mirrored'"
            )
        return ProcessGroup()
    launch = launched(execution, "tensorflow")
    several = launch is not None and launch.size > 1
    if launch is not None and several and launch.launcher == TORCHRUN:
        raise ConfigError(
            f"{TORCHRUN}: started {launch.size} processes, and TensorFlow does not know where the others "
            f"are; set {TF_CONFIG} in each of them to something like {EXAMPLE}, keep each to itself with "
            f"strategy={SINGLE_DEVICE!r}, or start one process with devices set to their number"
        )
    if execution.strategy == SEVERAL_PROCESSES and known_cluster() is None:
        raise ConfigError(
            f"strategy: got {SEVERAL_PROCESSES!r}, but {TF_CONFIG} is not set, and srun has not started this "
            f"process; set it in each process to something like {EXAMPLE}, or use 'auto'"
        )
    if launch is None or not several:
        return ProcessGroup()
    if execution.device_number is not None:
        raise ConfigError(
            f"accelerator: got {execution.accelerator!r} for {launch.size} processes, want "
            f"{execution.device_kind!r}: each of them has a device of its own"
        )
    if execution.strategy == "mirrored":
        raise ConfigError(
            f"strategy: got 'mirrored' for the {launch.size} workers of {launch.launcher}, want 'auto' or "
            f"{SEVERAL_PROCESSES!r}; or {SINGLE_DEVICE!r}, to keep each to itself"
        )
    return ProcessGroup(launch.rank, launch.size)


def strategy_of(execution: ExecutionConfig, kind: str) -> tf.distribute.Strategy:
    """Strategy of training: `execution.devices` devices of `kind`, 'CPU' or 'GPU', in each process.

    Raises
    ------
    ConfigError
        If there are fewer devices, or the processes have joined with others, or this backend does not know the
        strategy.
    """
    require_devices(execution, kind)
    if process_group_of(execution).size == 1:
        return own_strategy_of(execution, kind)
    joined = _joined[0]
    if (joined.kind, joined.devices) != (kind, execution.devices):
        raise ConfigError(
            f"accelerator, devices: got {execution.devices} {kind}, but this process has joined the other workers "
            f"with {joined.devices} {joined.kind}, which cannot be changed; start it anew"
        )
    return joined.strategy


def own_strategy_of(execution: ExecutionConfig, kind: str) -> tf.distribute.Strategy:
    """Strategy of the devices of this process alone; TensorFlow's default for one device."""
    if execution.devices == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"/{kind}:{number}" for number in range(execution.devices)])


def require_devices(execution: ExecutionConfig, kind: str) -> None:
    """Raise as `strategy_of` does; the processes of a cluster join here, in the first call."""
    wanted = execution.devices
    if process_group_of(execution).size > 1:
        _join(kind, wanted)
    if wanted == 1:
        return
    if kind == "CPU":
        _divide_processor(wanted)
    there = len(tf.config.list_logical_devices(kind))
    if there < wanted:
        hint = (
            "; ask for several before TensorFlow computes anything in this process" if kind == "CPU" else ""
        )
        raise ConfigError(f"devices: got {wanted}, but TensorFlow has {there} {kind} here{hint}")


def _join(kind: str, devices: int) -> None:
    """Connect to the processes of the cluster, and wait until all of them have connected."""
    cluster = known_cluster()
    assert cluster is not None
    launcher = cluster.launcher
    if kind == "CPU" and devices > 1:
        raise ConfigError(
            f"devices: got {devices} for the workers of {launcher}, want 1: each has one processor; start more"
        )
    if _joined:
        if _joined[0].cluster != cluster:
            raise ConfigError(f"{launcher}: changed since this process has joined the others; start it anew")
        return
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({job: list(addresses) for job, addresses in cluster.jobs}),
        task_type=cluster.job,
        task_id=cluster.index,
        num_accelerators={} if kind == "CPU" else {kind: devices},
    )
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.AUTO
    )
    try:
        with _ctrl_c_ends_at_once():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except RuntimeError as error:
        raise ConfigError(
            f"{launcher}: names {len(cluster.addresses)} workers, but TensorFlow has computed something in this "
            "process already, and cannot join the others any more; let a method of the backend be the first that "
            f"uses TensorFlow, or keep each process to itself with strategy={SINGLE_DEVICE!r}"
        ) from error
    except tf.errors.UnknownError as error:
        raise ConfigError(
            f"{launcher}: cannot listen at {cluster.addresses[cluster.rank]!r}, the address of this process "
            f"({error.message}); give it one of this machine, and a port that is free"
        ) from error
    _joined.append(_Joined(cluster, kind, devices, strategy))


@contextlib.contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
    """Let SIGINT end the process while TensorFlow waits for the others; Python's handler would wait, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _divide_processor(count: int) -> None:
    """Divide the processor into `count` devices; only possible before TensorFlow's first computation."""
    (processor,) = tf.config.list_physical_devices("CPU")
    if count > max(LEAST_CORES, os.cpu_count() or 1):
        return
    made = tf.config.get_logical_device_configuration(processor)
    if made is not None and len(made) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        )
    except RuntimeError:
        # it has started; the caller counts the devices
        return


def own_part(batch: TensorBatch) -> tuple[TensorBatch, tf.Tensor | None]:
    """The part of `batch` for this replica, and the fraction of all groups in it; all and None for one replica.

    The part is never empty, because every replica takes part in every step; the fraction may be 0.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return batch, None
    number = tf.cast(context.replica_id_in_sync_group, tf.int32)
    count, held = shard_sizes(batch)[1], tf.shape(batch["diffraction"])[0]
    first, last = _bounds(count, number, replicas)
    fraction = tf.cast(last - first, tf.float64) / tf.cast(count, tf.float64)
    # counted from the first group that this process holds
    here = len(context.strategy.extended.worker_devices)
    before, _ = _bounds(count, number // here, replicas // here)
    first = tf.minimum(first - before, held - 1)
    part = slice(first, tf.maximum(last - before, first + 1))
    return {name: tensor[part] for name, tensor in batch.items() if name != SHARD_SIZES}, fraction


def all_bounds(count: int, replicas: int) -> list[tuple[int, int]]:
    """First and last (exclusive) of `count` groups for each replica."""
    return [_bounds(count, number, replicas) for number in range(replicas)]


def _bounds(count: Any, number: Any, replicas: int) -> tuple[Any, Any]:
    return count * number // replicas, count * (number + 1) // replicas


def summed(values: Any) -> Any:
    """The sum over the replicas of each tensor in `values`, on every one of them; differentiable."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def everywhere(function: Any) -> Any:
    """`function` on every replica, returning the results of all; as it is where there is one replica."""
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return function

    def run(*arguments: Any) -> Any:
        return strategy.experimental_local_results(strategy.run(function, arguments))

    return run
