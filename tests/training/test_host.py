"""Settings of the process that threads hold together, and forked children."""

import contextlib
import os
import threading

import pytest

from ptycho_backends.errors import BackendUnavailableError
from ptycho_backends.training import host
from ptycho_backends.training.host import HeldTogether, require_unforked

WAIT = 10.0


@pytest.fixture
def switch():
    """A switch of the process, and the context that sets it."""
    value = ["program's"]

    @contextlib.contextmanager
    def at(wanted):
        before, value[0] = value[0], wanted
        try:
            yield
        finally:
            value[0] = before

    return value, HeldTogether(at)


def test_the_last_of_several_threads_restores(switch):
    value, held = switch
    began, may_end = threading.Event(), threading.Event()

    def work():
        with held("ours"):
            began.set()
            may_end.wait(WAIT)

    thread = threading.Thread(target=work)
    with held("ours"):
        thread.start()
        assert began.wait(WAIT)
    # the first has left, the second computes on
    assert value == ["ours"]
    may_end.set()
    thread.join(WAIT)
    assert value == ["program's"]


def test_another_setting_waits_for_its_turn(switch):
    value, held = switch
    seen = []

    def work():
        with held("theirs"):
            seen.append(value[0])

    thread = threading.Thread(target=work)
    with held("ours"):
        thread.start()
        thread.join(0.1)
        assert seen == []
        assert value == ["ours"]
    thread.join(WAIT)
    assert seen == ["theirs"]
    assert value == ["program's"]


def test_within_one_thread_settings_nest(switch):
    value, held = switch
    with held("ours"):
        with held("inner"):
            assert value == ["inner"]
        assert value == ["ours"]
        with pytest.raises(ZeroDivisionError), held("ours"):
            _ = 1 // 0
        assert value == ["ours"]
    assert value == ["program's"]


def test_a_child_whose_parent_has_computed_is_refused(monkeypatch):
    monkeypatch.setattr(host, "_computed_in", {})
    require_unforked("torch", lambda: False)
    require_unforked("torch", lambda: False)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    require_unforked("torch", lambda: True)
    with pytest.raises(BackendUnavailableError, match="get_context\\('spawn'\\)"):
        require_unforked("torch", lambda: False)
    # it may compute with what its parent had not used
    require_unforked("tensorflow", lambda: False)
