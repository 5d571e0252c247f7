"""Every weights file that people have, read without running any of it; our own, written atomically.

Read: safetensors, what `torch.save` writes (the zip archive since 2020 and the older stream), and
TorchScript archives as OpenAI publishes them. All pickles go through `weights.pickles`, which can
only make data; `torch.load` and `torch.jit.load` are not used at all. Sizes are checked against the
file before anything is allocated, storages shared by several tensors stay shared, and everything
arrives on the CPU whatever device the file names.
Written: safetensors, and `state.pt` for resuming, each under a temporary name that replaces the old
file only when it is complete on disk.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import uuid
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from tbps_cli.errors import WeightsError
from tbps_cli.weights.pickles import ITEM_BYTES, Array, Damaged, Name, Readable, Storage, Stored, storage_type, unpickle

Kind = Literal["safetensors", "torch", "legacy", "torchscript"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_FETCH = "Fetch or copy it again."
_YAML_LIMIT = 4 << 20
_DISK_WORDS = "os error", "inline_container", "iostream"
"""How the writers of safetensors and torch speak of a file that cannot be written."""


@dataclass(frozen=True)
class Foreign:
    """What a weights file held: plain Python values and tensors, as nested as in the file."""

    content: Any
    kind: Kind


def read_tensors(path: Path, *, skip: Collection[str] = ()) -> Foreign:
    """Read any weights file safely; tensors on the CPU, of the types they have in the file.

    skip: keys of the outermost dictionary that are not read (an optimizer's state is twice the model).
    Raises WeightsError when the file is missing, damaged, asks for code, or is no weights file.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path, skip)
    if head.startswith(b"\x80"):
        return Foreign(_plain(_read_stream(path), skip), "legacy")
    if len(head) > 8 and head[8:9] == b"{":
        return Foreign(dict(read_safetensors(path)), "safetensors")
    raise _no_weights(path, head)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: there is no such file.", "Give the path of a checkpoint or a run folder."
        ) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from None


