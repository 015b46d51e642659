"""Every use of pyfive's private names: groups, links and object headers of an HDF5 file, read without its numbers.

pyfive is pinned to one minor version in `pyproject.toml`, because a private name may change in the next one.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

DATASPACE, LINK, ATTRIBUTE = 0x01, 0x06, 0x0C
"""Header messages that are recognised by number (HDF5 File Format Specification 3.0, section IV.A.2)."""

CONTIGUOUS = 1
"""Layout class of an array that lies in one piece."""

# A link's kind from this number on is defined by the application; 64 is an external link.
_USER_DEFINED = 64
_KIND_IS_STORED = 0x08


@dataclass(frozen=True)
class Header:
    """Header of a group or an array."""

    _objects: Any

    @property
    def messages(self) -> set[int]:
        """Numbers of the messages that occur."""
        return {message["type"] for message in self._objects.msgs}

    @property
    def is_array(self) -> bool:
        return DATASPACE in self.messages

    @property
    def has_external_link(self) -> bool:
        for start in (message["offset_to_message"] for message in self._objects.find_msg_type(LINK)):
            _, flags, kind = self._objects.msg_data[start : start + 3]
            # without the flag there is no such field, and the link is a hard one
            if flags & _KIND_IS_STORED and kind >= _USER_DEFINED:
                return True
        return False

    def scalar_attributes(self) -> dict[str, Any]:
        """Attributes that hold one value each, as pyfive unpacks them; others are left alone."""
        from pyfive.dataobjects import determine_data_shape

        found = {}
        for message in self._objects.msgs:
            if message["type"] != ATTRIBUTE:
                continue
            start, buffer = message["offset_to_message"], self._objects.msg_data
            version = buffer[start]
            sizes = np.frombuffer(buffer, "<u2", count=3, offset=start + 2).tolist()
            if version == 1:  # header of 8 bytes; name and type are padded to multiples of 8
                dataspace = start + 8 + sum(-(-size // 8) * 8 for size in sizes[:2])
            else:
                dataspace = start + 9 + sum(sizes[:2])
            # pyfive makes room for as many values as are declared before it reads the first one
            shape, _ = determine_data_shape(buffer, dataspace)
            if shape == ():
                key, value = self._objects.unpack_attribute(start)
                found[key] = value
        return found


@dataclass(frozen=True)
class Group:
    """A group whose members are looked at before they are opened."""

    _file: Any
    _group: Any

    @property
    def links(self) -> Mapping[str, int | str]:
        """Address of each member; the target's path for a soft link."""
        links: Mapping[str, int | str] = self._group._links
        return links

    @property
    def header(self) -> Header:
        return Header(self._group._dataobjects)

    def header_of(self, name: str) -> Header:
        """Header of the member `name`, which must not be a soft link."""
        return Header(self._file._get_dataobjects(self.links[name]))

    def group(self, name: str) -> "Group":
        return Group(self._file, self._group[name])

    def array(self, name: str) -> Any:
        """pyfive's view of an array: `shape`, `dtype`, and where it lies, without its numbers."""
        return self._group.get_lazy_view(name)


def open_root(stream: BinaryIO) -> tuple[Group, int]:
    """Open an HDF5 file.

    Returns
    -------
    Group
        The root.
    int
        Base address: bytes before the file proper (its user block), which all addresses leave out.
    """
    import pyfive  # late: it takes a fifth of a second, which only a reader of files should pay

    file = pyfive.File(stream)
    return Group(file, file), int(file.userblock_size)


def layout_class(array: Any) -> int:
    return int(array.id.layout_class)


def data_address(array: Any) -> int:
    """Address of a contiguous array, counted from the base address."""
    return int(array.id.data_offset)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pyfive's log of every object at INFO, the level of Ptychodus's log, unless a level was set."""
    logger = logging.getLogger("pyfive")
    level = logger.level
    if level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
