"""The layers of a model as `tf.Module`s, named as their weights are: variables in a tree that can be looked at."""

from collections.abc import Mapping

import tensorflow as tf

from ptycho_backends.reference.initial_weights import is_running_value
from ptycho_backends.tensorflow import process_group


class Layer(tf.Module):
    """A layer, block or decoder: its variables, and the layers in it.

    Parameters
    ----------
    name : str
        Last part of its canonical name, as 'block1'; the attribute of the module above that holds it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)


def attach_layers(root: tf.Module, tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Variable]:
    """Make `tensors` variables of `root` and of modules below it.

    Parameters
    ----------
    root : tf.Module
        Gets an attribute for each layer and weight.
    tensors : mapping of tensors
        Canonical names in canonical order.

    Returns
    -------
    dict of tf.Variable
        By canonical name, which is also the name of each variable.
    """
    variables = {}
    for name, value in tensors.items():
        variable = tf.Variable(
            value,
            name=name,
            trainable=not is_running_value(name),
            aggregation=process_group.SAME_EVERYWHERE,
        )
        layer, _, kind = name.rpartition("/")
        module = root
        for part in layer.split("/") if layer else ():
            if not hasattr(module, part):
                setattr(module, part, Layer(part))
            module = getattr(module, part)
        setattr(module, kind, variable)
        variables[name] = variable
    return variables
