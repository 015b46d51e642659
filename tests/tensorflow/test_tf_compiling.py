"""Graphs: made once each, whatever TensorFlow thinks of their number."""

import logging

import tensorflow as tf

from ptycho_backends.tensorflow.compiling import compiled


def test_many_graphs_of_one_function_are_no_warning(caplog):
    """As of many models that are trained in one process."""

    def doubled(value: tf.Tensor) -> tf.Tensor:
        return 2 * value

    with caplog.at_level(logging.WARNING, "tensorflow"):
        tf.get_logger().addHandler(caplog.handler)
        try:
            results = [float(compiled(doubled, tf.TensorSpec(()))(tf.constant(3.0))) for _ in range(20)]
        finally:
            tf.get_logger().removeHandler(caplog.handler)
    assert results == [6.0] * 20
    assert "retracing" not in caplog.text
