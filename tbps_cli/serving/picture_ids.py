"""Ids of images: what clients name them by, so that no file is ever opened for what stands in a request.

An id is the number of the gallery and a hash of the row's path. It stays the same when the gallery grows or is indexed
again, and leads nowhere once the row is gone. The rows of a gallery in a database are not here to be hashed: such an id
holds the name of the row instead, which the database is asked for.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.rows import Rows, encoded

LONGEST = 5600
"""Characters of an id: paths have 4,096 bytes at most."""
PATTERN = r"^[0-9A-Za-z._~-]+$"
_ID = re.compile(r"([0-9]{1,4})\.([0-9a-f]{16}|~[0-9A-Za-z_-]+)")


def hash_of(path: bytes) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(path, digest_size=8).digest(), "big")


def id_of(number: int, path: str) -> str:
    """The id of a row of the gallery with this number."""
    return f"{number}.{hash_of(encoded(path)):016x}"


def far_id_of(number: int, path: str) -> str:
    """The id of a row of a gallery in a database."""
    return f"{number}.~{urlsafe_b64encode(encoded(path)).decode().rstrip('=')}"


def split_id(id: str) -> tuple[int, int | str] | None:
    """(number of the gallery, hash of the path or, of a row in a database, the path); None for what is no id."""
    found = _ID.fullmatch(id)
    if not found:
        return None
    if not found[2].startswith("~"):
        return int(found[1]), int(found[2], 16)
    text = found[2][1:]
    try:
        path = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogateescape")
    except ValueError:
        return None
    return (int(found[1]), path) if "\0" not in path else None


class PathHashes:
    """Finds rows by the hashes of their paths: two sorted arrays, 16 bytes a row."""

    def __init__(self, rows: Rows) -> None:
        listed = rows.columns["path"].tolist()
        hash_G = np.fromiter(map(hash_of, listed), np.uint64, len(listed))
        self.place_G: NDArray[np.int64] = np.argsort(hash_G, kind="stable")
        self.hash_G: NDArray[np.uint64] = hash_G[self.place_G]

    def place(self, hash: int) -> int | None:
        """Where the row stands; None where there is none."""
        at = int(np.searchsorted(self.hash_G, np.uint64(hash)))
        return int(self.place_G[at]) if at < len(self.hash_G) and int(self.hash_G[at]) == hash else None
