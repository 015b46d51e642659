"""Fuzzing of one reader, led by coverage: `python fuzz.py FORMAT [SECONDS]`; `--all FORMAT|'' SECONDS` starts one each.

An input that is neither loaded nor refused by this library's error ends the run, and is left as `crash-*` in the folder
for temporary files; it belongs into the corpus then.
"""

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path


def fuzz(form: str, seconds: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["ptycho_backends"]):
        import hostile_corpus

        from ptycho_backends.errors import PtychoBackendsError

    inputs = folder / "inputs"
    inputs.mkdir()
    cases = [case for case in hostile_corpus.corpus(folder) if case.form == form and len(case.data) < 1 << 20]
    for number, case in enumerate(cases):
        (inputs / str(number)).write_bytes(case.data)
    path, read = folder / cases[0].file, cases[0].read

    def one(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(PtychoBackendsError):
            read(path)

    found = f"-artifact_prefix={folder}/"
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1500", "-max_len=200000"]
    atheris.Setup([sys.argv[0], str(inputs), found, *limits], one)
    atheris.Fuzz()


def fuzz_all(only: str, seconds: int) -> int:
    from test_hostile import FORMS

    failed = []
    for form in [only] if only else sorted(FORMS):
        done = subprocess.run([sys.executable, __file__, form, str(seconds)], check=False)
        failed += [form] if done.returncode else []
    return f"failed: {', '.join(failed)}" if failed else 0  # type: ignore[return-value]


if __name__ == "__main__":
    if sys.argv[1] == "--all":
        sys.exit(fuzz_all(sys.argv[2], int(sys.argv[3])))
    fuzz(sys.argv[1], int(sys.argv[2]), Path(tempfile.mkdtemp(prefix=f"fuzz_{sys.argv[1]}_")))
