"""Whole verbs of every backend against the reference, each resuming what another one has stopped."""

import pytest
from hypothesis import given, settings

from ptycho_backends.testing.strategies import verb_cases
from ptycho_backends.testing.verb_cases import VERBS
from ptycho_backends.testing.verbs import measure_verbs, require_verbs

# a training takes as long as several batches
EXAMPLES = max(1, settings().max_examples // 8)


@pytest.mark.parametrize("case", VERBS, ids=repr)
def test_verbs(backends, case):
    require_verbs(case, measure_verbs(case, backends))


@settings(max_examples=EXAMPLES)
@given(case=verb_cases())
def test_drawn_verbs(backends, case):
    require_verbs(case, measure_verbs(case, backends))
