"""Cases of verbs: they print as what makes them, can be planned, and run where they are told to."""

import dataclasses
import itertools

import pytest

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.reference import model as reference
from ptycho_backends.testing import agreement, verbs
from ptycho_backends.testing.devices import on_device
from ptycho_backends.testing.measurements import DOUBLE, Timings
from ptycho_backends.testing.parity import case_of
from ptycho_backends.testing.verb_cases import VERBS, draw_verb_case, draw_verb_cases
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import Prediction


def test_cases_print_as_what_makes_them():
    for seed in range(60):
        case = draw_verb_case(seed)
        assert case_of(repr(case)) == case
    assert [*draw_verb_cases(len(VERBS))] == [*VERBS]
    assert next(draw_verb_cases(1, seed=3)) == draw_verb_case(3_000_000)


def test_text_that_is_no_case_is_refused():
    for text in (
        "VerbCase(",
        "VerbCase(3)(4)",
        "print(seed=1)",
        "VerbCase(no_such_field=1)",
        "VerbCase(seed=f())",
    ):
        with pytest.raises(ConfigError, match="want a call as reports print it"):
            case_of(text)


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_drawn_cases_can_be_planned(seed):
    case = draw_verb_case(seed, architecture="unrolled")
    plan = plan_training(case.data(), case.config, "torch", case.execution(DOUBLE))
    assert len(plan.train_indices) >= 4
    plan_training(case.data(), case.longer, "torch", case.execution(DOUBLE, after_the_stop=True))


def test_every_setting_occurs_each_way():
    """What the kit runs leaves no field of a case at one value."""
    for field in dataclasses.fields(VERBS[0]):
        assert len({getattr(case, field.name) for case in VERBS}) > 1, field.name


def test_a_backend_computes_where_it_is_told_to():
    class Told:
        name = "told"

        def loss(self, config, weights, batch, *, execution=None):
            return execution

    there = on_device(Told(), "gpu", allow_tf32=True)
    asked = ExecutionConfig(accelerator="cpu", precision="64-true")
    run = there.loss(None, None, None, execution=asked)
    assert (run.accelerator, run.allow_tf32, run.precision) == ("gpu", True, "64-true")
    assert there.name == "told"
    told = Told()
    assert on_device(told, "cpu") is told


@pytest.mark.parametrize(("off", "allowed"), [(1e-9, True), (1e-3, False)])
def test_what_is_beyond_in_float32_is_measured_in_roundings_of_its_inputs(off, allowed, monkeypatch):
    """A badly conditioned prediction is not judged more finely than its inputs are known; a wrong one still is."""
    bounds = dict(agreement.ALLOWANCES) | {"outputs, float32": agreement.Allowance(1e-12, "none reaches it")}
    monkeypatch.setattr(verbs, "ALLOWANCES", bounds)

    class Off:
        """The reference's prediction, a little off in float32."""

        name = "off"

        def predict(self, model, groups, *, execution):
            fitted, batch = with_room_for(model, groups), groups.batch(intensity_scale=model.intensity_scale)
            found = reference.predict(fitted.config.model, model.weights, batch)
            factor = 1 + off * (execution.precision == "32-true")
            return Prediction(factor * found.object, factor * found.amplitude, factor * found.intensity)

    case = VERBS[0]
    start = plan_training(case.data(), case.config, "off", case.execution(DOUBLE)).start
    judged = verbs._Verbs(case, "off", Off(), Timings()).predict_and_infer(start, None)
    seen = {measured.quantity: measured for measured in itertools.islice(judged, 6)}
    measured = seen["predict in float32: object, over rounding"]
    bound = agreement.ALLOWANCES[measured.allowance].bound
    assert (0 < measured.value <= bound) is allowed
    assert "predict in float64: object" in seen
