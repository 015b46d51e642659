"""Zip files that may come from anyone: every member checked, in bounded memory, before use."""

import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.budget import MAX_MEMBERS, PLAIN, Budget
from ptycho_backends.files.file_kind import words_for

ARCHIVE_NAME = "wts.h5.zip"
MANIFESTS = ("manifest.json", "manifest.dill")

# An archive has about ten members; a run folder that a user zipped may have thousands of files.
MAX_DIRECTORY_BYTES = 8 << 20
MAX_NESTED_ARCHIVE_BYTES = 4 << 30
SPOOL_BYTES = 64 << 20

_END_RECORD = b"PK\x05\x06"
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_LOCATOR_SIGN = b"PK\x06\x07"
_ZIP64_END_RECORD = struct.Struct("<4sQ2H2L4Q")
_ZIP64_END_RECORD_SIGN = b"PK\x06\x06"
_LOCAL_HEADER = struct.Struct("<4sHHH4xLLLHH")
_LOCAL_HEADER_SIGN = b"PK\x03\x04"
_ZIP64_EXTRA, _FULL = 1, 0xFFFFFFFF
_ENCRYPTED_BITS = 0x1 | 0x40
# Degree of compression, sizes behind the data, names in UTF-8.
_SIZES_BEHIND, _IN_UTF8 = 0x8, 0x800
_KNOWN_BITS = 0x6 | _SIZES_BEHIND | _IN_UTF8
_BLOCK = 1 << 20


class Members(Protocol):
    """The members of an archive, packed or unpacked."""

    sizes: Mapping[str, int]
    """Declared size of each member in bytes."""
    budget: Budget
    """Of the whole file; members that are zips themselves spend from it too."""
    packed: bool
    """True for a zip, in which every member has its purpose; a folder may hold other files too."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole member, read to its end and checked; `ArchiveError` if it exceeds `limit` bytes."""
        ...


class ZipMembers:
    """Members of a zip file, which may be a zip64 one only with `zip64`.

    Each is read by the list of members and by its own header, which must agree, and to the very end of its data.

    Parameters
    ----------
    stream : binary file
    zip64 : bool
    budget : Budget, optional
        Of the file that this one is within; by default one for the size of `stream`.

    Raises
    ------
    ArchiveError
    """

    packed = True

    def __init__(self, stream: IO[bytes], *, zip64: bool = False, budget: Budget | None = None) -> None:
        length = _require_small_directory(stream, zip64)
        self._stream = stream
        self.budget = Budget(unpacked=PLAIN.free + PLAIN.times * length) if budget is None else budget
        try:
            with zipfile.ZipFile(stream) as archive:
                infos, end = archive.infolist(), archive.start_dir
        except Exception as error:  # zipfile meets damage with many kinds of exception
            raise ArchiveError(f"not a readable zip file ({error})") from error
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            _require_harmless(info)
            if info.filename in self._infos:
                raise ArchiveError(f"{info.filename}: occurs twice")
            if not info.is_dir():
                self._infos[info.filename] = info
        self._ends = _require_apart(infos, end)
        self.sizes: Mapping[str, int] = {name: info.file_size for name, info in self._infos.items()}

    def read(self, name: str, limit: int) -> bytes:
        _require_at_most(name, self._info(name).file_size, limit)
        return b"".join(self.pieces(name))

    def unpacked(self, name: str, limit: int) -> IO[bytes]:
        """The member as a seekable file that is on disk if it is large."""
        _require_at_most(name, self._info(name).file_size, limit)
        target = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        try:
            for piece in self.pieces(name):
                target.write(piece)
        except BaseException:
            target.close()
            raise
        target.seek(0)
        return target

    def stored_size(self, name: str) -> int:
        """Bytes that the member takes in the file."""
        return self._info(name).compress_size

    def is_compressed(self, name: str) -> bool:
        return self._info(name).compress_type != zipfile.ZIP_STORED

    def checksum(self, name: str) -> int:
        """CRC-32 of the member's content, as the file has it."""
        return self._info(name).CRC

    def data_offset(self, name: str) -> int:
        """Place in the file of the member's data; its two headers agree."""
        return self._data_start(self._info(name))

    def pieces(self, name: str, *, within_budget: bool = True) -> Iterator[bytes]:
        """Content of a member, a megabyte at a time; its length and checksum are known to agree at the end only.

        `within_budget=False` is for a caller that has bounded the size itself.
        """
        info = self._info(name)
        if within_budget and self.is_compressed(name):
            self.budget.spend_unpacked(name, info.file_size)
        self._stream.seek(self._data_start(info))
        checksum, length = 0, 0
        try:
            for piece in _inflated(self._stream, info):
                checksum, length = zlib.crc32(piece, checksum), length + len(piece)
                if length > info.file_size:
                    break
                yield piece
        except (zlib.error, OSError) as error:
            raise ArchiveError(f"{name}: damaged ({error})") from error
        if length != info.file_size:
            got = f"{length} bytes" if length < info.file_size else "more bytes"
            raise ArchiveError(f"{name}: {got}, but {info.file_size} were declared")
        if checksum != info.CRC:
            raise ArchiveError(f"{name}: damaged (Bad CRC-32)")

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._infos:
            raise ArchiveError(f"{name}: missing")
        return self._infos[name]

    def _data_start(self, info: zipfile.ZipInfo) -> int:
        """Offset of a member's data, once its own header agrees with the list of members."""
        name = info.filename
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_HEADER_SIGN):
            raise ArchiveError(f"{name}: damaged; it is not where the list of members says")
        _, _, flags, method, checksum, packed, unpacked, name_length, extra_length = _LOCAL_HEADER.unpack(
            header
        )
        own_name, extra = self._stream.read(name_length), self._stream.read(extra_length)
        if _FULL in (packed, unpacked):
            packed, unpacked = _zip64_sizes(extra, packed, unpacked)
        # where the sizes follow the data, the header has zeros
        found = (checksum, packed, unpacked)
        behind = flags & _SIZES_BEHIND and found == (0, 0, 0)
        listed = (info.CRC, info.compress_size, info.file_size)
        named = own_name == info.orig_filename.encode("utf-8" if info.flag_bits & _IN_UTF8 else "cp437")
        if (
            not named
            or method != info.compress_type
            or flags != info.flag_bits
            or (found != listed and not behind)
        ):
            raise ArchiveError(f"{name}: damaged; its own header contradicts the list of members")
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + info.compress_size > self._ends[info.header_offset]:
            raise ArchiveError(f"{name}: its {info.compress_size} bytes reach into what follows")
        return start


