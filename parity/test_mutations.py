"""The mistakes of `mutants.py` can still be made: each names one place of the code as it is."""

import pytest
from mutations import MUTANTS, PACKAGES
from mutants import REPOSITORY


@pytest.mark.parametrize("backend", sorted(MUTANTS))
def test_every_mutant_edits_one_place(backend):
    sources = {}
    for mutant in MUTANTS[backend]:
        path = REPOSITORY / PACKAGES[backend] / mutant.file
        source = sources.setdefault(path, path.read_text())
        assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} in {path.name}"
        compile(source.replace(mutant.old, mutant.new), str(path), "exec")
