"""Zip files that may come from anyone: every member checked, in bounded memory, before use."""

import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.file_kind import words_for

ARCHIVE_NAME = "wts.h5.zip"
MANIFESTS = ("manifest.json", "manifest.dill")

# An archive has about ten members; a run folder that a user zipped may have thousands of files.
MAX_DIRECTORY_BYTES = 8 << 20
MAX_MEMBERS = 20_000
MAX_NESTED_ARCHIVE_BYTES = 4 << 30
SPOOL_BYTES = 64 << 20

_END_RECORD = b"PK\x05\x06"
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_LOCATOR_SIGN = b"PK\x06\x07"
_ZIP64_END_RECORD = struct.Struct("<4sQ2H2L4Q")
_ZIP64_END_RECORD_SIGN = b"PK\x06\x06"
_ENCRYPTED_BITS = 0x1 | 0x40


class Members(Protocol):
    """The members of an archive, packed or unpacked."""

    sizes: Mapping[str, int]
    """Declared size of each member in bytes."""
    packed: bool
    """True for a zip, in which every member has its purpose; a folder may hold other files too."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole member, read to its end and checked; `ArchiveError` if it exceeds `limit` bytes."""
        ...


class ZipMembers:
    """Members of a zip file, which may be a zip64 one only with `zip64`."""

    packed = True

    def __init__(self, stream: IO[bytes], *, zip64: bool = False) -> None:
        _require_small_directory(stream, zip64)
        try:
            self._zip = zipfile.ZipFile(stream)
        except Exception as error:  # zipfile meets damage with many kinds of exception
            raise ArchiveError(f"not a readable zip file ({error})") from error
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            _require_harmless(info)
            if info.filename in self._infos:
                raise ArchiveError(f"{info.filename}: occurs twice")
            if not info.is_dir():
                self._infos[info.filename] = info
        self.sizes: Mapping[str, int] = {name: info.file_size for name, info in self._infos.items()}

    def read(self, name: str, limit: int) -> bytes:
        with self._opened(name, limit) as stream:
            data = stream.read()
        self._require_length(name, len(data))
        return data

    def unpacked(self, name: str, limit: int) -> IO[bytes]:
        """The member as a seekable file that is on disk if it is large."""
        target = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        try:
            written = 0
            with self._opened(name, limit) as stream:
                while block := stream.read(1 << 20):
                    written += target.write(block)
            self._require_length(name, written)
        except BaseException:
            target.close()
            raise
        target.seek(0)
        return target

    @contextmanager
    def _opened(self, name: str, limit: int) -> Iterator[IO[bytes]]:
        if name not in self._infos:
            raise ArchiveError(f"{name}: missing")
        info = self._infos[name]
        _require_at_most(name, info.file_size, limit)
        try:
            # The stream never yields more than the declared size, and checks the CRC at its end.
            with self._zip.open(info) as stream:
                yield stream
        except ArchiveError:
            raise
        except Exception as error:
            raise ArchiveError(f"{name}: damaged ({error})") from error

    def _require_length(self, name: str, length: int) -> None:
        if length != self.sizes[name]:
            raise ArchiveError(f"{name}: {length} bytes, but {self.sizes[name]} were declared")


