"""The fixed table of names that a checkpoint may use, and what each of them makes of its arguments.

Only constructors of data are here. A name outside the table is refused; a name inside it never leads
to the thing that Python knows by it, but to a small function of this module.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final, TypeVar

import numpy as np

from tbps_cli.weights.pickle_types import ITEM_BYTES, Array, DamagedPickle, Dtype, Name, Refused, Storage, Stored

Value = TypeVar("Value")
_KEY_PARTS = 16
"""Most values in a tuple that is a key."""
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


def plain_key(value: Any) -> Any:
    """The key of a dictionary: plain values or a few of them, since hashing nested tuples can last for ever."""
    parts = value if isinstance(value, tuple) and len(value) <= _KEY_PARTS else (value,)
    if not all(isinstance(part, str | int | float | bytes | None) for part in parts):
        raise DamagedPickle(f"a key of type {type(value).__name__}")
    return value


class StandIns:
    """Plain dictionaries in place of objects, and which class each stands for."""

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[str, dict[Any, Any]]] = {}

    def make(self, kind: str) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        self._kinds[id(made)] = kind, made  # kept alive, so that no id is used twice
        return made

    def kind_of(self, target: dict[Any, Any]) -> str:
        return self._kinds.get(id(target), ("plain", target))[0]


def named(module: str, name: str) -> Name:
    """The inert mark of an allowed name. Raises Refused for any other."""
    module = module.replace("__builtin__", "builtins").replace("numpy._core", "numpy.core")
    module = "pathlib" if module == "pathlib._local" else module  # where Python 3.13 keeps it
    full = f"{module}.{name}"
    if full in _CALLS or full in _INERT or module == "__torch__" or module.startswith("__torch__."):
        return Name(full)
    raise Refused(full)


def storage_type(name: object) -> str:
    """The number type of a storage class such as `torch.FloatStorage` (or its CUDA twin)."""
    kind = name.text.rpartition(".")[2] if isinstance(name, Name) else ""
    if kind not in _STORAGES:
        raise DamagedPickle("a storage of unknown type")
    return _STORAGES[kind]


def call(stand_ins: StandIns, function: object, arguments: tuple[Any, ...]) -> Any:
    """What a constructor of the table makes. Raises Refused for a name that makes nothing."""
    if not isinstance(function, Name):
        raise DamagedPickle("a call of something that is not a name")
    if function.text in _CALLS:
        return _CALLS[function.text](stand_ins, *arguments)
    if function.text.startswith("__torch__."):
        return stand_ins.make("object")
    raise Refused(f"a call of {function.text}")


def set_state(stand_ins: StandIns, target: object, state: Any) -> None:
    """What BUILD does: attributes of an object, kept where they carry data."""
    if isinstance(target, dict):
        kind = stand_ins.kind_of(target)
        attributes = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        if kind != "plain" and isinstance(attributes, dict):
            # EasyDict repeats its items as attributes, so what is there already stays as it is.
            for key, value in attributes.items():
                target.setdefault(key, value)
    elif isinstance(target, Dtype):
        target.order = "<" if state[1] in ("<", "|", "=") else ">"
    elif isinstance(target, Array):
        _, shape, dtype, fortran, raw = state
        flat = np.frombuffer(_typed(raw, bytes), dtype.numpy())
        target.value = flat.reshape(shape, order="F" if fortran else "C").copy()
    elif not isinstance(target, Stored):
        raise DamagedPickle("a state for something that has none")


def _tensor(stand_ins: StandIns, storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> Stored:
    return _checked(Stored(storage, storage.dtype, offset, tuple(size), tuple(stride)), ITEM_BYTES[storage.dtype])


def _tensor_v3(stand_ins: StandIns, storage: Storage, offset: int, size: Any, stride: Any, *more: Any) -> Stored:
    kind = str(more[2].text).removeprefix("torch.")  # after requires_grad and the hooks
    return _checked(Stored(storage, kind, offset, tuple(size), tuple(stride)), ITEM_BYTES[kind])


def _checked(stored: Stored, item: int) -> Stored:
    """The note itself, when every value lies inside its storage. Expanded tensors are refused: a few
    bytes could declare terabytes."""
    if not isinstance(stored.storage, Storage):
        raise DamagedPickle("a tensor without storage")
    numbers = (stored.offset, *stored.size, *stored.stride)
    if any(type(number) is not int or number < 0 for number in numbers) or len(stored.size) != len(stored.stride):
        raise DamagedPickle("a tensor of impossible shape")
    held = stored.storage.count * ITEM_BYTES[stored.storage.dtype] // item
    values, last = 1, stored.offset
    for size, stride in zip(stored.size, stored.stride, strict=True):
        values *= size
        last += (size - 1) * stride
    if values and (last >= held or values > held):
        raise DamagedPickle(f"a tensor of {values:,} values in a storage of {held:,}")
    return stored


def _rebuilt_from_type(stand_ins: StandIns, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if not isinstance(function, Name) or not function.text.startswith("torch._utils._rebuild_"):
        raise DamagedPickle("a tensor rebuilt by no known function")
    return call(stand_ins, function, tuple(arguments))


def _mapping(kind: str) -> Callable[..., dict[Any, Any]]:
    def make(stand_ins: StandIns, *arguments: Any) -> dict[Any, Any]:
        made = stand_ins.make(kind)
        for argument in arguments:
            if isinstance(argument, dict):
                made.update(argument)
            elif isinstance(argument, list | tuple):
                made.update((plain_key(key), value) for key, value in argument)
        return made

    return make


def _typed(value: Any, kind: type[Value]) -> Value:
    # Nothing is converted: bytes(10**12) and the text of boxes in boxes would fill the memory.
    if not isinstance(value, kind):
        raise DamagedPickle(f"a {type(value).__name__} in the place of {kind.__name__}")
    return value


def _scalar(stand_ins: StandIns, dtype: Dtype, raw: bytes) -> Any:
    return np.frombuffer(_typed(raw, bytes), dtype.numpy(), count=1)[0].item()


def _encode(stand_ins: StandIns, text: str, encoding: str = "latin1") -> bytes:
    # numpy writes raw bytes as text under protocol 2; no other codec has business here.
    if _typed(encoding, str) not in ("latin1", "latin-1"):
        raise DamagedPickle(f"the codec {encoding!r}")
    return _typed(text, str).encode("latin1")


def _device(stand_ins: StandIns, kind: str, index: int | None = None) -> str:
    return _typed(kind, str) if index is None else f"{_typed(kind, str)}:{_typed(index, int)}"


def _path(kind: type[PurePath]) -> Callable[..., str]:
    return lambda stand_ins, *parts: str(kind(*(_typed(part, str) for part in parts)))


def _bytes(stand_ins: StandIns, value: Any = b"", encoding: str = "latin1") -> bytes:
    return value if isinstance(value, bytes) else _encode(stand_ins, value, encoding)


def _complex(stand_ins: StandIns, real: Any, imaginary: Any) -> complex:
    return complex(_typed(real, float), _typed(imaginary, float))


def _text(stand_ins: StandIns, value: Any, *_: Any) -> str:
    return _typed(value, str)


def _fraction(stand_ins: StandIns, *parts: Any) -> str:
    return "/".join(str(_typed(part, int)) for part in parts)


def _date(kind: type[datetime.date] | type[datetime.time]) -> Callable[..., str]:
    """ISO text of a day, a time or both, which Python pickles as a few bytes; time zones are left away."""
    return lambda stand_ins, raw, *_: kind(_typed(raw, bytes)).isoformat()  # type: ignore[arg-type, call-arg]


def _duration(stand_ins: StandIns, *parts: Any) -> float:
    return datetime.timedelta(*(_typed(part, int) for part in parts)).total_seconds()


def _queue(stand_ins: StandIns, items: Any = (), *_: Any) -> list[Any]:
    return list(items) if isinstance(items, tuple) else _typed(items, list)


def _first(stand_ins: StandIns, value: Any, *_: Any) -> Any:
    return value


_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuilt_from_type,
    "torch.Size": lambda stand_ins, size: tuple(size),
    "torch.device": _device,
    "collections.OrderedDict": _mapping("plain"),
    "collections.defaultdict": _mapping("plain"),
    "collections.Counter": _mapping("plain"),
    "easydict.EasyDict": _mapping("easydict"),
    "argparse.Namespace": _mapping("namespace"),
    "builtins.dict": _mapping("plain"),
    "builtins.set": lambda stand_ins, items=(): set(map(plain_key, items)),
    "builtins.frozenset": lambda stand_ins, items=(): frozenset(map(plain_key, items)),
    "numpy.dtype": lambda stand_ins, code, *_: Dtype(_typed(code, str)),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": lambda stand_ins, *_: Array(),
    "_codecs.encode": _encode,
    # harmless values that options hold: paths, numbers and times become text or plain containers
    **{f"pathlib.{name}": _path(PurePosixPath) for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")},
    **{f"pathlib.{name}": _path(PureWindowsPath) for name in ("WindowsPath", "PureWindowsPath")},
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "builtins.range": lambda stand_ins, *ends: ends,
    "builtins.xrange": lambda stand_ins, *ends: ends,
    "builtins.slice": lambda stand_ins, *ends: ends,
    "collections.deque": _queue,
    "datetime.date": _date(datetime.date),
    "datetime.datetime": _date(datetime.datetime),
    "datetime.time": _date(datetime.time),
    "datetime.timedelta": _duration,
    "datetime.timezone": _first,
    "decimal.Decimal": _text,
    "fractions.Fraction": _fraction,
    "types.SimpleNamespace": _mapping("namespace"),
    "uuid.UUID": _mapping("object"),
    "yacs.config.CfgNode": _mapping("plain"),
    "addict.addict.Dict": _mapping("plain"),
    "torch.serialization._get_layout": _text,
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
    *(f"builtins.{kind}" for kind in ("list", "int", "float", "str", "unicode", "bool", "tuple")),
    # number types named without their values
    *(f"numpy.{kind}" for kind in ("bool_", "bool", "str_", "bytes_", "float16", "float32", "float64")),
    *(f"numpy.{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)),
    *(f"torch.{kind}" for kind in ITEM_BYTES),
    *(f"{module}.{kind}" for module in ("torch", "torch.cuda", "torch.storage") for kind in _STORAGES),
}
"""Names that may stand as arguments but are never called."""
