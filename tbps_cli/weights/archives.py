"""The two containers of `torch.save`, and TorchScript's: found, bounded, and their tensors filled.

Sizes are checked against the file before anything is allocated, storages shared by several tensors
stay shared, and everything arrives on the CPU whatever device the file names.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import torch

from tbps_cli.errors import WeightsError
from tbps_cli.weights.allowlist import storage_type
from tbps_cli.weights.headers import FETCH
from tbps_cli.weights.pickle_types import ITEM_BYTES, Array, DamagedPickle, Dtype, Name, Storage, Stored
from tbps_cli.weights.pickles import unpickle

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


Values = Callable[[str], bool]
"""Whether the numbers of a tensor are read, by its place: the keys that lead to it, joined by dots. Without them it is
on the meta device and has a shape alone. Single numbers are always read."""


LONGEST_PLACE = 4096
"""Characters; a file may hold one key of megabytes hundreds of times inside itself."""


def below(place: str, key: object) -> str:
    """The place of what a key leads to. One that is too long is cut, and then longer than `LONGEST_PLACE`."""
    return f"{place}.{key}"[: LONGEST_PLACE + 1] if place else str(key)[: LONGEST_PLACE + 1]


def read_zip(path: Path, skip: Collection[str], values: Values) -> tuple[Any, bool]:
    """(content, whether TorchScript wrote it) of a zip archive, without the outermost keys in `skip`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, path).read(skip, values)
    except (zipfile.BadZipFile, EOFError, struct.error, RuntimeError, ValueError, OSError, OverflowError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", FETCH) from None


class _Archive:
    """A torch or TorchScript archive: `ROOT/data.pkl` and one record a storage under `ROOT/data/`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.zip, self.path = archive, path
        self.entries = {entry.filename: entry for entry in archive.infolist()}
        if len(self.entries) < len(archive.infolist()):
            names = [entry.filename for entry in archive.infolist()]
            twice = next(name for name in names if names.count(name) > 1)
            raise WeightsError(f"{path} holds {twice!r} twice, so programs differ in what they read from it.", FETCH)
        pickles = [name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(f"{path} is a zip file but not a checkpoint: it has no data.pkl.", "Unpack it first.")
        self.root = pickles[0].removesuffix("data.pkl")
        self.loaded: dict[str, torch.UntypedStorage] = {}
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Torch compresses only code, so the records together cannot be larger than the file."""
        size = self.path.stat().st_size
        read = [entry for name, entry in self.entries.items() if not name.startswith(self.root + "code/")]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in read):
            raise WeightsError(f"{self.path} is a compressed zip file and not a checkpoint.", "Unpack it first.")
        declared = sum(entry.file_size for entry in read)
        if declared > size:
            raise WeightsError(f"{self.path} declares {declared:,} bytes but has {size:,}.", FETCH)

    def read(self, skip: Collection[str], values: Values) -> tuple[Any, bool]:
        order = self.entries.get(self.root + "byteorder")
        if order is not None and self.zip.read(order).strip() == b"big":
            raise WeightsError(f"{self.path} was written on a big-endian machine.", "Save it as safetensors there.")
        with self.zip.open(self.root + "data.pkl") as file:
            value = unpickle(io.BytesIO(file.read()), self._storage, str(self.path))
        script = self.root + "constants.pkl" in self.entries
        return _plain(value, self._bytes, skip, values), script

    def _storage(self, identity: tuple[Any, ...]) -> Storage:
        word, kind, key, _, count = identity
        if word != "storage" or not isinstance(key, str) or type(count) is not int:
            raise DamagedPickle("an unknown persistent id")
        storage = Storage(key, storage_type(kind), count)
        entry = self.entries.get(f"{self.root}data/{key}")
        if entry is None:
            raise WeightsError(f"{self.path}: the storage {key!r} is missing.", FETCH)
        if count < 0 or count * ITEM_BYTES[storage.dtype] > entry.file_size:
            raise WeightsError(
                f"{self.path}: the storage {key!r} declares {count:,} values of {storage.dtype} "
                f"but holds {entry.file_size:,} bytes.",
                FETCH,
            )
        return storage

    def _bytes(self, storage: Storage) -> torch.UntypedStorage:
        """The storage's own bytes, read once (and checked by the zip's sums)."""
        if storage.key not in self.loaded:
            entry = self.entries[f"{self.root}data/{storage.key}"]
            buffer = bytearray(entry.file_size)
            with self.zip.open(entry) as file:
                _fill(file, memoryview(buffer))
            self.loaded[storage.key] = _as_storage(buffer)
        return self.loaded[storage.key]


def _fill(file: IO[bytes], view: memoryview) -> None:
    while view:
        piece = file.read(min(len(view), 1 << 24))
        if not piece:
            raise EOFError("fewer bytes than declared")
        view[: len(piece)] = piece
        view = view[len(piece) :]


def _as_storage(buffer: bytearray) -> torch.UntypedStorage:
    if not buffer:
        return torch.UntypedStorage(0)
    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


# The stream that torch wrote before 1.6 ---------------------------------------------------------


