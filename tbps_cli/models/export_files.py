"""Whether the files of an exported folder are those that were written: its description has their sizes and SHA-256.

A graph beside weights of another export opens without a word and gives other embeddings under the same fingerprint.
Hashing takes longer than opening, so it is done once a file, before its first use, and remembered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tbps_cli.errors import WeightsError
from tbps_cli.models.manifest import MANIFEST, read_manifest
from tbps_cli.remembered import recall, remember, state_of_file

FILES, CHECKSUM = "files", "checksum"
"""Keys of the description: file name -> bytes and sha256; and the SHA-256 of the description without this key."""
AGAIN = "Copy the folder again, or export again."


def described(folder: Path, names: Iterable[str]) -> dict[str, dict[str, object]]:
    """Size and SHA-256 of those of these files that there are."""
    paths = [folder / name for name in names]
    return {path.name: {"bytes": path.stat().st_size, "sha256": _hash(path)} for path in paths if path.is_file()}


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A description with its checksum."""
    return {**facts, CHECKSUM: _checksum(facts)}


def check_description(facts: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError for a description that was changed after it was written; older ones have no checksum."""
    if CHECKSUM in facts and facts[CHECKSUM] != _checksum(facts):
        raise WeightsError(f"{path} was changed after the export: its checksum does not fit.", AGAIN)


def check_graph(facts: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError where a graph or its weights are not those that were written; older exports say nothing."""
    if facts.get(FILES) is not None and not check_file(facts, path):
        raise WeightsError(f"{path} is not a file of this export.", AGAIN)
    check_file(facts, path.with_name(f"{path.name}.data"))


def check_file(facts: Mapping[str, Any], path: Path) -> bool:
    """Raise WeightsError where a file is not the one that was written; whether the description says which that was."""
    try:
        known = (facts.get(FILES) or {}).get(path.name)
        size, digest = (0, "") if known is None else (int(known["bytes"]), str(known["sha256"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.parent}: its description of {path.name} is damaged.", AGAIN) from error
    if known is not None and path.is_file():  # one that is missing is told by who opens it
        _check(path, size, digest)
    return known is not None


def check_as_run(folder: Path, names: Iterable[str]) -> None:
    """The same of an export without graphs, which is opened as a run: its description, then these of its files."""
    facts = read_manifest(folder)
    check_description(facts, folder / MANIFEST)
    for name in names:
        check_file(facts, folder / name)


def _check(path: Path, size: int, digest: str) -> None:
    found = path.stat().st_size
    if found != size:
        raise WeightsError(f"{path} is not what was exported: {found:,} bytes instead of {size:,}.", AGAIN)
    state = state_of_file(path)
    key = [state, digest]
    if state is not None and recall("exports", key) is not None:
        return
    if _hash(path) != digest:
        raise WeightsError(f"{path} is not what was exported: its SHA-256 is another one.", AGAIN)
    if state is not None:
        remember("exports", key, {"whole": True})


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(facts: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in facts.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
