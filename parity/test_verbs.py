"""Whole verbs of every backend against the reference, each resuming what another one has stopped."""

import pytest
from hypothesis import given, settings

from ptycho_backends.testing.strategies import verb_cases
from ptycho_backends.testing.verb_cases import VERBS
from ptycho_backends.testing.verbs import measure_verbs, require_verbs

# A case takes as long as dozens of batches: the profile fast draws none.
EXAMPLES = settings().max_examples // 20


@pytest.mark.parametrize("case", VERBS, ids=repr)
def test_verbs(backends, case):
    require_verbs(case, measure_verbs(case, backends))


@pytest.mark.skipif(not EXAMPLES, reason="the profile fast draws no cases of verbs")
@settings(max_examples=max(1, EXAMPLES))
@given(case=verb_cases())
def test_drawn_verbs(backends, case):
    require_verbs(case, measure_verbs(case, backends))