def read_stream(path: Path, skip: Collection[str], values: Values) -> Any:
    """The content of the older stream; skip and values as in `read_zip`.

    Magic number, protocol, facts about the machine, the object, the storages' keys, their bytes.
    """
    # Mapped, because a plain file allocates whatever number of bytes it is asked to read.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        stream = _Stream(file, path)
        if stream.next() != _LEGACY_MAGIC:
            raise WeightsError(f"{path} is a pickle, but not one of torch.save.", "Save it with torch.save.")
        stream.next()
        machine = stream.next()
        if isinstance(machine, dict) and not machine.get("little_endian", True):
            raise WeightsError(f"{path} was written on a big-endian machine.", "Save it as safetensors there.")
        value = stream.next()
        stream.find_storages(stream.next())
        return _plain(value, stream.bytes_of, skip, values)


class _Stream:
    """Pickles one after the other, then the storages' bytes in the order of their list."""

    def __init__(self, file: mmap.mmap, path: Path) -> None:
        self.file, self.path = file, path
        self.declared: dict[str, tuple[str, int]] = {}
        """Key -> type and number of its values."""
        self.places: dict[str, tuple[int, int]] = {}
        """Key -> first byte and number of bytes."""
        self.loaded: dict[str, torch.UntypedStorage] = {}

    def next(self) -> Any:
        return unpickle(self.file, self._storage, str(self.path))

    def _storage(self, identity: tuple[Any, ...]) -> Storage:
        if identity[0] == "module":
            raise WeightsError(f"{self.path} holds a pickled model, code included.", "Save its state_dict() instead.")
        word, kind, key, _, count, view = identity
        if word != "storage" or not isinstance(key, str):
            raise DamagedPickle("an unknown persistent id")
        if type(count) is not int or not 0 <= count <= len(self.file):
            raise DamagedPickle("a storage larger than the file")
        self.declared[key] = storage_type(kind), count
        _, first, length = view if view is not None else (None, 0, count)
        if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
            raise DamagedPickle("a view outside its storage")
        return Storage(key, storage_type(kind), length, first)

    def find_storages(self, keys: Any) -> None:
        """Note where every storage that was declared lies. Raises WeightsError when they are not all here."""
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in self.declared or key in self.places:
                raise WeightsError(f"{self.path} is damaged: its list of storages does not fit.", FETCH)
            self.places[key] = self._next_place(*self.declared[key])
        missing = self.declared.keys() - self.places.keys()
        if missing:
            raise WeightsError(f"{self.path}: the storage {min(missing)!r} is missing.", FETCH)

    def _next_place(self, dtype: str, count: int) -> tuple[int, int]:
        head = self.file.read(8)
        if len(head) < 8 or struct.unpack("<q", head)[0] != count:
            raise WeightsError(f"{self.path} is cut short or damaged.", FETCH)
        start, size = self.file.tell(), count * ITEM_BYTES[dtype]
        left = len(self.file) - start
        if size > left:
            raise WeightsError(f"{self.path} is cut short: {size - left:,} bytes are missing.", FETCH)
        self.file.seek(size, os.SEEK_CUR)
        return start, size

    def bytes_of(self, storage: Storage) -> torch.UntypedStorage:
        """The storage's own bytes, read once."""
        if storage.key not in self.loaded:
            start, size = self.places[storage.key]
            self.loaded[storage.key] = _as_storage(bytearray(self.file[start : start + size]))
        return self.loaded[storage.key]


# From notes to tensors --------------------------------------------------------------------------


def _plain(
    value: Any, bytes_of: Callable[[Storage], torch.UntypedStorage], skip: Collection[str], values: Values
) -> Any:
    """The value with tensors in place of notes, without the outermost keys in `skip`."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in skip}
    try:
        return _Filler(bytes_of, values).fill(value)
    except RecursionError:
        raise WeightsError("the checkpoint is nested too deeply.", "Only plain containers are read.") from None


class _Filler:
    """Copies nested containers; what was shared stays shared."""

    def __init__(self, bytes_of: Callable[[Storage], torch.UntypedStorage], values: Values) -> None:
        self.bytes_of = bytes_of
        self.values = values
        self.done: dict[int, tuple[Any, Any]] = {}

    def fill(self, value: Any, place: str = "") -> Any:
        if id(value) in self.done:
            return self.done[id(value)][1]
        if isinstance(value, Stored) and math.prod(value.size) > 1 and not self.values(place):
            # not remembered: at another place its numbers may be wanted
            return torch.empty(value.size, dtype=getattr(torch, value.dtype), device="meta")
        if isinstance(value, dict | list):
            made: Any = type(value)()
            self.done[id(value)] = value, made  # before its items: a container may hold itself
            if isinstance(value, dict):
                made.update((key, self.fill(item, below(place, key))) for key, item in value.items())
            else:
                made.extend(self.fill(item, place) for item in value)
            return made
        made = self._leaf(value, place)
        self.done[id(value)] = value, made
        return made

    def _leaf(self, value: Any, place: str) -> Any:
        if isinstance(value, tuple):
            return tuple(self.fill(item, place) for item in value)
        if isinstance(value, Stored):
            dtype = getattr(torch, value.dtype)
            first = value.storage.first * ITEM_BYTES[value.storage.dtype] // ITEM_BYTES[value.dtype]
            return torch.empty(0, dtype=dtype).set_(
                self.bytes_of(value.storage), first + value.offset, value.size, value.stride
            )
        if isinstance(value, Array):
            return value.value
        if isinstance(value, Dtype):
            return value.order + value.code
        if isinstance(value, Name):
            module, _, kind = value.text.rpartition(".")
            return getattr(torch, kind) if module == "torch" and kind in ITEM_BYTES else value.text
        return value
