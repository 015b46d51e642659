"""Every file of the corpus loads, or is refused within limits by an error that names it; nothing else happens."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FORMS = {
    "zip", "pickle", "HDF5", "JSON", "YAML", "NPZ", "NPY", "CSV", "TIFF", "MATLAB", "ckpt", "product", "compressed",
}  # fmt: skip
MAX_SECONDS, MAX_MEGABYTES = 2.0, 200

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux has it"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    done = subprocess.run(
        [sys.executable, HERE / "hostile_corpus.py", folder],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # no reader floods the terminal with what a library logs
    assert len(done.stderr.splitlines()) < len(found), done.stderr[-3000:]
    return found


def test_there_are_enough_of_each_format(rows):
    counts = Counter(row["form"] for row in rows)
    assert counts.keys() == FORMS
    assert len(rows) >= 400
    assert min(counts.values()) >= 5


def test_each_is_loaded_or_refused_by_an_error_that_names_it(rows):
    assert [row for row in rows if row["outcome"] not in ("loaded", "refused")] == []


def test_whole_files_load_and_hostile_ones_do_not(rows):
    wrong = [row for row in rows if row["loads"] is not None and (row["outcome"] == "loaded") != row["loads"]]
    assert wrong == []


def test_none_takes_long_or_much_memory(rows):
    spent = [(row["form"], row["name"], row["seconds"], row["megabytes"]) for row in rows]
    assert [one for one in spent if one[2] > MAX_SECONDS or one[3] > MAX_MEGABYTES] == []


def test_nothing_is_run_imported_written_or_connected_to(rows):
    assert [(row["name"], row["events"]) for row in rows if row["events"]] == []