def _no_weights(path: Path, head: bytes) -> WeightsError:
    start = head.lstrip().lower()
    if not head:
        return WeightsError(f"{path} is empty (0 bytes).", _FETCH)
    if start.startswith(b"version https://git-lfs"):
        return WeightsError(f"{path} is a Git LFS pointer, not the file itself.", "Run: git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return WeightsError(f"{path} is a web page, not a checkpoint.", "The download was answered by a page: open it.")
    return WeightsError(
        f"{path} is no weights file.", "Known are safetensors, files of torch.save (.pth, .pt, .bin) and TorchScript."
    )


# torch archives ---------------------------------------------------------------------------------


def _read_zip(path: Path, skip: Collection[str]) -> Foreign:
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, path).read(skip)
    except (zipfile.BadZipFile, EOFError, struct.error, RuntimeError, ValueError, OSError, OverflowError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", _FETCH) from None


class _Archive:
    """A torch or TorchScript archive: `ROOT/data.pkl` and one record a storage under `ROOT/data/`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.zip, self.path = archive, path
        self.entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(f"{path} is a zip file but no checkpoint: it has no data.pkl.", "Unpack it first.")
        self.root = pickles[0].removesuffix("data.pkl")
        self.loaded: dict[str, torch.UntypedStorage] = {}
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Torch compresses only code, so the records together cannot be larger than the file."""
        size = self.path.stat().st_size
        read = [entry for name, entry in self.entries.items() if not name.startswith(self.root + "code/")]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in read):
            raise WeightsError(f"{self.path} is a compressed zip file, no checkpoint.", "Unpack it first.")
        declared = sum(entry.file_size for entry in read)
        if declared > size:
            raise WeightsError(f"{self.path} declares {declared:,} bytes but has {size:,}.", _FETCH)

    def read(self, skip: Collection[str]) -> Foreign:
        order = self.entries.get(self.root + "byteorder")
        if order is not None and self.zip.read(order).strip() == b"big":
            raise WeightsError(f"{self.path} was written on a big-endian machine.", "Save it as safetensors there.")
        with self.zip.open(self.root + "data.pkl") as file:
            value = unpickle(io.BytesIO(file.read()), self._storage, str(self.path))
        script = self.root + "constants.pkl" in self.entries
        return Foreign(_plain((value, self._bytes), skip), "torchscript" if script else "torch")

    def _storage(self, identity: tuple[Any, ...]) -> Storage:
        word, kind, key, _, count = identity
        if word != "storage" or not isinstance(key, str) or type(count) is not int:
            raise Damaged("an unknown persistent id")
        storage = Storage(key, storage_type(kind), count)
        entry = self.entries.get(f"{self.root}data/{key}")
        if entry is None:
            raise WeightsError(f"{self.path}: the storage {key!r} is missing.", _FETCH)
        if count < 0 or count * ITEM_BYTES[storage.dtype] > entry.file_size:
            raise WeightsError(
                f"{self.path}: the storage {key!r} declares {count:,} values of {storage.dtype} "
                f"but holds {entry.file_size:,} bytes.",
                _FETCH,
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


def _fill(file: Readable, view: memoryview) -> None:
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


def _read_stream(path: Path) -> tuple[Any, Callable[[Storage], torch.UntypedStorage]]:
    """Magic number, protocol, facts about the machine, the object, the storages' keys, their bytes."""
    declared: dict[str, tuple[str, int]] = {}

    def storage_of(identity: tuple[Any, ...]) -> Storage:
        if identity[0] != "storage":
            raise WeightsError(
                f"{path} holds a whole pickled model, code included.", "Save its state_dict() instead."
            ) from None
        _, kind, key, _, count, view = identity
        if type(count) is not int or not 0 <= count <= size:
            raise Damaged("a storage larger than the file")
        declared[str(key)] = (storage_type(kind), count)
        _, first, length = view if view is not None else (None, 0, count)
        if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
            raise Damaged("a view outside its storage")
        return Storage(str(key), storage_type(kind), length, first)

    size = path.stat().st_size
    # Mapped, because a plain file allocates whatever number of bytes it is asked to read.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if unpickle(file, storage_of, str(path)) != _LEGACY_MAGIC:
            raise WeightsError(f"{path} is a pickle, but not one of torch.save.", "Save it with torch.save.")
        _, machine = (unpickle(file, storage_of, str(path)) for _ in range(2))
        if isinstance(machine, dict) and not machine.get("little_endian", True):
            raise WeightsError(f"{path} was written on a big-endian machine.", "Save it as safetensors there.")
        value = unpickle(file, storage_of, str(path))
        keys = unpickle(file, storage_of, str(path))
        loaded = {str(key): _stream_storage(file, path, declared.get(str(key))) for key in keys}
    missing = declared.keys() - loaded.keys()
    if missing:
        raise WeightsError(f"{path}: the storage {min(missing)!r} is missing.", _FETCH)
    return value, lambda storage: loaded[storage.key]


def _stream_storage(file: Readable, path: Path, declared: tuple[str, int] | None) -> torch.UntypedStorage:
    if declared is None:
        raise WeightsError(f"{path} is damaged: it lists a storage that nothing uses.", _FETCH)
    dtype, count = declared
    head = file.read(8)
    if len(head) < 8 or struct.unpack("<q", head)[0] != count:
        raise WeightsError(f"{path} is cut short or damaged.", _FETCH)
    left = path.stat().st_size - file.tell()
    if count * ITEM_BYTES[dtype] > left:
        raise WeightsError(f"{path} is cut short: {count * ITEM_BYTES[dtype] - left:,} bytes are missing.", _FETCH)
    buffer = bytearray(count * ITEM_BYTES[dtype])
    _fill(file, memoryview(buffer))
    return _as_storage(buffer)


# From notes to tensors --------------------------------------------------------------------------


def _plain(read: tuple[Any, Callable[[Storage], torch.UntypedStorage]], skip: Collection[str]) -> Any:
    """The value with tensors in place of notes, without the outermost keys in `skip`."""
    value, bytes_of = read
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in skip}
    try:
        return _Filler(bytes_of).fill(value)
    except RecursionError:
        raise WeightsError("the checkpoint is nested too deeply.", "Only plain containers are read.") from None


