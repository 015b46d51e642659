"""Benefit of generated code for the torch network (`compile_network`), and the batches until it pays.

`extra_info`: seconds until the first result, milliseconds of a batch with and without, and `break_even_batches`,
or None where it never pays.
"""

import dataclasses
import statistics
import time

import numpy as np
import pytest
from floor import make_case

from ptycho_backends.registry import installed_backends

pytestmark = pytest.mark.skipif("torch" not in installed_backends(), reason="PyTorch is not installed")
ROUNDS = 7


@pytest.mark.large
@pytest.mark.parametrize("plan", [(1, 1, 64, 16)], indirect=True, ids=["f1-g1"])
@pytest.mark.parametrize("work", ["infer", "step"])
def test_compiling(benchmark, plan, execution, work):
    cases = [
        make_case("torch", plan, dataclasses.replace(execution, compile_network=compiled))
        for compiled in (False, True)
    ]
    eager, compiled = (getattr(case, work) for case in cases)
    want = eager()
    started = time.perf_counter()
    got = compiled()
    first = time.perf_counter() - started
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-3, atol=1e-3)
    times: list[list[float]] = [[], []]

    def alternate() -> None:
        for case, call, seconds in zip(cases, (eager, compiled), times, strict=True):
            seconds.append(case.timed(call))

    benchmark.pedantic(alternate, rounds=ROUNDS, warmup_rounds=1)
    plain, generated = (statistics.median(seconds[1:]) for seconds in times)
    gain = plain - generated
    benchmark.extra_info.update(
        {
            "seconds_to_compile": first,
            "milliseconds": 1e3 * plain,
            "milliseconds_compiled": 1e3 * generated,
            "break_even_batches": first / gain if gain > 0 else None,
        }
    )