class FolderMembers:
    """Members of an archive that was unpacked into a folder; other files beside them are not touched."""

    packed = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        sizes: dict[str, int] = {}
        for root, folders, files in os.walk(folder):
            here = Path(root)
            if len(here.relative_to(folder).parts) >= 1:
                folders.clear()
            for file in files:
                with suppress(OSError):  # gone in the meantime
                    sizes[(here / file).relative_to(folder).as_posix()] = (here / file).lstat().st_size
            if len(sizes) > MAX_MEMBERS:
                raise ArchiveError(f"more than {MAX_MEMBERS} files, want an unpacked {ARCHIVE_NAME}")
        self.sizes: Mapping[str, int] = sizes

    def read(self, name: str, limit: int) -> bytes:
        path = self._folder / name
        try:
            if path.parent.is_symlink():
                raise ArchiveError(f"{name}: lies behind a link")
            # Neither follows a link nor waits for a pipe.
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            if path.is_symlink():
                raise ArchiveError(f"{name}: is a link")
            with open(os.open(path, os.O_RDONLY | flags), "rb") as stream:
                status = os.fstat(stream.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ArchiveError(f"{name}: not a plain file")
                _require_at_most(name, status.st_size, limit)
                data = stream.read(limit + 1)
        except FileNotFoundError as error:
            raise ArchiveError(f"{name}: missing") from error
        except OSError as error:
            raise ArchiveError(f"{name}: cannot be read ({error.strerror or error})") from error
        _require_at_most(name, len(data), limit)
        return data


@contextmanager
def open_members(path: Path) -> Iterator[Members]:
    """The members of the archive that `path` means.

    `path` is the zip itself, a folder holding `wts.h5.zip`, a folder into which that was unpacked, or
    another zip holding it.

    Raises
    ------
    ArchiveError
        If there is no archive, or its list of members is damaged or hostile.
    """
    path = Path(path)
    if path.is_dir():
        if (path / ARCHIVE_NAME).is_file():
            path = path / ARCHIVE_NAME
        elif any((path / name).is_file() for name in MANIFESTS):
            yield FolderMembers(path)
            return
        else:
            raise ArchiveError(f"the folder holds neither {ARCHIVE_NAME} nor what is in one")
    with open_zip(path) as members:
        nested = [name for name in members.sizes if PurePosixPath(name).name == ARCHIVE_NAME]
        if any(name in members.sizes for name in MANIFESTS) or not nested:
            yield members
            return
        if len(nested) > 1:
            raise ArchiveError(f"holds {len(nested)} files {ARCHIVE_NAME}; choose one and unpack it")
        with members.unpacked(nested[0], MAX_NESTED_ARCHIVE_BYTES) as inner:
            yield ZipMembers(inner)


@contextmanager
def open_zip(path: Path, *, zip64: bool = False) -> Iterator[ZipMembers]:
    """The members of the zip at `path`.

    Raises
    ------
    ArchiveError
        As `open_members`.
    """
    if not path.is_file():
        raise ArchiveError("no such file" if not path.exists() else "not a plain file")
    try:
        stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed below, or by the block
    except OSError as error:
        raise ArchiveError(f"cannot be read ({error.strerror or error})") from error
    with stream:
        try:
            members = ZipMembers(stream, zip64=zip64)
        except ArchiveError as error:
            words = words_for(path)
            if words is None or words == "a zip file":
                raise
            wanted = "" if ";" in words else ", want an archive of a model"
            raise ArchiveError(f"{words}{wanted}") from error
        yield members


def _require_at_most(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ArchiveError(f"{name}: declares {size} bytes, want at most {limit}")


def _require_small_directory(stream: IO[bytes], zip64: bool) -> None:
    """Refuse a huge list of members before `zipfile` reads all of it into memory."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - (1 << 16) - 22))
    tail = stream.read()
    start = len(tail) - 22
    if tail[start:].startswith(_END_RECORD) and tail.endswith(b"\0\0"):
        pass
    else:  # a comment follows the record; zipfile looks for it in the same way
        start = tail.rfind(_END_RECORD)
    if start < 0 or len(tail) - start < 22:
        raise ArchiveError("not a zip file, or cut short")
    entries, directory_bytes = struct.unpack_from("<HL", tail, start + 10)
    locator = tail[: max(0, start)][-_ZIP64_LOCATOR.size :]
    if locator.startswith(_ZIP64_LOCATOR_SIGN):
        if not zip64:
            raise ArchiveError("a zip64 file, want an ordinary zip")
        end = length - len(tail) + start - _ZIP64_LOCATOR.size
        entries, directory_bytes = _zip64_directory(stream, locator, end)
    if directory_bytes > MAX_DIRECTORY_BYTES or entries > MAX_MEMBERS:
        raise ArchiveError(f"declares {entries} members in {directory_bytes} bytes; that is too many")
    stream.seek(0)


def _zip64_directory(stream: IO[bytes], locator: bytes, end: int) -> tuple[int, int]:
    """Number of members, and bytes of their list, by the record that ends where its locator starts."""
    # a record elsewhere, or one with more in it, would be found by some readers and not by others
    start = end - _ZIP64_END_RECORD.size
    if len(locator) != _ZIP64_LOCATOR.size or start < 0 or _ZIP64_LOCATOR.unpack(locator)[2] != start:
        raise ArchiveError("damaged; the zip64 record is not where it should be")
    stream.seek(start)
    sign, *_, entries, directory_bytes, _ = _ZIP64_END_RECORD.unpack(stream.read(_ZIP64_END_RECORD.size))
    if sign != _ZIP64_END_RECORD_SIGN:
        raise ArchiveError("damaged; no zip64 record where it should be")
    return entries, directory_bytes


def _require_harmless(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or "\\" in name or re.match(r"/|[A-Za-z]:", name) or ".." in parts:
        raise ArchiveError(f"{name!r}: lies outside the archive")
    # The upper half holds the Unix mode, or zero where another system made the file.
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{name}: is a link or a device, want a plain file")
    if info.flag_bits & _ENCRYPTED_BITS:
        raise ArchiveError(f"{name}: is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"{name}: compressed by method {info.compress_type}, want deflate or none")
