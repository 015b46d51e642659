"""Cost limits for reading a file, the same for every reader, whatever the file declares.

A file that lies plainly on disk may be of any size: patterns are mapped or read frame by frame. What a few bytes may
unpack to, and the number of objects that a text or a pickle may build, are bounded here. Together the limits keep
a refusal below two seconds and 200 MB on an ordinary computer.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ptycho_backends.errors import ArchiveError, ConfigError, PtychoBackendsError, ScanError

# --- bytes unpacked


class Growth(NamedTuple):
    """Most bytes that a part of a file may become: `free` ones, or `times` those that it is stored in."""

    free: int
    times: int


FREE_BYTES = 64 << 20

PLAIN = Growth(FREE_BYTES, 16)
"""Of weights, text, positions, probes and objects, which seldom shrink to a tenth."""

SPARSE = Growth(FREE_BYTES, 400)
"""Of patterns, which a weak dose leaves zero almost everywhere. Deflate reaches 1032."""

BY_FRAME = Growth(FREE_BYTES, 1100)
"""Of patterns that are unpacked frame by frame."""

# --- objects built

MAX_OBJECTS = 300_000
"""Values in a text or a pickle, counted as often as they are referred to."""

MAX_KEYS = 20_000
"""Keys of all the dictionaries in a file."""

MAX_ODD_KEYS = 1000
"""Keys that are not text: their hashes can be made to collide, so that each costs as much as all before it."""

MAX_NESTING = 64
MAX_MEMBERS = 20_000
MAX_INTEGER_BITS = 1024
"""Python refuses to print integers of more than some 14,000 bits."""

# --- bytes of text

MAX_TEXT_BYTES = 4 << 20
MAX_PICKLE_BYTES = 24 << 20
MAX_CONFIG_BYTES = 128 << 10
MAX_TABLE_BYTES = 64 << 20
MAX_LINE = 4096
MAX_ARRAY_HEADER = 10_000
"""Bytes of the header of an NPY file, as many as NumPy accepts."""

# --- time

SECONDS = 20.0
"""For the structure of one file, where the counts above do not end it first; far more than any genuine file takes."""

_CLOCK_EVERY = 4096


@dataclass
class Budget:
    """Allowance for one file or one part of it; a reader spends from it and is stopped where it is used up.

    Parameters
    ----------
    error : type
        Class of the error raised, one of this library's own.
    unpacked : int
        Bytes in all that compressed parts may unpack to, those within unpacked ones too.
    """

    error: type[PtychoBackendsError] = ArchiveError
    objects: int = MAX_OBJECTS
    keys: int = MAX_KEYS
    odd_keys: int = MAX_ODD_KEYS
    nesting: int = MAX_NESTING
    seconds: float = SECONDS
    unpacked: int = FREE_BYTES
    _started: float = field(default_factory=time.monotonic, repr=False)
    _until_clock: int = field(default=_CLOCK_EVERY, repr=False)

    def spend_objects(self, count: int = 1) -> None:
        self.objects -= count
        if self.objects < 0:
            raise self.error("holds too many values; that many are in no genuine file")
        self._until_clock -= count
        if self._until_clock < 0:
            self._until_clock = _CLOCK_EVERY
            self.check_clock()

    def spend_key(self, key: object) -> None:
        """Count the key of a dictionary; only plain values may be one."""
        self.keys -= 1
        if type(key) is not str:
            self.odd_keys -= 1
        if type(key) is int and key.bit_length() > 60:
            raise self.error("an integer of more than 60 bits as key of a dictionary")
        if self.keys < 0 or self.odd_keys < 0:
            raise self.error("holds too many keys; that many are in no genuine file")

    def require_depth(self, depth: int) -> None:
        if depth > self.nesting:
            raise self.error("nested too deeply")

    def check_clock(self) -> None:
        if time.monotonic() - self._started > self.seconds:
            raise self.error(f"its structure takes more than {self.seconds:g} s to read")

    def spend_unpacked(self, name: str, count: int) -> None:
        """Refuse a compressed part `name` that claims `count` bytes beyond the allowance, before any is made."""
        self.unpacked -= count
        if self.unpacked < 0:
            raise self.error(
                f"{name}: unpacks to {count} bytes, far more than a file of this size should; unpack it yourself "
                "if you trust it"
            )


def require_growth(
    error: type[PtychoBackendsError], name: str, unpacked: int, stored: int, growth: Growth
) -> None:
    """Refuse `stored` bytes that claim to be `unpacked` ones, where these are more than `growth` allows."""
    if unpacked > max(growth.free, growth.times * stored):
        raise error(
            f"{name}: {stored} bytes stored that become {unpacked}, want at most {growth.free}, or "
            f"{growth.times} times as many; unpack the file yourself if you trust it"
        )


def bounded_bytes(path: Path, limit: int, error: type[PtychoBackendsError]) -> bytes:
    """Content of a file of at most `limit` bytes, which is read once, from a pipe too.

    Raises
    ------
    error
        If it cannot be read, or holds more.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(limit + 1)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem})") from problem
    if len(data) > limit:
        raise error(f"{path}: more than {limit} bytes, want at most as many")
    return data


DAMAGE = (Exception,)
"""Raised by parsers of other libraries for damaged files: almost anything, as zlib.error and tokenize.TokenError."""


@contextmanager
def only(error: type[PtychoBackendsError], name: object, what: str) -> Iterator[None]:
    """Turn errors of parsers, which damage causes, into `error`; it names the file and its kind, `what`.

    This library's own errors pass; the name is put before those that lack it.
    """
    try:
        yield
    except (ArchiveError, ConfigError, ScanError) as problem:
        if isinstance(problem, error) and str(problem).startswith(str(name)):
            raise
        raise error(f"{name}: {problem}") from problem
    except MemoryError as problem:
        raise error(f"{name}: needs more memory than there is") from problem
    except OSError as problem:
        raise error(f"{name}: cannot be read ({problem.strerror or problem})") from problem
    except DAMAGE as problem:
        detail = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise error(f"{name}: not {what} ({detail:.300})") from problem
