"""An unpickler that can only make data.

A pickle is a small program; Python's own machine runs whatever functions it names. This one walks
the same opcodes (read by `pickletools`) but knows a fixed table of names: containers, numbers and
the few constructors of tensors. Nothing is imported, called or looked up by the file's wish, and
anything outside the table is refused by its name. Tensors come out as `Stored` notes (which storage,
which strides); `weights.files` fills them, so that what nobody needs is never read.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol, cast

import numpy as np

from tbps_cli.errors import WeightsError

HINT = (
    "Only tensors, numbers and plain containers are read. Ask for a safetensors file, or for one made by "
    "torch.save(model.state_dict(), FILE)."
)

ITEM_BYTES: Final = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class Damaged(Exception):
    """The opcodes do not fit together; the caller names the file."""


_BROKEN = (
    Damaged,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What damaged opcodes raise on their way through."""


@dataclass(frozen=True)
class Storage:
    """A stretch of values elsewhere in the file. `first` and `count` are in values of `dtype`."""

    key: str
    dtype: str
    count: int
    first: int = 0


@dataclass(frozen=True)
class Stored:
    """A tensor not yet read: sizes and strides over a storage, checked to lie inside it."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """What a GLOBAL opcode leaves on the stack: a name, never the thing itself."""

    text: str


@dataclass(eq=False)
class _Dtype:
    """A numpy number type, completed by the state that follows it."""

    code: str
    order: str = "<"

    def numpy(self) -> np.dtype[Any]:
        if not re.fullmatch(r"[biuf][1248]", self.code):
            raise Damaged(f"numpy type {self.code!r}")
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class Array:
    """A numpy array, completed by the state that follows it."""

    value: np.ndarray[Any, Any] | None = None


@dataclass
class _Machine:
    """The stack, the marks and the memo of one pickle."""

    storage_of: Callable[[tuple[Any, ...]], Storage]
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    """id of a dictionary that stands for an object -> the object's class."""
    made: list[Any] = field(default_factory=list)
    """Keeps those dictionaries alive, so that no id is used twice."""

    def pop(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise Damaged("stack underflow")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise Damaged("no mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type | tuple[type, ...]) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Damaged("wrong container")
        return self.stack[-1]

    def stand_in(self, kind: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self.kinds[id(made)] = kind
        self.made.append(made)
        return made


class Readable(Protocol):
    """What a stream must offer: a file, bytes in memory, or a mapped file."""

    def read(self, size: int = ..., /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


def unpickle(stream: Readable, storage_of: Callable[[tuple[Any, ...]], Storage], name: str) -> Any:
    """The value of the next pickle in the stream, with tensors as `Stored`.

    storage_of: turns a persistent id (a tuple) into a `Storage`; it checks what the file really holds.
    name: the file, for messages. Raises WeightsError when it asks for anything but data.
    """
    machine = _Machine(storage_of)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            if opcode.name == "STOP":
                return machine.pop()
            _step(machine, opcode.name, argument)
        raise Damaged("no end")
    except _Refused as refused:
        raise WeightsError(f"{name} asks for {refused}, which is code and not data; it was not run.", HINT) from None
    except _BROKEN as broken:
        raise WeightsError(f"{name} is damaged: its pickle cannot be followed ({broken}).", "Fetch it again.") from None


class _Refused(Exception):
    """A name outside the table."""


def _step(machine: _Machine, opcode: str, argument: Any) -> None:
    if opcode in _VALUES:
        machine.stack.append(argument)
    elif opcode in _ACTIONS:
        _ACTIONS[opcode](machine, argument)
    else:
        raise _Refused(f"the pickle opcode {opcode}")


# Opcodes ----------------------------------------------------------------------------------------

_VALUES: Final = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _from_mark(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine.pop_mark()))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def action(machine: _Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return action


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _key(value: Any) -> Any:
    # Plain keys only: hashing a tuple of tuples of tuples can be made to last for ever.
    if not isinstance(value, str | int | float | bytes | None):
        raise Damaged(f"a key of type {type(value).__name__}")
    return value


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.top(dict)[_key(key)] = value


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(dict).update(_pairs(items))


def _add_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(set).update(map(_key, items))


def _pop(machine: _Machine, _: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.pop_mark()


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.top(object)


def _put(machine: _Machine, index: Any) -> None:
    machine.memo[int(index)] = machine.top(object)


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise Damaged("a name that is no text")
    machine.stack.append(_named(module, name))


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(" ")
    machine.stack.append(_named(module, name))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(arguments, tuple):
        raise Damaged("arguments that are no tuple")
    machine.stack.append(_call(machine, function, arguments))


def _build(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    _set_state(machine, machine.top(object), state)


def _persistent(machine: _Machine, _: Any) -> None:
    identity = machine.pop()
    if not isinstance(identity, tuple):
        raise Damaged("a persistent id that is no tuple")
    machine.stack.append(machine.storage_of(identity))


_ACTIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_SET": _constant(set),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "LIST": _from_mark(list),
    "DICT": _from_mark(_pairs),
    "TUPLE": _from_mark(tuple),
    "FROZENSET": _from_mark(lambda items: frozenset(map(_key, items))),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.top(object)),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.stack.append(machine.memo[int(index)])
    ),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "BUILD": _build,
    "BINPERSID": _persistent,
}


# Names ------------------------------------------------------------------------------------------


def _named(module: str, name: str) -> Name:
    """The inert mark of an allowed name. Raises _Refused for any other."""
    module = module.replace("__builtin__", "builtins").replace("numpy._core", "numpy.core")
    full = f"{module}.{name}"
    if full in _CALLS or full in _INERT or module == "__torch__" or module.startswith("__torch__."):
        return Name(full)
    raise _Refused(full)


def storage_type(name: object) -> str:
    """The number type of a storage class such as `torch.FloatStorage` (or its CUDA twin)."""
    kind = name.text.rpartition(".")[2] if isinstance(name, Name) else ""
    if kind not in _STORAGES:
        raise Damaged("a storage of unknown type")
    return _STORAGES[kind]


def _call(machine: _Machine, function: object, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(function, Name):
        raise Damaged("a call of something that is no name")
    if function.text in _CALLS:
        return _CALLS[function.text](machine, *arguments)
    if function.text.startswith("__torch__."):
        return machine.stand_in("object")
    raise _Refused(f"a call of {function.text}")


def _set_state(machine: _Machine, target: object, state: Any) -> None:
    """What BUILD does: attributes of an object, kept where they carry data."""
    if isinstance(target, dict):
        kind = machine.kinds.get(id(target), "plain")
        attributes = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        if kind != "plain" and isinstance(attributes, dict):
            # EasyDict repeats its items as attributes, so what is there already stays as it is.
            for key, value in attributes.items():
                target.setdefault(key, value)
    elif isinstance(target, _Dtype):
        target.order = "<" if state[1] in ("<", "|", "=") else ">"
    elif isinstance(target, Array):
        _, shape, dtype, fortran, raw = state
        flat = np.frombuffer(bytes(raw), dtype.numpy())
        target.value = flat.reshape(shape, order="F" if fortran else "C").copy()
    elif not isinstance(target, Stored):
        raise Damaged("a state for something that has none")


def _tensor(machine: _Machine, storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> Stored:
    return _checked(Stored(storage, storage.dtype, offset, tuple(size), tuple(stride)), ITEM_BYTES[storage.dtype])


def _tensor_v3(machine: _Machine, storage: Storage, offset: int, size: Any, stride: Any, *more: Any) -> Stored:
    kind = str(more[2].text).removeprefix("torch.")  # after requires_grad and the hooks
    return _checked(Stored(storage, kind, offset, tuple(size), tuple(stride)), ITEM_BYTES[kind])


def _checked(stored: Stored, item: int) -> Stored:
    """The note itself, when every value lies inside its storage. Expanded tensors are refused: a few
    bytes could declare terabytes."""
    if not isinstance(stored.storage, Storage):
        raise Damaged("a tensor without storage")
    numbers = (stored.offset, *stored.size, *stored.stride)
    if any(type(number) is not int or number < 0 for number in numbers) or len(stored.size) != len(stored.stride):
        raise Damaged("a tensor of impossible shape")
    held = stored.storage.count * ITEM_BYTES[stored.storage.dtype] // item
    values, last = 1, stored.offset
    for size, stride in zip(stored.size, stored.stride, strict=True):
        values *= size
        last += (size - 1) * stride
    if values and (last >= held or values > held):
        raise Damaged(f"a tensor of {values:,} values in a storage of {held:,}")
    return stored


def _rebuilt_from_type(machine: _Machine, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if not isinstance(function, Name) or not function.text.startswith("torch._utils._rebuild_"):
        raise Damaged("a tensor rebuilt by no known function")
    return _call(machine, function, tuple(arguments))


def _mapping(kind: str) -> Callable[..., dict[Any, Any]]:
    def make(machine: _Machine, *arguments: Any) -> dict[Any, Any]:
        made = machine.stand_in(kind)
        for argument in arguments:
            if isinstance(argument, dict):
                made.update(argument)
            elif isinstance(argument, list | tuple):
                made.update((_key(key), value) for key, value in argument)
        return made

    return make


def _scalar(machine: _Machine, dtype: _Dtype, raw: bytes) -> Any:
    return np.frombuffer(bytes(raw), dtype.numpy(), count=1)[0].item()


def _encode(machine: _Machine, text: str, encoding: str = "latin1") -> bytes:
    # numpy writes raw bytes as text under protocol 2; no other codec has business here.
    if encoding not in ("latin1", "latin-1"):
        raise Damaged(f"the codec {encoding!r}")
    return text.encode("latin1")


def _device(machine: _Machine, kind: str, index: int | None = None) -> str:
    return str(kind) if index is None else f"{kind}:{int(index)}"


def _first(machine: _Machine, value: Any, *_: Any) -> Any:
    return value


_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuilt_from_type,
    "torch.Size": lambda machine, size: tuple(size),
    "torch.device": _device,
    "collections.OrderedDict": _mapping("plain"),
    "collections.defaultdict": _mapping("plain"),
    "collections.Counter": _mapping("plain"),
    "easydict.EasyDict": _mapping("easydict"),
    "argparse.Namespace": _mapping("namespace"),
    "builtins.dict": _mapping("plain"),
    "builtins.set": lambda machine, items=(): set(map(_key, items)),
    "builtins.frozenset": lambda machine, items=(): frozenset(map(_key, items)),
    "numpy.dtype": lambda machine, code, *_: _Dtype(str(code)),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": lambda machine, *_: Array(),
    "_codecs.encode": _encode,
    # TorchScript marks its lists and dictionaries with their types.
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
}

_INERT: Final = {
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "numpy.ndarray",
    # the factories of default dictionaries: dropped, never called
    *(f"builtins.{kind}" for kind in ("list", "int", "float", "str", "tuple")),
    *(f"torch.{kind}" for kind in ITEM_BYTES),
    *(f"{module}.{kind}" for module in ("torch", "torch.cuda", "torch.storage") for kind in _STORAGES),
}
"""Names that may stand as arguments but are never called."""
