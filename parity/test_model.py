"""The whole model on each backend: outputs, losses, gradients, steps; against the reference and each other."""

import itertools

import pytest
from hypothesis import example, given, settings

from ptycho_backends.reference import model as reference
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import (
    DOUBLE,
    Timings,
    along_slopes,
    between,
    five_steps,
    loss_terms,
    outputs,
    probed_slopes,
    reordering_share,
    replayed,
    require_agreement,
)
from ptycho_backends.testing.strategies import cases

# A whole model takes as long as a hundred stages.
FEW = settings(max_examples=max(3, settings.default.max_examples // 6))
FEWER = settings(max_examples=max(2, settings.default.max_examples // 10))

# Of the larger sizes one each is always there; drawn cases meet them too, but seldom.
LARGE = (
    Case(N=128, gridsize=2, amp_activation="softplus", loss="all", groups=1, offsets="uncentred", seed=7),
    Case(N=256, pad_object=False, amp_activation="swish", loss="nll+mae", groups=1, seed=8),
)


@example(case=LARGE[0])
@example(case=LARGE[1])
@FEW
@given(case=cases(n_filters_scale=1))
def test_outputs_and_losses(backend, case):
    want = reference.predict(case.config.model, case.weights, case.batch)
    require_agreement(outputs(backend.name, backend, case, want, Timings()))
    terms = reference.loss(case.config, case.weights, case.batch)
    require_agreement(loss_terms(backend.name, backend, case, terms))


@FEWER
@given(case=cases(N=64, n_filters_scale=1))
def test_gradients_are_the_slopes_of_the_reference(backend, case):
    gradients = backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE)
    require_agreement(along_slopes(backend.name, gradients, list(probed_slopes(case, gradients, count=2))))


@FEWER
@given(case=cases(N=64, n_filters_scale=1))
def test_step_is_adam(backend, case):
    step = backend.train_step(case.config, case.weights, [case.batch], execution=DOUBLE)
    require_agreement([replayed(backend.name, backend, case, step)])


@FEWER
@given(case=cases(N=64, n_filters_scale=1))
def test_float32_gradient_is_as_good_as_float32_allows(backend, case):
    exact = backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE)
    require_agreement([reordering_share(backend.name, backend, case, exact, 3, Timings())])


@example(case=LARGE[0])
@FEW
@given(case=cases(n_filters_scale=1))
def test_gradients_and_steps_of_two_backends(pair, case):
    batches = list(itertools.islice(case.batches(), 5)) if case.N == 64 else []
    gradients, steps, walks = {}, {}, {}
    for name, backend in pair.items():
        gradients[name] = backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE)
        steps[name] = backend.train_step(case.config, case.weights, [case.batch], execution=DOUBLE)
        if batches:
            walks[name] = backend.train_step(case.config, case.weights, batches, execution=DOUBLE)
    for one, other in itertools.combinations(pair, 2):
        subject = f"{one}, {other}"
        require_agreement(
            between(subject, case, (gradients[one], gradients[other]), (steps[one], steps[other]))
        )
        if batches:
            both = {name: pair[name] for name in (one, other)}
            require_agreement([five_steps(case, both, (walks[one], walks[other]), batches)])


@pytest.mark.parametrize("case", [Case(n_filters_scale=2, gridsize=2, groups=1, seed=9)], ids=repr)
def test_twice_the_filters(backend, case):
    want = reference.predict(case.config.model, case.weights, case.batch)
    require_agreement(outputs(backend.name, backend, case, want, Timings()))
