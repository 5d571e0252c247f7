"""Sixteen hex digits that say whether two things are the same: weights, settings, tables.

Feature files and indexes carry the fingerprint of what made them, so vectors of two models are never
mixed. This module imports no torch: a search over exported graphs computes fingerprints too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def fingerprint(*parts: object) -> str:
    """16 hex digits over the parts, in order.

    parts: tensors and arrays (by type, shape and bytes, wherever they lie), mappings (order of keys does
    not matter), lists and tuples (the same thing), numbers, texts, bytes, None, and objects that have
    `describe()` or pydantic's `model_dump()`. Raises TypeError for anything else.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, value: Any) -> None:
    if hasattr(value, "detach"):
        _feed_tensor(digest, value)
    elif isinstance(value, np.ndarray):
        _mark(digest, "array", f"{value.dtype.name}{list(value.shape)}")
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    elif isinstance(value, Mapping):
        _mark(digest, "mapping", str(len(value)))
        for key in sorted(value, key=str):
            _feed(digest, str(key))
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        _mark(digest, "list", str(len(value)))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, bytes):
        _mark(digest, "bytes", str(len(value)))
        digest.update(value)
    else:
        _feed_other(digest, value)


def _feed_other(digest: hashlib.blake2b, value: Any) -> None:
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


def _feed_tensor(digest: hashlib.blake2b, tensor: Any) -> None:
    """By bytes, so that bfloat16 (which numpy does not have) needs no conversion."""
    plain = tensor.detach().cpu().contiguous()
    _mark(digest, "array", f"{str(plain.dtype).removeprefix('torch.')}{list(plain.shape)}")
    digest.update(plain.reshape(-1).view(dtype=_byte_type(plain)).numpy().data)


def _byte_type(tensor: Any) -> Any:
    import torch

    assert isinstance(tensor, torch.Tensor)
    return torch.uint8


def _mark(digest: hashlib.blake2b, kind: str, text: str) -> None:
    # Lengths in front, so that no two different sequences of parts give the same bytes.
    encoded = text.encode("utf-8", "surrogatepass")
    digest.update(f"{kind}:{len(encoded)}:".encode())
    digest.update(encoded)
