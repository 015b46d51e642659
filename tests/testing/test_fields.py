"""Every field of the four configurations has the effect that its row names, on every installed backend."""

import dataclasses

import pytest

from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.testing.fields import CLASSES, EFFECTS, FIELDS, Baselines, Outcome, check_field, effects

RUNS = [name for name, expected in FIELDS.items() if expected.effect != "elsewhere"]


@pytest.fixture(scope="module")
def baselines():
    return Baselines()


@pytest.fixture(scope="module", params=["torch", pytest.param("tensorflow", marks=pytest.mark.slow)])
def backend(request):
    asked = request.config.getoption("--backend")
    if request.param not in installed_backends() or (asked and request.param not in asked):
        pytest.skip(f"{request.param}: not installed, or not asked for")
    backend = get_backend(request.param)
    if request.param == "torch":
        yield backend
        return
    import tensorflow as tf

    # tracing a graph for each of a hundred tiny models would take longer than they do
    tf.config.run_functions_eagerly(True)
    yield backend
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly")
@pytest.mark.parametrize("name", RUNS)
def test_a_field_has_its_effect(backend, name, tmp_path, baselines):
    check_field(backend, name, tmp_path, baselines)


def test_every_field_has_a_row():
    wanted = [f"{owner}.{field.name}" for owner, cls in CLASSES.items() for field in dataclasses.fields(cls)]
    assert sorted(FIELDS) == sorted(wanted)


def test_rows_are_of_known_effects_and_say_where_else_the_tests_are():
    for name, expected in FIELDS.items():
        assert expected.effect in EFFECTS, name
        assert expected.note or expected.effect != "elsewhere", name


def test_equal_outcomes_have_no_effect_and_others_are_told_apart():
    import numpy as np

    one = Outcome(
        weights={"a": np.ones(2)}, history=(1,), image=np.ones((2, 2)), files=frozenset("f"), log="x"
    )
    assert effects(one, dataclasses.replace(one)) == set()
    other = Outcome(weights={"a": np.zeros(2)}, history=(), image=np.zeros((2, 2)))
    assert effects(one, other) == {"weights", "history", "image", "files", "log"}
