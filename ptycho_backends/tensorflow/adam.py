"""The optimiser of a `PtychoModel`."""

from collections.abc import Mapping

import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.tensorflow import process_group
from ptycho_backends.tensorflow.arrays import tensors_from_weights, weights_from_tensors
from ptycho_backends.values import TrainingState


def counter(value: object, dtype: tf.DType | None = None) -> tf.Variable:
    """A variable that is not trained, the same on all replicas."""
    return tf.Variable(value, dtype=dtype, trainable=False, aggregation=process_group.SAME_EVERYWHERE)


class Adam(tf.Module):
    """Adam over some of a model's variables, with the constants that every backend shares.

    Algorithm 1 of Kingma and Ba: epsilon is added to the root of the bias-corrected second moment. Keras
    adds it to the root before the correction, so its steps differ from torch's.

    Gradients and moments of a part are one vector: some twenty more operations for each of the 88 variables of
    'attention' were a quarter of the graph of its training step.

    Parameters
    ----------
    parts : mapping of str to mapping of str to tf.Variable
        By part and canonical name, variables that move together, at one learning rate; all of one dtype.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, tf.Variable]]) -> None:
        super().__init__()
        self._parts = {part: dict(variables) for part, variables in parts.items()}
        self._step = counter(0, tf.int64)
        self._first, self._second = self.zeros(), self.zeros()

    def zeros(self) -> dict[str, tf.Variable]:
        """A vector of zeros for each part, as long as `flattened` gradients are."""
        return {
            part: counter(self._flat({name: tf.zeros_like(one) for name, one in variables.items()}, part))
            for part, variables in self._parts.items()
        }

    def restart(self, state: TrainingState | None = None) -> None:
        """Begin anew, or from a resume state."""
        self._step.assign(0 if state is None else state.step)
        self._set_moments(self._first, {} if state is None else state.first_moments)
        self._set_moments(self._second, {} if state is None else state.second_moments)

    def _set_moments(self, moments: Mapping[str, tf.Variable], saved: Mapping[str, NDArray]) -> None:
        for part, vector in moments.items():
            values = {name: tf.zeros_like(one) for name, one in self._parts[part].items()}
            known = {name: saved[name] for name in values if name in saved}
            vector.assign(self._flat(values | tensors_from_weights(known, vector.dtype), part))

    def _flat(self, values: Mapping[str, tf.Tensor], part: str) -> tf.Tensor:
        return tf.concat([tf.reshape(values[name], (-1,)) for name in self._parts[part]], axis=0)

    def _pieces(self, vector: tf.Tensor, part: str) -> dict[str, tf.Tensor]:
        """Inverse of `_flat`."""
        variables = self._parts[part]
        pieces = tf.split(vector, [one.shape.num_elements() for one in variables.values()])
        return {
            name: tf.reshape(piece, one.shape)
            for piece, (name, one) in zip(pieces, variables.items(), strict=True)
        }

    def flattened(self, gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One vector for each part that `gradients`, by canonical name, are of; they are of whole parts."""
        return {
            part: self._flat(gradients, part)
            for part, variables in self._parts.items()
            if not variables.keys().isdisjoint(gradients)
        }

    def apply(self, gradients: Mapping[str, tf.Tensor], rates: Mapping[str, tf.Tensor | float]) -> None:
        """Take one step along `flattened` gradients, each part at its own rate.

        A part without a gradient stays as it is, with its moments; steps are counted for all.
        """
        step = tf.cast(self._step.assign_add(1), tf.float64)
        # in float64, because 1 - beta2 has only four digits left in float32
        first_correction = 1.0 - tf.pow(tf.constant(constants.ADAM_BETA1, tf.float64), step)
        second_correction = tf.sqrt(1.0 - tf.pow(tf.constant(constants.ADAM_BETA2, tf.float64), step))
        for part, gradient in gradients.items():
            rate = tf.convert_to_tensor(rates[part], tf.float64) / first_correction
            dtype = gradient.dtype
            first, second = self._first[part], self._second[part]
            first.assign_add((gradient - first) * (1.0 - constants.ADAM_BETA1))
            second.assign(constants.ADAM_BETA2 * second + (1.0 - constants.ADAM_BETA2) * tf.square(gradient))
            root = tf.sqrt(second) / tf.cast(second_correction, dtype) + constants.ADAM_EPSILON
            moves = self._pieces(tf.cast(rate, dtype) * (first / root), part)
            for name, variable in self._parts[part].items():
                variable.assign_sub(moves[name])

    @property
    def steps_done(self) -> int:
        return int(self._step.numpy())

    @property
    def first_moments(self) -> dict[str, NDArray]:
        """By canonical name, in the precision of the variables."""
        return self._by_name(self._first)

    @property
    def second_moments(self) -> dict[str, NDArray]:
        """As `first_moments`."""
        return self._by_name(self._second)

    def _by_name(self, moments: Mapping[str, tf.Variable]) -> dict[str, NDArray]:
        tensors = {}
        for part, vector in moments.items():
            tensors.update(self._pieces(tf.convert_to_tensor(vector), part))
        return weights_from_tensors(tensors)
