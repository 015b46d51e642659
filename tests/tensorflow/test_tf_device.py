"""Devices by their number, on machines that are made up."""

import pytest
import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.tensorflow.device import device

SECOND = ExecutionConfig(accelerator="gpu:1")


def with_gpus(monkeypatch, count):
    there = tf.config.list_physical_devices()
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: ["a GPU"] * count if kind == "GPU" else there
    )


def test_the_device_of_a_number(monkeypatch):
    with_gpus(monkeypatch, 2)
    assert device(SECOND) == "/GPU:1"
    assert device(ExecutionConfig(accelerator="gpu")) == "/GPU:0"
    assert device(ExecutionConfig(accelerator="cpu")) == "/CPU:0"


@pytest.mark.parametrize(
    ("count", "message"), [(0, "TensorFlow has none here"), (1, "TensorFlow has 1 of them")]
)
def test_a_number_that_is_not_there_is_refused_before_anything_is_computed(monkeypatch, count, message):
    with_gpus(monkeypatch, count)
    with pytest.raises(ConfigError, match=f"got 'gpu:1', but {message}"):
        TensorFlowBackend().checked(SECOND)
