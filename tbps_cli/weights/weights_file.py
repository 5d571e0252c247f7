"""Every weights file that people have, read without running any of it; our own, written atomically.

Read: safetensors, what `torch.save` writes (the zip archive since 2020 and the older stream), and
TorchScript archives as OpenAI publishes them. All pickles go through `weights.pickles`, which can
only make data; `torch.load` and `torch.jit.load` are not used at all.
Written: safetensors, and `state.pt` for resuming, each under a temporary name that replaces the old
file only when it is complete on disk.
"""

from __future__ import annotations

import errno
import re
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from tbps_cli import files
from tbps_cli.errors import WeightsError
from tbps_cli.weights.archives import LONGEST_PLACE, below, read_stream, read_zip
from tbps_cli.weights.headers import CHECKSUM, FETCH, checksum, utf8_path
from tbps_cli.weights.headers import read_metadata as read_metadata

Kind = Literal["safetensors", "torch", "legacy", "torchscript"]

SKIPPED = "optimizer", "scheduler", "lr_scheduler", "scaler"
"""Keys beside a model's state that only its own training reads."""

_YAML_LIMIT = 4 << 20
_DISK_WORDS = "os error", "inline_container", "iostream"
"""How the writers of safetensors and torch speak of a file that cannot be written."""

_NOTHING = 1 << 16
"""Bytes free on a disk that is as good as full."""


@dataclass(frozen=True)
class Foreign:
    """What a weights file held: plain Python values and tensors, as nested as in the file."""

    content: Any
    kind: Kind


def read_tensors(
    path: Path, *, skip: Collection[str] = (), values: bool = True, unread: Collection[str] = ()
) -> Foreign:
    """Read any weights file safely; tensors on the CPU, of the types they have in the file.

    skip: keys of the outermost dictionary that are not read (an optimizer's state is twice the model).
    values: False reads names, shapes and single numbers alone (other tensors are on the meta device), so that
    it is quick whatever the size of the file. unread: places, as of `places_of`, of which the same holds.
    Raises WeightsError when the file is missing, damaged, asks for code, or is not a weights file.
    """

    def wanted(place: str) -> bool:
        return values and place not in unread

    path = Path(path)
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        content, script = read_zip(path, skip, wanted)
        return Foreign(content, "torchscript" if script else "torch")
    # before pickles: the length of the head comes first, and one in 32 of these begins with a pickle's first byte
    if head[8:9] == b"{":
        return Foreign(dict(read_safetensors(path)), "safetensors")  # mapped: read when it is used
    if head.startswith(b"\x80"):
        return Foreign(read_stream(path, skip, wanted), "legacy")
    raise _no_weights(path, head)


def state_of(foreign: Foreign) -> dict[str, Tensor]:
    """The state dict inside a file, whatever is wrapped around it, under flat names.

    A common prefix (`module.`, `_orig_mod.`) is removed, and so is the `text.` of open_clip's
    custom text towers; TorchScript's nested modules become dotted names.
    """
    content = foreign.content
    if isinstance(content, dict):
        inner = (content.get(key) for key in ("state_dict", "model_state_dict", "model"))
        content = next((value for value in inner if isinstance(value, dict)), content)
    tensors = dict(_flat(content))
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if any(name.startswith("text.") for name in tensors) and "visual.conv1.weight" in tensors:
        tensors = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    return tensors


def places_of(foreign: Foreign) -> dict[str, str]:
    """Where each tensor of `state_of` stands in the file: the keys that lead to it, joined by dots."""
    places = {id(tensor): place for place, tensor in _flat(foreign.content)}
    return {name: places[id(tensor)] for name, tensor in state_of(foreign).items()}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if len(name) > LONGEST_PLACE:
            raise WeightsError(f"the name of a tensor is longer than {LONGEST_PLACE:,} characters ({name[:40]}...).")
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, below(name, key))


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
        return WeightsError(f"{path} is empty (0 bytes).", FETCH)
    if start.startswith(b"version https://git-lfs"):
        return WeightsError(f"{path} is a Git LFS pointer, not the file itself.", "Run: git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return WeightsError(f"{path} is a web page, not a checkpoint.", "The download was answered by a page: open it.")
    if tarfile.is_tarfile(path):
        return WeightsError(
            f"{path} is not a weights file but an archive.", "Unpack it (tar -xf), and give the folder of one model."
        )
    return WeightsError(
        f"{path} is not a weights file.",
        "Known are safetensors, files of torch.save (.pth, .pt, .bin) and TorchScript.",
    )


# Our own files ----------------------------------------------------------------------------------


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _head(path)
    read_metadata(path)  # whether the head is whole
    try:
        with utf8_path(path) as place:
            return load_file(place)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", FETCH) from None


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors (any device and layout) atomically, with text entries in the file's head."""
    from safetensors.torch import save_file

    plain = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    facts = dict(metadata or {})
    facts[CHECKSUM] = checksum({name: tensor.shape for name, tensor in plain.items()}, facts)
    write_atomically(path, lambda target: save_file(plain, target, facts))


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let one of the libraries' writers fill a temporary neighbour of `path`, which then takes its place.

    Raises WeightsError, with the previous file untouched, when that is impossible.
    """
    with files.replacing(path, WeightsError) as temporary:
        try:
            write(temporary)
        except Exception as error:
            if isinstance(error, OSError) or not any(word in str(error) for word in _DISK_WORDS):
                raise
            raise _of_the_disk(error, path.parent) from error


def _of_the_disk(error: Exception, folder: Path) -> OSError:
    """What the writers of safetensors and torch say of the disk, as the error that Python has for it."""
    said = str(error).splitlines()[0]
    number = re.search(r"os error (\d+)", said)
    if number:
        return OSError(int(number[1]), said)
    # torch speaks of positions in the file whatever happened; only a full disk can be told from the rest.
    full = folder.is_dir() and shutil.disk_usage(folder).free <= _NOTHING
    return OSError(errno.ENOSPC if full else errno.EIO, said)


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
        raise WeightsError(f"{path} is not YAML: {' '.join(str(error).split())}.", "Correct or remove it.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no options (a {type(value).__name__}, not a mapping).")
    return value


def _tag(error: yaml.constructor.ConstructorError) -> str:
    words = str(error.problem or "").split("'")
    return words[1] if len(words) > 1 else "an unknown type"