class _Filler:
    """Copies nested containers; what was shared stays shared."""

    def __init__(self, bytes_of: Callable[[Storage], torch.UntypedStorage]) -> None:
        self.bytes_of = bytes_of
        self.done: dict[int, tuple[Any, Any]] = {}

    def fill(self, value: Any) -> Any:
        if id(value) in self.done:
            return self.done[id(value)][1]
        if isinstance(value, dict | list):
            made: Any = type(value)()
            self.done[id(value)] = value, made  # before its items: a container may hold itself
            if isinstance(value, dict):
                made.update((key, self.fill(item)) for key, item in value.items())
            else:
                made.extend(self.fill(item) for item in value)
            return made
        made = self._leaf(value)
        self.done[id(value)] = value, made
        return made

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self.fill(item) for item in value)
        if isinstance(value, Stored):
            dtype = getattr(torch, value.dtype)
            first = value.storage.first * ITEM_BYTES[value.storage.dtype] // ITEM_BYTES[value.dtype]
            return torch.empty(0, dtype=dtype).set_(
                self.bytes_of(value.storage), first + value.offset, value.size, value.stride
            )
        if isinstance(value, Array):
            return value.value
        if isinstance(value, Name):
            return getattr(torch, value.text.removeprefix("torch.")) if value.text[6:] in ITEM_BYTES else value.text
        return value


# Our own files ----------------------------------------------------------------------------------


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _head(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", _FETCH) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries in the head of a safetensors file; empty when it has none."""
    from safetensors import SafetensorError, safe_open

    _head(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", _FETCH) from None


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors (any device and layout) atomically, with text entries in the file's head."""
    from safetensors.torch import save_file

    plain = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_atomically(path, lambda target: save_file(plain, target, dict(metadata or {})))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The format has no shared storages: every tensor that shares one is copied."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        start = tensor.untyped_storage().data_ptr()
        if start in seen or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensors[name] = tensor.clone()
        seen.add(start)
    return tensors


def write_state(path: Path, state: object) -> None:
    """Write what `--resume` needs (nested plain values and tensors) atomically."""
    write_atomically(path, lambda target: torch.save(state, target))


def read_state(path: Path) -> Any:
    """What `write_state` wrote, through the same unpickler as foreign files."""
    return read_tensors(path).content


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then put it in the place of `path`.

    The new bytes are on disk before the name changes, so at every moment the old file or the new one
    is whole. Raises WeightsError, with the previous file untouched, when the disk is full or closed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except Exception as error:
        if isinstance(error, OSError) or any(word in str(error) for word in _DISK_WORDS):
            raise WeightsError(
                f"{path} cannot be written: {error}. The previous file, if any, is untouched.",
                "Free some space or choose another folder.",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Options beside a checkpoint --------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML's safe types, and Python's tuple as the papers' option files write it."""


def _tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of options. Raises WeightsError naming the tag when it asks for code."""
    _head(path)
    if path.stat().st_size > _YAML_LIMIT:
        raise WeightsError(f"{path} is too large for an option file.")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.constructor.ConstructorError as error:
        raise WeightsError(f"{path} asks for {_tag(error)}, which is code and not data.", "Remove that line.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path} is no YAML: {' '.join(str(error).split())}.", "Correct or remove it.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no options (a {type(value).__name__}, not a mapping).")
    return value


def _tag(error: yaml.constructor.ConstructorError) -> str:
    words = str(error.problem or "").split("'")
    return words[1] if len(words) > 1 else "an unknown type"
