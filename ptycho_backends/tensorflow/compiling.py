"""Compilation of the steps into TensorFlow graphs."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable[..., Any], *signature: Any) -> tf.types.experimental.PolymorphicFunction:
    """`function` as a graph, traced once, for arguments of the given `tf.TensorSpec` (or dictionaries of them).

    No branch or loop of ours depends on the value of a tensor, so AutoGraph, which would translate all Python
    on the way and takes five seconds of the first training of a process, is left out.
    """
    return tf.function(function, input_signature=signature or None, autograph=False)
