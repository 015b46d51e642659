"""The prose check passes plain English and finds each kind of offence."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "prose.py"
PLAIN = '"""Read a scan, {} as photon counts."""\n' + "x = 1  # one pixel, so that the border is kept\n" * 200


def check(source: str, folder: Path) -> tuple[int, str]:
    path = folder / "example.py"
    path.write_text(source)
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_plain_english_passes(tmp_path: Path) -> None:
    assert check(PLAIN, tmp_path) == (0, "")


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        (PLAIN.replace("{}", "what was there"), 'example.py:1: "what was there"'),
        (PLAIN + "\n# a comment that is\n# told twice\n", 'example.py:203: "is told"'),
        (PLAIN + "# what, what, what, what\n", "what: "),
        (PLAIN + "# as they say: tell\n", "tell/tells/told/say/says/said: "),
        (PLAIN.replace("Read a scan", "How a scan is read"), "example.py:1: opens with a question word"),
    ],
)
def test_an_offence_is_found(source: str, finding: str, tmp_path: Path) -> None:
    code, output = check(source, tmp_path)
    assert code == 1
    assert finding in output
