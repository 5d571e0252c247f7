"""Sixteen hex digits that say whether two things are the same: weights, settings, tables.

Feature files and indexes carry the fingerprint of what made them, so vectors of two models are never
mixed. This module imports no torch: a search over exported graphs computes fingerprints too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Digest = hashlib._Hash


def fingerprint(*parts: object, read: Callable[[int], None] | None = None) -> str:
    """16 hex digits over the parts, in order.

    parts: tensors and arrays (by type, shape and bytes, wherever they lie), mappings (order of keys does
    not matter), lists and other sequences (the same thing), numbers, texts, bytes, None, and objects that have
    `describe()` or pydantic's `model_dump()`. read: called with the bytes of each tensor of a mapping, when it is done.
    Raises TypeError for anything else.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Mapping):
            _feed_mapping(digest, part, read)
        else:
            _feed(digest, part)
    return digest.hexdigest()[:16]


def _feed(digest: Digest, value: Any) -> None:
    if _is_array(value):
        digest.update(_array_hash(value))
    elif isinstance(value, Mapping):
        _feed_mapping(digest, value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        _mark(digest, "list", str(len(value)))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, bytes):
        _mark(digest, "bytes", str(len(value)))
        digest.update(value)
    else:
        _feed_other(digest, value)


def _feed_mapping(digest: Digest, value: Mapping[Any, Any], read: Callable[[int], None] | None = None) -> None:
    """Sorted by key; tensors and arrays are hashed in threads (hashing lets other threads run)."""
    _mark(digest, "mapping", str(len(value)))
    keys = sorted(value, key=str)
    arrays = [key for key in keys if _is_array(value[key])]

    def hash_of(key: Any) -> bytes:
        made = _array_hash(value[key])
        if read is not None:
            read(value[key].nbytes)
        return made

    with ThreadPoolExecutor() as pool:
        hashed = dict(zip(arrays, pool.map(hash_of, arrays), strict=True))
    for key in keys:
        _feed(digest, str(key))
        if key in hashed:
            digest.update(hashed[key])
        else:
            _feed(digest, value[key])


def _feed_other(digest: Digest, value: Any) -> None:
    if isinstance(value, np.generic):
        _feed(digest, value.item())
    elif value is None or isinstance(value, str | bool | int | float):
        text = repr(value) if isinstance(value, float) else str(value)
        _mark(digest, type(value).__name__, text)
    elif hasattr(value, "describe"):
        _feed(digest, value.describe())
    elif hasattr(value, "model_dump"):
        _feed(digest, value.model_dump(mode="json"))
    else:
        raise TypeError(f"no fingerprint of a {type(value).__name__}")


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _array_hash(value: Any) -> bytes:
    """The hash of one tensor or array, by type, shape and bytes.

    By bytes, so that bfloat16 (which numpy does not have) needs no conversion.
    """
    digest = hashlib.sha256()
    if isinstance(value, np.ndarray):
        _mark(digest, "array", f"{value.dtype.name}{list(value.shape)}")
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return digest.digest()
    plain = value.detach().cpu().contiguous()
    _mark(digest, "array", f"{str(plain.dtype).removeprefix('torch.')}{list(plain.shape)}")
    digest.update(plain.reshape(-1).view(dtype=_byte_type(plain)).numpy().data)
    return digest.digest()


def _byte_type(tensor: Any) -> Any:
    import torch

    assert isinstance(tensor, torch.Tensor)
    return torch.uint8


def _mark(digest: Digest, kind: str, text: str) -> None:
    # Lengths in front, so that no two different sequences of parts give the same bytes.
    encoded = text.encode("utf-8", "surrogatepass")
    digest.update(f"{kind}:{len(encoded)}:".encode())
    digest.update(encoded)
