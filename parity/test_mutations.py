"""The mistakes of `mutants.py` can still be made: each names one place of the code as it is."""

import pytest
from mutants import REPOSITORY
from mutations import MUTANTS, PACKAGES


@pytest.mark.parametrize("framework", sorted(MUTANTS))
def test_every_mutant_edits_one_place(framework):
    sources = {}
    for mutant in MUTANTS[framework]:
        path = REPOSITORY / PACKAGES[framework] / mutant.file
        source = sources.setdefault(path, path.read_text())
        assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} in {path.name}"
        compile(source.replace(mutant.old, mutant.new), str(path), "exec")
