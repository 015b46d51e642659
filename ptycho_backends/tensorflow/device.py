"""Device and precision of a computation on TensorFlow."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.tensorflow import process_group
from ptycho_backends.training.host import HeldTogether


def compute_dtype(execution: ExecutionConfig) -> tf.DType:
    """float64 for '64-true', else float32 (mixed precision keeps its weights there)."""
    return tf.float64 if execution.precision == "64-true" else tf.float32


def network_dtype(execution: ExecutionConfig) -> tf.DType:
    """Precision of the network's convolutions: bfloat16 for 'bf16-mixed', else `compute_dtype`."""
    return tf.bfloat16 if execution.precision == "bf16-mixed" else compute_dtype(execution)


def device(execution: ExecutionConfig) -> str:
    """The device that `execution.accelerator` names, as TensorFlow spells it.

    Raises
    ------
    ConfigError
        If this machine does not have it, or this backend does not compute that way.
    """
    if execution.precision == "16-mixed":
        raise ConfigError(
            "precision: got '16-mixed', which the TensorFlow backend lacks; use 'bf16-mixed' or '32-true'"
        )
    if execution.allow_tf32:
        raise ConfigError(
            "allow_tf32: got True, but TensorFlow cannot allow it to the network alone, and the physics "
            "needs more than ten bits; use allow_tf32=False or the torch backend"
        )
    kind = device_kind(execution)
    process_group.require_devices(execution, kind)
    return f"/{kind}:{execution.device_number or 0}"


def strategy(execution: ExecutionConfig) -> tf.distribute.Strategy:
    """The devices that train together as `execution` asks for; the first of this process is `device`."""
    return process_group.strategy_of(execution, device_kind(execution))


def device_kind(execution: ExecutionConfig) -> str:
    """'CPU' or 'GPU', as `execution.accelerator` asks for; ConfigError if TensorFlow has none."""
    there = len(tf.config.list_physical_devices("GPU"))
    wanted, number = execution.device_kind, execution.device_number
    if wanted == "cpu" or (wanted == "auto" and not there):
        return "CPU"
    if wanted not in ("auto", "gpu", "cuda") or not there:
        raise ConfigError(
            f"accelerator: got {execution.accelerator!r}, but TensorFlow has none here; use 'cpu' or 'auto'"
        )
    if number is not None and number >= there:
        raise ConfigError(
            f"accelerator: got {execution.accelerator!r}, but TensorFlow has {there} of them, numbered from 0"
        )
    return "GPU"


@contextlib.contextmanager
def computing(execution: ExecutionConfig) -> Iterator[None]:
    """Compute on the device of `execution`, in the precision that it names.

    On the CPU every run gives the same numbers, because no operation of the model sums in an order that depends
    on timing. On a GPU `deterministic` needs TensorFlow's switch for the whole process, which cannot be turned
    off again.
    """
    where = device(execution)
    # a strategy places several devices itself
    place = tf.device(where) if execution.devices == 1 else contextlib.nullcontext()
    if execution.deterministic and where.startswith("/GPU"):
        tf.config.experimental.enable_op_determinism()
    with _without_tf32(), place:
        yield


@contextlib.contextmanager
def _tf32_restored() -> Iterator[None]:
    # TF32 has ten bits; a translation by a fraction of a pixel would be off by 1e-3
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)


_without_tf32 = HeldTogether(_tf32_restored)
