"""The catalogue of pre-trained CLIP weights, read from open_clip's source without importing it.

The library's `pretrained.py` states each entry as a call with constant arguments; importing it would
import torchvision and the whole model zoo. So its syntax tree is read: dictionaries, names and
constants are understood, nothing is executed. What is stated in any other way is an entry without an
address, and asking for it is an error that says so; so is a catalogue without a single entry.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tbps_cli.errors import WeightsError
from tbps_cli.nn.sizes import spelled

QUICK = "-quickgelu"
_OTHER_VERSION = "Type: pip install 'open_clip_torch>=3.0,<4'; or give the path of a file."


@dataclass(frozen=True)
class CatalogueEntry:
    """One set of weights: where it lies and which activation it was trained with."""

    url: str = ""
    hub: str = ""
    """`organisation/model/` or `organisation/model/file` on the hub."""
    quick_gelu: bool = False

    @property
    def sha256(self) -> str | None:
        """The hash that the URL itself states, whole or its first digits; None when it states none."""
        found = re.search(r"/([0-9a-f]{64})/", self.url) or re.search(r"-([0-9a-f]{8,64})\.\w+$", self.url)
        return found[1] if found else None

    @property
    def file(self) -> str:
        """The file's own name, for messages and the cache."""
        return (self.url or self.hub.rstrip("/")).rpartition("/")[2]


def find(weights: str, tower: str) -> CatalogueEntry:
    """The entry of a tag such as `openai` or `laion2b_s34b_b88k` for a tower.

    A tower's name may end in `-quickgelu`, as in open_clip. Raises WeightsError with the tags there are.
    """
    plain = spelled(tower.removesuffix(QUICK))
    tags = entries().get(plain, {})
    entry = tags.get(weights.lower().replace("-", "_"))
    if entry is None:
        raise WeightsError(
            f"method.weights: there are no weights {weights!r} for the tower {plain}.",
            f"Known: {', '.join(tags)}; or the path of a file." if tags else "Give the path of a file.",
        )
    if not entry.url and not entry.hub:
        raise WeightsError(f"method.weights: open_clip's entry {weights!r} for {plain} cannot be read.", _OTHER_VERSION)
    return CatalogueEntry(entry.url, entry.hub, True) if tower.endswith(QUICK) else entry


@lru_cache(maxsize=1)
def entries() -> Mapping[str, Mapping[str, CatalogueEntry]]:
    """Tower -> tag -> entry. Raises WeightsError when open_clip's catalogue cannot be found or read."""
    spec = find_spec("open_clip")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0]) / "pretrained.py" if folders else None
    if path is None or not path.is_file():
        raise WeightsError("the catalogue of weights is missing.", "Type: pip install open_clip_torch")
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        found = {}
    if not any(entry.url or entry.hub for tags in found.values() for entry in tags.values()):
        raise WeightsError(f"{path} states the catalogue of weights in a way that cannot be read.", _OTHER_VERSION)
    return found


def parse(source: str) -> dict[str, dict[str, CatalogueEntry]]:
    """The entries stated in the source of `pretrained.py`."""
    names: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = _value(node.value, names)
    towers = names.get("_PRETRAINED") or {}
    return {
        tower: {tag: entry if isinstance(entry, CatalogueEntry) else CatalogueEntry() for tag, entry in tags.items()}
        for tower, tags in towers.items()
        if isinstance(tags, dict)
    }


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """A constant, a known name, a dictionary or an entry; None for any other expression."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, names): _value(value, names) for key, value in pairs if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
        if node.func.id == "dict":
            return given
        if node.func.id.endswith("cfg"):
            plain = dict(zip(("url", "hf_hub"), (_value(value, names) for value in node.args), strict=False))
            facts = plain | given
            return CatalogueEntry(
                str(facts.get("url") or ""), str(facts.get("hf_hub") or ""), facts.get("quick_gelu") is True
            )
    return None
