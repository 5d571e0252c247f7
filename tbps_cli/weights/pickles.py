"""An unpickler that can only make data.

A pickle is a small program; Python's own machine runs whatever functions it names. This one walks
the same opcodes (read by `pickletools`) and meets names only in the fixed table of `weights.names`:
nothing is imported, called or looked up by the file's wish, and anything outside the table is refused
by its name. Tensors come out as notes of where they lie, so that what nobody needs is never read.

Written by hand on purpose. `torch.load(weights_only=True)` imports what the file names from a table that other packages
may extend, has had bypasses (CVE-2025-32434), reads neither TorchScript archives nor `easydict.EasyDict` of the papers'
files, and fills every tensor, the optimiser's too; a subclass of `pickle.Unpickler` still runs Python's own machine.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol, cast

from tbps_cli.errors import WeightsError
from tbps_cli.weights.allowlist import StandIns, call, named, plain_key, set_state
from tbps_cli.weights.pickle_types import DamagedPickle, Refused, Storage

HINT = (
    "Only tensors, numbers and plain containers are read. Ask for a safetensors file, or for one made by "
    "torch.save(model.state_dict(), FILE)."
)

_BROKEN = (
    DamagedPickle,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What damaged opcodes raise on their way through."""


@dataclass
class _Machine:
    """The stack, the marks and the memo of one pickle."""

    storage_of: Callable[[tuple[Any, ...]], Storage]
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    stand_ins: StandIns = field(default_factory=StandIns)

    def pop(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise DamagedPickle("stack underflow")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise DamagedPickle("no mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type | tuple[type, ...]) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise DamagedPickle("wrong container")
        return self.stack[-1]


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
        raise DamagedPickle("no end")
    except Refused as refused:
        raise WeightsError(f"{name} asks for {refused}, which is code and not data; it was not run.", HINT) from None
    except _BROKEN as broken:
        raise WeightsError(f"{name} is damaged: its pickle cannot be followed ({broken}).", "Fetch it again.") from None


def _step(machine: _Machine, opcode: str, argument: Any) -> None:
    if opcode in _VALUES:
        machine.stack.append(argument)
    elif opcode in _ACTIONS:
        _ACTIONS[opcode](machine, argument)
    else:
        raise Refused(f"the pickle opcode {opcode}")


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
    return dict(zip(map(plain_key, items[::2]), items[1::2], strict=True))


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.top(dict)[plain_key(key)] = value


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(dict).update(_pairs(items))


def _add_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(set).update(map(plain_key, items))


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
        raise DamagedPickle("a name that is not text")
    machine.stack.append(named(module, name))


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(" ")
    machine.stack.append(named(module, name))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(arguments, tuple):
        raise DamagedPickle("arguments that are not a tuple")
    machine.stack.append(call(machine.stand_ins, function, arguments))


def _build(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    set_state(machine.stand_ins, machine.top(object), state)


def _persistent(machine: _Machine, _: Any) -> None:
    identity = machine.pop()
    if not isinstance(identity, tuple):
        raise DamagedPickle("a persistent id that is not a tuple")
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
    "FROZENSET": _from_mark(lambda items: frozenset(map(plain_key, items))),
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
