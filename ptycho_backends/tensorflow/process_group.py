"""Several devices that train or make an image together: replicas of the model in one process, or in several.

`docs/several-devices.md` tells what they do together. Processes that a `TF_CONFIG` names join; TensorFlow
connects them once, when the first of the backend's methods is called, for as long as they run.
"""

import contextlib
import itertools
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
from ptycho_backends.tensorflow.arrays import SHARD_SIZES, TensorBatch
from ptycho_backends.training.launch import EXAMPLE, SINGLE_DEVICE, TF_CONFIG, Cluster, launched, tf_cluster

# Strategies that mean one thing here: a replica on each device of this process.
SHARED = ("auto", "mirrored")
# And that of several processes, which have a replica on each device of each of them.
SEVERAL_PROCESSES = "multi_worker_mirrored"
# A processor is not divided into more devices than it has cores; but in two, to try it.
LEAST_CORES = 2
# A variable is the same everywhere, because everywhere the same is added to it.
SAME_EVERYWHERE = tf.VariableAggregation.ONLY_FIRST_REPLICA

# TensorFlow tells collective operations apart by numbers; its strategies count these from 1.
HOSTS_KEY = 1_000_000
ASKED_KEY = 0
_sum_keys = itertools.count(ASKED_KEY + 1)


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that work together; this is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, shows progress and calls back."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things this process does; parts of nearly equal size, one after the other."""
        return range(*_bounds(count, self.rank, self.size))

    def any(self, asked: bool) -> bool:
        """Whether some process asks; all of them must."""
        if self.size == 1:
            return asked
        return bool(self._sum(tf.constant(int(asked)), ASKED_KEY))

    def add_up(self, array: NDArray[np.floating]) -> None:
        """Replace `array` by its sum over the processes."""
        if self.size > 1:
            # a key is for one shape
            array[...] = self._sum(tf.convert_to_tensor(array), next(_sum_keys)).numpy()

    def _sum(self, tensor: tf.Tensor, key: int) -> tf.Tensor:
        # from host to host, so that nothing waits for a GPU
        with tf.device("/CPU:0"):
            return tf.raw_ops.CollectiveReduceV2(
                input=tensor,
                group_size=self.size,
                group_key=HOSTS_KEY,
                instance_key=key,
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
                communication_hint="ring",
            )


@dataclass(frozen=True)
class _Joined:
    """How this process has joined the others, which it does once."""

    cluster: Cluster
    kind: str
    devices: int
    strategy: tf.distribute.Strategy


_joined: list[_Joined] = []


def process_group_of(execution: ExecutionConfig) -> ProcessGroup:
    """Who takes part in what is started now.

    Raises
    ------
    ConfigError
        If processes were launched that do not know of each other, or the strategy is none of those that
        this backend knows, or not for so many.
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
    if launch is not None and several and launch.told_by != TF_CONFIG:
        raise ConfigError(
            f"{launch.told_by}: started {launch.size} processes, and TensorFlow does not know where the others "
            f"are; set {TF_CONFIG} in each of them to something like {EXAMPLE}, keep each to itself with "
            f"strategy={SINGLE_DEVICE!r}, or start one process with devices set to their number"
        )
    if execution.strategy == SEVERAL_PROCESSES and tf_cluster() is None:
        raise ConfigError(
            f"strategy: got {SEVERAL_PROCESSES!r}, but {TF_CONFIG} is not set; set it in each process to "
            f"something like {EXAMPLE}, or use 'auto'"
        )
    if launch is None or not several:
        return ProcessGroup()
    if execution.strategy == "mirrored":
        raise ConfigError(
            f"strategy: got 'mirrored' for the {launch.size} workers of {TF_CONFIG}, want 'auto' or "
            f"{SEVERAL_PROCESSES!r}; or {SINGLE_DEVICE!r}, to keep each to itself"
        )
    return ProcessGroup(launch.rank, launch.size)


def strategy_of(execution: ExecutionConfig, kind: str) -> tf.distribute.Strategy:
    """Who takes part in training: `execution.devices` devices of `kind`, 'CPU' or 'GPU', of each process.

    Raises
    ------
    ConfigError
        If there are not so many, or not the ones that the processes have joined with, or the strategy is
        none of those that this backend knows.
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
    """The devices of this process alone; TensorFlow's default for one."""
    if execution.devices == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"/{kind}:{number}" for number in range(execution.devices)])


