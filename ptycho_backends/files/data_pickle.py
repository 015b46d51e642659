"""Data in a pickle, read without running it.

A pickle is a program for a small stack machine, two of whose instructions import and call anything. This
interpreter knows the instructions that build plain values. Of the callables it knows the few of a
`Vocabulary`, which it carries out itself: by default those by which NumPy, dill and TensorFlow write
arrays. Nothing that a pickle names is ever imported or called.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.budget import MAX_INTEGER_BITS, MAX_OBJECTS, MAX_PICKLE_BYTES, Budget

MAX_NESTING = 16
MAX_SHARED_BYTES = 1 << 20

_NDARRAY = ("numpy", "ndarray")
_DTYPE = ("numpy", "dtype")
_RECONSTRUCT = {("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct")}
_SCALAR = {("numpy._core.multiarray", "scalar"), ("numpy.core.multiarray", "scalar")}
_CREATE_ARRAY = ("dill._dill", "_create_array")
_TO_TENSOR = ("tensorflow.python.framework.ops", "convert_to_tensor")

KNOWN_GLOBALS = frozenset({_NDARRAY, _DTYPE, _CREATE_ARRAY, _TO_TENSOR} | _RECONSTRUCT | _SCALAR)
"""Every global that may occur, as (module, name). They are recognised, not imported."""

# Kind and size of the numbers that arrays may hold; pickles spell them "f8", with the byte order apart.
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}

_MARK = object()


@dataclass(frozen=True)
class Global:
    """A name in the pickle; stands on the stack where pickle would have the imported object."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return (self.module, self.name)


@dataclass(frozen=True)
class Vocabulary:
    """Names and calls that a pickle may contain beyond plain values."""

    known: frozenset[tuple[str, str]]
    """Globals that may be named, as (module, name)."""
    called: Callable[[Global, tuple], Any]
    """Result that stands for a call with these arguments; `ArchiveError` if the call is not allowed."""
    set_state: Callable[[Any, Any], None]
    """Gives a stand-in its state; `ArchiveError` if it has none."""
    referred: Callable[[Any], Any] | None = None
    """Value of a persistent id, a reference to something outside the pickle; None if none may occur."""


@dataclass
class _Dtype:
    """Becomes a dtype when the byte order arrives."""

    dtype: np.dtype


@dataclass
class _Array:
    """Becomes an array when its state arrives; until the end a view of the pickle's bytes."""

    values: NDArray | None = None


