"""Any order of calls of the protocol, with sound and unsound arguments, on every backend that is tested.

`PTYCHO_STATEFUL` sets the number of orders that are tried (nox -s stateful).
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ptycho_backends.registry import installed_backends
from ptycho_backends.testing.stateful import BATCHES, WEIGHTS, protocol_machine

ORDERS = {"torch": 6, "tensorflow": 3}


@pytest.fixture(params=["torch", pytest.param("tensorflow", marks=pytest.mark.slow)])
def backend(request):
    asked = request.config.getoption("--backend")
    if request.param not in installed_backends() or (asked and request.param not in asked):
        pytest.skip(f"{request.param}: not installed, or not asked for")
    if request.param == "torch":
        yield request.param
        return
    import tensorflow as tf

    # tracing a graph for each of many tiny models would take longer than they do
    tf.config.run_functions_eagerly(True)
    yield request.param
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly")
def test_every_call_works_or_raises_its_error(backend):
    chosen = settings(
        max_examples=int(os.environ.get("PTYCHO_STATEFUL", ORDERS[backend])),
        stateful_step_count=10,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(protocol_machine(backend), settings=chosen)


def test_the_first_of_each_choice_is_sound():
    assert BATCHES[0] == WEIGHTS[0] == "sound"
