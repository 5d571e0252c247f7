"""The head of a safetensors file, read without torch: what a file says of itself, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tbps_cli.errors import WeightsError

FETCH = "Fetch or copy it again."
CHECKSUM = "head_checksum"
"""The entry under which our own files keep `checksum`; the format itself has none."""


def checksum(shapes: Mapping[str, Sequence[int]], facts: Mapping[str, str]) -> str:
    """Of the names and shapes of all tensors, and of what the head says: a wrong bit there is another name."""
    said = [sorted((name, list(shape)) for name, shape in shapes.items()), sorted(facts.items())]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The file under a name that safetensors can open, which takes no bytes that are not UTF-8. Raises OSError."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        with path.open("rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries in the head of a safetensors file; empty when it has none.

    Raises WeightsError when the file is missing, cut short or damaged (the numbers themselves are not read).
    """
    try:
        with utf8_path(path) as place, safe_open(place, framework="numpy") as file:
            facts = dict(file.metadata() or {})
            said = facts.pop(CHECKSUM, None)
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()} if said else {}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: there is no such file.", "Give the path of a checkpoint or a run folder."
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", FETCH) from None
    if said and said != checksum(shapes, facts):
        raise WeightsError(f"{path} is damaged (its head does not fit its checksum).", FETCH)
    return facts
