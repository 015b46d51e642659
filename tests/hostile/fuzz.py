"""Fuzzing of readers, led by coverage: `python fuzz.py SECONDS [FORMAT ...]`; all formats by default.

Each format is read by forked children (Linux). An input is a fault if it is neither loaded nor refused by this
library's error, or takes more time than the corpus allows; it is left in the folder that is named, and belongs into the
corpus then. One that kills the process by a signal is a fault of the C library that reads the format.
"""

import functools
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ptycho_backends"]):
    import hostile_archives
    import hostile_corpus
    import hostile_parts

    from ptycho_backends.errors import PtychoBackendsError
    from ptycho_backends.files.data_pickle import load_data

MAX_SECONDS = 2.0
# Of processor time for an input that is read once more.
SECONDS_ALONE = 60
LARGEST = 200_000
# Of libFuzzer, and of slow inputs.
ARTIFACTS = "[cots]*-*"
COUNTS = ("tried", "loaded", "refused", "slow")
# A format whose readers fail so often is given up.
MOST_FAULTS = 20


class Counts:
    """Numbers that a child adds to and its parent reads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(COUNTS))

    def add(self, name: str) -> None:
        place = 8 * COUNTS.index(name)
        (value,) = struct.unpack_from("<q", self._memory, place)
        struct.pack_into("<q", self._memory, place, value + 1)

    def __str__(self) -> str:
        values = struct.unpack(f"<{len(COUNTS)}q", self._memory[:])
        return ", ".join(f"{value} {name}" for name, value in zip(COUNTS, values, strict=True))


class Reader:
    """All readers of a format, one after another."""

    def __init__(self, cases: list[hostile_parts.Case], folder: Path) -> None:
        self._files: dict[Callable[[Path], object], Path] = {}
        for case in cases:
            # whole files come first, whose neighbours are there
            self._files.setdefault(case.read, folder / case.file)
        self._folder = folder
        self.counts = Counts()

    def __call__(self, data: bytes) -> None:
        for read, path in self._files.items():
            self.counts.add("tried")
            path.write_bytes(data)
            started = time.process_time()
            try:
                read(path)
                self.counts.add("loaded")
            except PtychoBackendsError:
                self.counts.add("refused")
            if time.process_time() - started > MAX_SECONDS:
                self.counts.add("slow")
                (self._folder / f"slow-{time.time_ns()}").write_bytes(data)


def in_child(work: Callable[[], object], seconds: int) -> int:
    """Exit code of a forked child that does `work`; minus the signal that killed it, 1 for an error of Python."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            # one that hangs in a C library is killed by a signal
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def fuzz(read: Reader, inputs: Path, folder: Path, seconds: int) -> None:
    limits = [f"-max_total_time={seconds}", "-timeout=120", "-rss_limit_mb=1500", f"-max_len={LARGEST}"]
    # slow is what takes long on the processor
    quiet = ["-verbosity=0", "-report_slow_units=9999", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], str(inputs), *limits, *quiet], read)
    atheris.Fuzz()


def faults(form: str, cases: list[hostile_parts.Case], folder: Path, seconds: int) -> int:
    """Fuzz a format until the time is over; number of inputs that are faults of this library."""
    inputs = folder / "inputs" / form
    inputs.mkdir(parents=True)
    for number, case in enumerate(cases):
        (inputs / str(number)).write_bytes(case.data)
    read, found = Reader(cases, folder), Counter()
    # those of other formats
    earlier = known = set(folder.glob(ARTIFACTS))
    deadline = time.monotonic() + seconds
    while (left := int(deadline - time.monotonic())) > 0 and len(known - earlier) < MOST_FAULTS:
        in_child(lambda: fuzz(read, inputs, folder, left), seconds + SECONDS_ALONE)
        artifacts = set(folder.glob(ARTIFACTS)) - known
        known = known | artifacts
        for path in sorted(artifacts):
            code = in_child(functools.partial(read, path.read_bytes()), SECONDS_ALONE)
            found[kind_of(path, code)] += 1
            sys.stdout.write(f"{form}: {kind_of(path, code)}: {path}\n")
        if not artifacts:
            break
    sys.stdout.write(f"{form}: {read.counts}; {dict(found)}\n")
    sys.stdout.flush()
    return sum(found[kind] for kind in FAULTS)


FAULTS = ("raw error", "slow", "too much memory")


def kind_of(path: Path, code: int) -> str:
    """Kind of an input that libFuzzer has left, and that was read once more with that exit code."""
    if code:
        return "raw error" if code > 0 else f"C library: {signal.Signals(-code).name}"
    return {"slow": "slow", "oom": "too much memory"}.get(path.name.partition("-")[0], "not again")


def members_cases(whole: bytes) -> list[hostile_parts.Case]:
    """Members of an archive, whose digests are made to fit: else no mutation would reach their readers."""
    members = hostile_parts.members_of(whole)
    names = ("config.json", "params.json", "history.csv", "manifest.json")

    def read(path: Path) -> None:
        data = path.read_bytes()
        name = names[data[0] % len(names)] if data else names[0]
        path.write_bytes(hostile_archives.signed(members, name, data[1:]))
        hostile_archives.both(path)

    return [
        hostile_parts.Case("JSON", name, "fuzz.wts.h5.zip", bytes([number]) + members[name], read)
        for number, name in enumerate(names)
        if name in members
    ]


def pickle_cases() -> list[hostile_parts.Case]:
    """Pickles alone, and as the manifest of an archive."""

    def read(path: Path) -> None:
        data = path.read_bytes()
        others = ("model.keras", "params.dill", "custom_objects.dill", "model.h5")
        entries = [hostile_parts.Entry(f"autoencoder/{file}", data) for file in others]
        path.write_bytes(hostile_parts.zipped(hostile_parts.Entry("manifest.dill", data), *entries))
        hostile_archives.both(path)

    found = []
    for name, data in hostile_archives.pickles():
        found.append(hostile_parts.Case("pickle", name, "fuzz.h5.zip", data, read))
        found.append(hostile_parts.Case("pickle", name, "fuzz.pickle", data, unpickled))
    return found


def unpickled(path: Path) -> None:
    load_data(path.read_bytes(), path.name)


def main(seconds: int, *forms: str) -> int:
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    cases: dict[str, list[hostile_parts.Case]] = {}
    for case in hostile_corpus.corpus(folder):
        if len(case.data) <= LARGEST:
            # small zips, because a mutation of a large one reaches nothing but its checksums
            cases.setdefault("zip" if case.form == "pickle" else case.form, []).append(case)
    cases["JSON"] = members_cases((folder / "model.zip").read_bytes())
    cases["pickle"] = [case for case in pickle_cases() if len(case.data) <= LARGEST]
    return sum(faults(form, cases[form], folder, seconds) for form in forms or sorted(cases))


if __name__ == "__main__":
    sys.exit(min(main(int(sys.argv[1]), *sys.argv[2:]), 100))