def _zip64_sizes(extra: bytes, packed: int, unpacked: int) -> tuple[int, int]:
    """Sizes of a member's own header, with those that are too large for it from its extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == _ZIP64_EXTRA and place + 4 + length <= len(extra):
            large = list(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            unpacked = large.pop(0) if unpacked == _FULL and large else unpacked
            packed = large.pop(0) if packed == _FULL and large else packed
        place += 4 + length
    return packed, unpacked


def _require_apart(infos: list[zipfile.ZipInfo], end: int) -> dict[int, int]:
    """Offset of each member's header to that of the next; refuses members that share bytes."""
    starts = sorted(info.header_offset for info in infos)
    ends = dict(zip(starts, [*starts[1:], end], strict=True))
    for info in infos:
        name, least = info.filename, _LOCAL_HEADER.size + info.compress_size
        if len(ends) != len(infos) or info.header_offset + least > ends[info.header_offset]:
            raise ArchiveError(
                f"{name}: shares bytes of the file with another member, or with the list of them"
            )
    return ends


def _inflated(stream: IO[bytes], info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Data of a member from where `stream` stands, a megabyte at a time."""
    left = info.compress_size
    inflate = None if info.compress_type == zipfile.ZIP_STORED else zlib.decompressobj(-zlib.MAX_WBITS)
    while left:
        block = stream.read(min(left, _BLOCK))
        if not block:
            raise OSError("cut short")
        left -= len(block)
        if inflate is None:
            yield block
            continue
        while block:
            piece, before = inflate.decompress(block, _BLOCK), len(block)
            block = inflate.unconsumed_tail
            if not piece and len(block) >= before:
                # found by fuzzing: a block that zlib neither takes nor refuses
                raise OSError("the compressed data lead nowhere")
            yield piece
        if inflate.unused_data or (inflate.eof and left):
            raise OSError("bytes behind the end of the compressed data")
    while inflate is not None and not inflate.eof:
        piece = inflate.decompress(b"", _BLOCK)
        if not piece:
            raise OSError("the compressed data have no end")
        yield piece


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
        self.budget = Budget(unpacked=PLAIN.free + PLAIN.times * sum(sizes.values()))

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
            yield ZipMembers(inner, budget=members.budget)


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


def _require_small_directory(stream: IO[bytes], zip64: bool) -> int:
    """Refuse a huge list of members before `zipfile` reads all of it into memory; return the file's length."""
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
    return length


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
    if unknown := info.flag_bits & ~_KNOWN_BITS:
        raise ArchiveError(f"{name}: has unknown flags {unknown:#x}")
    if info.is_dir() and (info.file_size or info.CRC):
        raise ArchiveError(f"{name}: named as a folder, but holds {info.file_size} bytes")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"{name}: compressed by method {info.compress_type}, want deflate or none")