def load_data(data: bytes, member: str, vocabulary: Vocabulary | None = None) -> Any:
    """The value that the pickle `data` describes: None, numbers, text, bytes, containers, NumPy arrays.

    Parts that are referred to several times count as often, so what is returned can be walked through and printed.

    Parameters
    ----------
    data : bytes
        Pickle of any protocol, of at most `budget.MAX_PICKLE_BYTES`.
    member : str
        Name of the file within its archive, for messages.
    vocabulary : Vocabulary, optional
        By default NumPy arrays and nothing else. Stand-ins of another one are among the values returned.

    Raises
    ------
    ArchiveError
        If it is damaged, names a global that is not in the vocabulary (`KNOWN_GLOBALS` by default), or
        builds anything but data.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise ArchiveError(f"{member}: {len(data)} bytes, want at most {MAX_PICKLE_BYTES}")
    budget = Budget(nesting=MAX_NESTING)
    try:
        return _Finisher(len(data)).finished(_Machine(vocabulary or _NUMPY, budget).run(data), 0)
    except ArchiveError as error:
        raise ArchiveError(f"{member}: {error}") from None
    except Exception as error:  # pickletools meets damage with many kinds of exception
        raise ArchiveError(f"{member}: damaged ({type(error).__name__}: {error!s:.200})") from error


class _Machine:
    """The stack machine: `run` carries out the instructions that `pickletools` finds."""

    def __init__(self, vocabulary: Vocabulary, budget: Budget) -> None:
        self.vocabulary, self.budget = vocabulary, budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            self.budget.spend_objects()
            name = opcode.name
            if name == "STOP":
                return self.pop()
            if name in _PUSHING:
                if type(argument) is int and argument.bit_length() > MAX_INTEGER_BITS:
                    raise ArchiveError(f"an integer of more than {MAX_INTEGER_BITS} bits")
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name == "BINPERSID" and self.vocabulary.referred is not None:
                self.stack.append(self.vocabulary.referred(self.pop()))
            elif name not in ("PROTO", "FRAME"):
                raise ArchiveError(f"the instruction {name} builds more than data")
        raise ArchiveError("cut short")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ArchiveError("damaged; a mark where a value is wanted")
        return value

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                found = self.stack[start + 1 :]
                del self.stack[start:]
                return found
        raise ArchiveError("damaged; a mark is missing")

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ArchiveError("damaged; items for what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ArchiveError("damaged; keys for what is no dictionary")
        self.fill(target, items)

    def dictionary(self, items: list[Any]) -> dict:
        found: dict = {}
        self.fill(found, items)
        return found

    def fill(self, target: dict, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # other keys could take for ever to hash, or be the machine's own stand-ins
            if type(key) not in (str, int, bool, float, type(None)):
                raise ArchiveError(f"a {type(key).__name__} as key of a dictionary")
            self.budget.spend_key(key)
            target[key] = value

    def name_global(self, module: Any, name: Any) -> None:
        # other values could take for ever to hash
        if type(module) is not str or type(name) is not str:
            raise ArchiveError("names something by what is no text")
        if (module, name) not in self.vocabulary.known:
            raise ArchiveError(f"names {module}.{name}, which is not data")
        self.stack.append(Global(module, name))

    def reduce(self) -> None:
        function, arguments = self.pop_many(2)
        if type(function) is not Global or type(arguments) is not tuple:
            raise ArchiveError("calls something that is not known")
        self.stack.append(self.vocabulary.called(function, arguments))

    def build(self) -> None:
        state = self.pop()
        self.vocabulary.set_state(self.stack[-1], state)


_PUSHING = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop_many(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop_many(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop_many(3))),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append(machine.pop_many(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "DICT": lambda machine, _: machine.stack.append(machine.dictionary(machine.pop_to_mark())),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_many(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    # pickletools joins module and name of the older instruction with a space
    "GLOBAL": lambda machine, text: machine.name_global(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_global(*machine.pop_many(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


# --- the few callables, carried out here


def _called(function: Global, arguments: tuple) -> Any:
    if function.key == _DTYPE:
        code = arguments[0]
        if type(code) is not str or code.lstrip("<>=|") not in _DTYPES:
            raise ArchiveError(f"an array of {code!r:.40}, want numbers")
        return _Dtype(np.dtype(code))
    if function.key in _RECONSTRUCT:
        if not arguments or not _is_ndarray(arguments[0]):
            raise ArchiveError("an array of an unknown class")
        return _Array()
    if function.key in _SCALAR:
        dtype, data = arguments
        scalar = _array((1, (), dtype, False, data))
        return scalar.astype(scalar.dtype.newbyteorder("="))[()]
    if function.key == _CREATE_ARRAY:
        maker, _, state, attributes = arguments
        if type(maker) is not Global or maker.key not in _RECONSTRUCT or attributes is not None:
            raise ArchiveError("an array of an unknown class")
        return _Array(_array(state))
    if function.key == _TO_TENSOR:
        # (value, dtype, name, ...): only the value holds numbers
        if not arguments or type(arguments[0]) is not _Array:
            raise ArchiveError("a tensor made of something else than an array")
        return arguments[0]
    raise ArchiveError(f"calls {function.module}.{function.name}")


def _set_state(target: Any, state: Any) -> None:
    if type(target) is _Array:
        target.values = _array(state)
    elif type(target) is _Dtype:
        target.dtype = _with_byte_order(target.dtype, state)
    else:
        raise ArchiveError("sets the state of something that is not known")


_NUMPY = Vocabulary(KNOWN_GLOBALS, _called, _set_state)


def _is_ndarray(value: Any) -> bool:
    return type(value) is Global and value.key == _NDARRAY


def _with_byte_order(dtype: np.dtype, state: Any) -> np.dtype:
    # (version, byte order, then sub-array, names and fields of structured types, which are refused)
    if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
        raise ArchiveError("a dtype with an unknown state")
    if any(part is not None for part in state[2:5]):
        raise ArchiveError("an array of records, want numbers")
    return dtype.newbyteorder(state[1])


def _array(state: Any) -> NDArray:
    """The array of NumPy's pickle state `(version, shape, dtype, Fortran order, bytes)`."""
    if type(state) is not tuple or len(state) != 5:
        raise ArchiveError("an array with an unknown state")
    _, shape, dtype, fortran, data = state
    sizes_known = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
    if not sizes_known or type(dtype) is not _Dtype or type(data) is not bytes:
        raise ArchiveError("an array with an unknown state")
    if len(shape) > 16 or math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise ArchiveError(f"an array of shape {shape[:16]!s:.200} and {dtype.dtype} in {len(data)} bytes")
    # a view of the pickle's own bytes; `_Finisher` copies the arrays that are kept
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _Finisher:
    """Puts arrays in the place of stand-ins; shared parts are copied once.

    References make a small pickle into an endless or an exponentially large value, hence the limits: a part counts
    as often as it is referred to.
    """

    def __init__(self, size: int) -> None:
        # each array is bytes of the pickle, but any number of arrays may be views of the same
        self.bytes_left = size + MAX_SHARED_BYTES
        self.done: dict[int, tuple[Any, int]] = {}

    def finished(self, value: Any, depth: int) -> Any:
        return self._finished(value, depth)[0]

    def _finished(self, value: Any, depth: int) -> tuple[Any, int]:
        """A value, and the number of values in it."""
        if depth > MAX_NESTING:
            raise ArchiveError("nested too deeply")
        if type(value) is Global or value is _MARK:
            raise ArchiveError("a name where a value is wanted")
        if type(value) is _Dtype:
            return value.dtype, 1
        if type(value) not in (_Array, list, tuple, dict):
            return value, 1
        if id(value) not in self.done:
            self.done[id(value)] = self._copied(value, depth + 1)
        return self.done[id(value)]

    def _copied(self, value: Any, depth: int) -> tuple[Any, int]:
        if type(value) is _Array:
            return self._array(value), 1
        finished, count = [], 1
        for part in value.values() if type(value) is dict else value:
            inner, inside = self._finished(part, depth)
            finished.append(inner)
            count += inside
            if count > MAX_OBJECTS:
                raise ArchiveError(f"more than {MAX_OBJECTS} values")
        copied = dict(zip(value, finished, strict=True)) if type(value) is dict else type(value)(finished)
        return copied, count

    def _array(self, array: _Array) -> NDArray:
        if array.values is None:
            raise ArchiveError("an array without values")
        self.bytes_left -= array.values.nbytes
        if self.bytes_left < 0:
            raise ArchiveError("arrays that are larger together than the file, so they share their numbers")
        return np.array(array.values, array.values.dtype.newbyteorder("="))


def holds_none(data: bytes) -> bool:
    """Recognise the pickle of an array whose one object is None, as `numpy.save` writes None; nothing is run.

    Its last list holds None alone.
    """
    try:
        names = [operation.name for operation, _, _ in pickletools.genops(data)]
    except Exception:  # a damaged pickle makes it raise almost anything
        return False
    if "EMPTY_LIST" not in names:
        return False
    after = names[len(names) - 1 - names[::-1].index("EMPTY_LIST") :]
    return [name for name in after if name not in _MEMO][1:3] == ["NONE", "APPEND"]


# Instructions that remember a value, which pickles scatter everywhere.
_MEMO = {"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"}