def require_devices(execution: ExecutionConfig, kind: str) -> None:
    """Raise what `strategy_of` would; the processes of a cluster join here, when it is first called."""
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
    """Connect to the processes that `TF_CONFIG` names, and wait until all of them have come."""
    cluster = tf_cluster()
    assert cluster is not None
    if kind == "CPU" and devices > 1:
        raise ConfigError(
            f"devices: got {devices} for the workers of {TF_CONFIG}, want 1: each has one processor; start more"
        )
    if _joined:
        if _joined[0].cluster != cluster:
            raise ConfigError(f"{TF_CONFIG}: changed since this process has joined the others; start it anew")
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
            f"{TF_CONFIG}: names {len(cluster.addresses)} workers, but TensorFlow has computed something in this "
            "process already, and cannot join the others any more; let a method of the backend be the first that "
            f"uses TensorFlow, or keep each process to itself with strategy={SINGLE_DEVICE!r}"
        ) from error
    except tf.errors.UnknownError as error:
        raise ConfigError(
            f"{TF_CONFIG}: cannot listen at {cluster.addresses[cluster.rank]!r}, the address of this process "
            f"({error.message}); give it one of this machine, and a port that is free"
        ) from error
    _joined.append(_Joined(cluster, kind, devices, strategy))


@contextlib.contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
    """While TensorFlow waits for the others, Python's own handler would wait with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _divide_processor(count: int) -> None:
    """Make `count` devices of the processor; only possible before TensorFlow's first computation."""
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
        # it has started; how many there are is told by whoever counts them
        return


def groups_of(batch: TensorBatch) -> tf.Tensor:
    """Number of groups of the whole batch, of which the processes have a part each."""
    return batch.get(SHARD_SIZES, tf.shape(batch["diffraction"])[0])


def own_part(batch: TensorBatch) -> tuple[TensorBatch, tf.Tensor | None]:
    """What this replica takes of `batch`, and its share of the groups; all and None where there is one.

    The part is never empty, because every replica takes part in every step; the share may be 0.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return batch, None
    number = tf.cast(context.replica_id_in_sync_group, tf.int32)
    count, held = groups_of(batch), tf.shape(batch["diffraction"])[0]
    first, last = _bounds(count, number, replicas)
    share = tf.cast(last - first, tf.float64) / tf.cast(count, tf.float64)
    # counted from the first group that this process holds
    here = len(context.strategy.extended.worker_devices)
    before, _ = _bounds(count, number // here, replicas // here)
    first = tf.minimum(first - before, held - 1)
    part = slice(first, tf.maximum(last - before, first + 1))
    return {name: tensor[part] for name, tensor in batch.items() if name != SHARD_SIZES}, share


def all_bounds(count: int, replicas: int) -> list[tuple[int, int]]:
    """First and last (exclusive) of `count` groups that each replica takes."""
    return [_bounds(count, number, replicas) for number in range(replicas)]


def _bounds(count: Any, number: Any, replicas: int) -> tuple[Any, Any]:
    return count * number // replicas, count * (number + 1) // replicas


def summed(values: Any) -> Any:
    """The sum over the replicas of each tensor in `values`, on every one of them; differentiable."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def everywhere(function: Any) -> Any:
    """`function` on every replica, and the result of each of them; alone, as it is."""
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return function

    def run(*arguments: Any) -> Any:
        return strategy.experimental_local_results(strategy.run(function, arguments))

    return run
