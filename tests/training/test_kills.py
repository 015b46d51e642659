"""A sample of `kills.py`: saves that are killed at random moments leave whole files. `nox -s kill` has all of it."""

import importlib.util
import os
import random
from pathlib import Path

import pytest

SAVES = ("archive", "reconstruction", "scan", "config")


@pytest.fixture(scope="module")
def kills():
    spec = importlib.util.spec_from_file_location("kills", Path(__file__).with_name("kills.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forked children")
@pytest.mark.parametrize("kind", SAVES)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_killed_save_leaves_whole_files(kills, kind, tmp_path):
    chance = random.Random(kind)
    for _ in range(2):
        kills.kill(kind, "torch", tmp_path, chance)
