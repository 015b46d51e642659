"""Signals of schedulers: deferred until work has ended in good order, then with the effect that they would have had."""

import os
import signal
import threading

import pytest

from ptycho_backends.refinement.refine import ByItself
from ptycho_backends.training import interrupts
from ptycho_backends.training.interrupts import Interrupts, Terminated, TrainingInterrupted, ending_in_order

SCHEDULERS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def handlers_as_before():
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SCHEDULERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def work_until(number, times=1):
    """A loop of steps, in the third of which a signal comes."""
    with Interrupts(ByItself()).listening() as listening:
        try:
            for step in range(10):
                for _ in range(times if step == 2 else 0):
                    os.kill(os.getpid(), number)
                listening.raise_if_requested()
        except TrainingInterrupted:
            return step, listening.within_step
    return None


@pytest.mark.parametrize("number", SCHEDULERS)
def test_work_ends_after_the_step_and_then_the_program_with_128_and_n(number):
    with pytest.raises(Terminated) as caught:
        ending_in_order(lambda: work_until(number))
    assert caught.value.code == 128 + number
    assert caught.value.signal == number
    assert caught.value.trained_model == (2, False)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_comes_twice_at_once_cuts_no_step_short():
    with pytest.raises(Terminated) as caught:
        ending_in_order(lambda: work_until(signal.SIGTERM, times=2))
    assert caught.value.trained_model == (2, False)


def test_the_same_signal_later_ends_at_once(monkeypatch):
    monkeypatch.setattr(interrupts, "SECONDS_OF_ONE_REQUEST", -1.0)
    with pytest.raises(Terminated) as caught:
        ending_in_order(lambda: work_until(signal.SIGTERM, times=2))
    assert caught.value.trained_model == (2, True)


def test_ctrl_c_ends_work_alone():
    assert ending_in_order(lambda: work_until(signal.SIGINT)) == (2, False)


def test_a_programs_own_handler_is_called_afterwards():
    calls = []
    signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    assert ending_in_order(lambda: work_until(signal.SIGTERM)) == (2, False)
    assert calls == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_are_ignored_or_handled_are_left_alone(number):
    """As under nohup."""
    signal.signal(number, signal.SIG_IGN)
    assert ending_in_order(lambda: work_until(number)) is None
    calls = []
    signal.signal(number, lambda number, frame: calls.append(number))
    assert ending_in_order(lambda: work_until(number)) is None
    assert calls == [number]


def test_threads_listen_to_nothing():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(ending_in_order(lambda: signal.getsignal(signal.SIGTERM)))
    )
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
