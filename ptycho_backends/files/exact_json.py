"""JSON that keeps exact types, with a reader stricter than usual ones."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.budget import MAX_INTEGER_BITS, MAX_NESTING, MAX_OBJECTS, MAX_TEXT_BYTES, Budget

# A value without a form in JSON is an object with one key that starts with this. Plain dictionaries with such keys
# are written as "$dict", so nothing is mistaken for a tag.
TAG = "$"

# float128 is missing: its digits are not the same on every machine.
SCALAR_TYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128", "str",
)  # fmt: skip

FetchArray = Callable[[str], NDArray]


def dumps(value: Any) -> bytes:
    """Write `value` as UTF-8 JSON, from which `loads` makes an equal value of equal types.

    Parameters
    ----------
    value : object
        None, numbers, strings, paths, NumPy scalars; lists, tuples and dictionaries of them.

    Raises
    ------
    TypeError
        For anything else; the text names the type.
    """
    return (json.dumps(_encoded(value, 0), indent=1, allow_nan=False) + "\n").encode()


def loads(data: bytes, name: str, fetch_array: FetchArray | None = None) -> Any:
    """The value that `dumps` wrote.

    Parameters
    ----------
    data : bytes
        UTF-8 JSON of at most `budget.MAX_TEXT_BYTES`.
    name : str
        Of the archive's member, for messages.
    fetch_array : callable, optional
        Returns the array stored under a name; raises `KeyError` for a name it does not know.

    Raises
    ------
    ArchiveError
        Not JSON, NaN or infinite numbers, a key given twice, nesting too deep, an unknown tag.
    """
    try:
        return _decoded(plain_loads(data, name), fetch_array, 0, Budget(nesting=2 * MAX_NESTING))
    except ArchiveError as error:
        raise error if str(error).startswith(f"{name}: ") else ArchiveError(f"{name}: {error}") from None
    except (KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ArchiveError(f"{name}: a tagged value is malformed ({error})") from error


def plain_loads(data: bytes, name: str) -> Any:
    """JSON without tags; strict as `loads` is."""
    return bounded_loads(
        data,
        name,
        object_pairs_hook=_without_duplicates,
        parse_float=_finite,
        parse_constant=_finite,
    )


def bounded_loads(data: bytes, name: str, **hooks: Any) -> Any:
    """JSON of at most `budget.MAX_TEXT_BYTES` and `budget.MAX_OBJECTS` values; `hooks` as those of `json.loads`.

    Raises
    ------
    ArchiveError
    """
    if len(data) > MAX_TEXT_BYTES:
        raise ArchiveError(f"{name}: {len(data)} bytes, want at most {MAX_TEXT_BYTES}")
    # each value but the first stands behind one of these
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > MAX_OBJECTS:
        raise ArchiveError(f"{name}: more than {MAX_OBJECTS} values, which are in no genuine file")
    try:
        return json.loads(data.decode("utf-8"), parse_int=_short, **hooks)
    except RecursionError as error:
        raise ArchiveError(f"{name}: nested too deeply") from error
    except ValueError as error:
        raise ArchiveError(f"{name}: not JSON as this library writes it ({error})") from error


def _short(text: str) -> int:
    value = int(text)
    if value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(f"an integer of more than {MAX_INTEGER_BITS} bits")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _encoded(value: Any, depth: int) -> Any:
    if depth > MAX_NESTING:
        raise TypeError("nested too deeply")

    def inner(item: Any) -> Any:
        return _encoded(item, depth + 1)

    if isinstance(value, np.generic):
        return _encoded_scalar(value)
    if isinstance(value, Path):
        return {"$path": str(value)}
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is complex:
        return {"$complex": [inner(value.real), inner(value.imag)]}
    if kind is tuple:
        return {"$tuple": [inner(item) for item in value]}
    if kind is list:
        return [inner(item) for item in value]
    if kind is dict:
        if all(type(key) is str and not key.startswith(TAG) for key in value):
            return {key: inner(item) for key, item in value.items()}
        return {"$dict": [[inner(key), inner(item)] for key, item in value.items()]}
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} has no place in JSON")


def _encoded_scalar(value: np.generic) -> dict[str, list]:
    name = "str" if isinstance(value, np.str_) else value.dtype.name
    if name not in SCALAR_TYPES:
        raise TypeError(f"numpy.{name} has no place in JSON")
    return {"$numpy": [name, _encoded(value.item(), 0)]}


def _decoded(value: Any, fetch_array: FetchArray | None, depth: int, budget: Budget) -> Any:
    budget.require_depth(depth)

    def inner(item: Any) -> Any:
        return _decoded(item, fetch_array, depth + 1, budget)

    if isinstance(value, list):
        return [inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    tags = [key for key in value if key.startswith(TAG)]
    if not tags:
        return {key: inner(item) for key, item in value.items()}
    if len(value) != 1:
        raise ArchiveError(f"the tag {tags[0]!r} stands beside other keys")
    ((tag, content),) = value.items()
    if tag == "$tuple" and isinstance(content, list):
        return tuple(inner(item) for item in content)
    if tag == "$dict" and isinstance(content, list):
        found = {}
        for pair in content:
            key, item = map(inner, pair)
            budget.spend_key(key)
            found[key] = item
        return found
    if tag == "$float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag == "$complex" and isinstance(content, list):
        real, imaginary = map(inner, content)
        return complex(real, imaginary)
    if tag == "$path" and isinstance(content, str):
        return Path(content)
    if tag == "$numpy" and isinstance(content, list):
        name, item = content
        if name in SCALAR_TYPES:
            return np.dtype(name).type(inner(item))
    if tag == "$array" and isinstance(content, str) and fetch_array is not None:
        return fetch_array(content)
    raise ArchiveError(f"unknown or malformed tag {tag!r}")
