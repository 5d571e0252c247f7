"""Rows of a gallery as entries of Milvus, and back.

What is kept of a row comes back from one field (`row`, JSON); the fields beside it exist for filters (`milvus_filter`).
The primary key is the path, as hex digits of its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.milvus_filter import TEXTS, kept_fields
from tbps_cli.errors import DatabaseError
from tbps_cli.features.rows import Row, Rows, encoded

LONGEST = 65_535
"""Characters of a text field."""


def key_of(path: str) -> str:
    """The primary key of a path."""
    return encoded(path).hex()


def text_of(digits: str) -> str:
    """A text, from its hex digits."""
    return bytes.fromhex(digits).decode("utf-8", "surrogateescape")


def among(keys: Sequence[str]) -> str:
    """The expression for the rows of these keys."""
    digits = ", ".join(f'"{key}"' for key in keys)
    return f"path in [{digits}]"


def entries_of(rows: Rows, vector_NE: NDArray[np.float32], title: str) -> list[dict[str, Any]]:
    """What is sent of each row. Raises DatabaseError for a text that is too long."""
    entries = []
    for row, kept, vector_E in zip(rows, kept_fields(rows), vector_NE, strict=True):
        stored = json.dumps(asdict(row))
        if max(len(stored), *(len(kept[field]) for field in TEXTS)) > LONGEST:
            raise DatabaseError(f"{title}: {row.path[:60]}…: a text is too long for Milvus.", "Shorten its path.")
        draw = int.from_bytes(hashlib.blake2b(encoded(row.path), digest_size=6).digest(), "big") / 2**48
        entries.append({**kept, "row": stored, "draw": draw, "vector": vector_E})
    return entries


def rows_of(entries: Sequence[Mapping[str, Any]]) -> Rows:
    """The rows of entries, as they were kept."""
    made = []
    for entry in entries:
        facts = json.loads(entry["row"])
        made.append(Row(**{**facts, "box": None if facts["box"] is None else tuple(facts["box"])}))
    return Rows.of(made)
