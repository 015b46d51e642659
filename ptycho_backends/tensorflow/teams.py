"""Several devices that train or make an image together: a replica of the model on each, in this process.

`docs/several-devices.md` tells what they do together.
"""

import os
from typing import Any

import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.launch import launched
from ptycho_backends.tensorflow.arrays import TensorBatch

# Strategies that mean one thing here: a replica on each device of this process.
SHARED = ("auto", "mirrored")
# A processor is not divided into more devices than it has cores; but in two, to try it.
LEAST_CORES = 2
# A variable is the same everywhere, because everywhere the same is added to it.
SAME_EVERYWHERE = tf.VariableAggregation.ONLY_FIRST_REPLICA


def strategy_of(execution: ExecutionConfig, kind: str) -> tf.distribute.Strategy:
    """Who takes part: `execution.devices` devices of `kind`, 'CPU' or 'GPU'; TensorFlow's default for one.

    Raises
    ------
    ConfigError
        If there are not so many, or the strategy is none of those that this backend knows.
    """
    require_devices(execution, kind)
    if execution.devices == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"/{kind}:{number}" for number in range(execution.devices)])


def require_devices(execution: ExecutionConfig, kind: str) -> None:
    """Raise what `strategy_of` would."""
    wanted = execution.devices
    if execution.strategy not in SHARED:
        raise ConfigError(
            f"strategy: got {execution.strategy!r}, want one of "
            + ", ".join(map(repr, SHARED))
            + "; the TensorFlow backend computes on the devices of one process"
        )
    launch = launched(execution)
    if launch is not None and launch.size > 1:
        raise ConfigError(
            "torchrun, srun: the TensorFlow backend computes on the devices of one process; start it as one, "
            "with devices set to their number"
        )
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


def own_part(batch: TensorBatch) -> tuple[TensorBatch, tf.Tensor | None]:
    """What this replica takes of `batch`, and its share of the groups; all and None where there is one.

    The part is never empty, because every replica takes part in every step; the share may be 0.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return batch, None
    number = tf.cast(context.replica_id_in_sync_group, tf.int32)
    count = tf.shape(batch["diffraction"])[0]
    first, last = _bounds(count, number, replicas)
    share = tf.cast(last - first, tf.float64) / tf.cast(count, tf.float64)
    first = tf.minimum(first, count - 1)
    part = slice(first, tf.maximum(last, first + 1))
    return {name: tensor[part] for name, tensor in batch.items()}, share


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
