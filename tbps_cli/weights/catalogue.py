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
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tbps_cli.augment.transform import Triple
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
    mean: Triple | None = None
    """What is taken from the colours before its image tower, where the catalogue says it."""
    std: Triple | None = None

    @property
    def sha256(self) -> str | None:
        """The hash that the URL itself states, whole or its first digits; None when it states none."""
        found = re.search(r"/([0-9a-f]{64})/", self.url) or re.search(r"-([0-9a-f]{8,64})\.\w+$", self.url)
        return found[1] if found else None

    @property
    def file(self) -> str:
        """The file's own name, for messages and the cache."""
        return (self.url or self.hub.rstrip("/")).rpartition("/")[2]


def find(weights: str, tower: str, *, asked: str = "method.weights") -> CatalogueEntry:
    """The entry of a tag such as `openai` or `laion2b_s34b_b88k` for a tower. asked: by what, for messages.

    A tower's name may end in `-quickgelu`, as in open_clip. Raises WeightsError with the tags there are.
    """
    plain = spelled(tower.removesuffix(QUICK))
    tags = entries().get(plain, {})
    entry = tags.get(weights.lower().replace("-", "_"))
    if entry is None:
        raise WeightsError(
            f"{asked}: there are no weights {weights!r} for the tower {plain or 'that the recipe states'}.",
            f"Known: {', '.join(tags)}; or the path of a file." if tags else "Give the path of a file.",
        )
    if not entry.url and not entry.hub:
        raise WeightsError(f"{asked}: open_clip's entry {weights!r} for {plain} cannot be read.", _OTHER_VERSION)
    return replace(entry, quick_gelu=True) if tower.endswith(QUICK) else entry


def parse_name(name: str) -> tuple[str, str] | None:
    """(tower, tag) of a name such as `ViT-B-16/openai`, both as the catalogue spells them; None for anything else.

    A tower that is in the catalogue is enough: a tag that is not there is for `find` to tell.
    """
    tower, slash, tag = name.rpartition("/")
    if not slash or not tag:
        return None
    quick = QUICK if tower.lower().endswith(QUICK) else ""
    wanted = spelled(tower[: len(tower) - len(quick)])
    for known in entries():
        if known.lower() == wanted.lower():
            return known + quick, tag
    return None


def nearest(name: str) -> str | None:
    """The name in the catalogue that is spelled most like another, where one is near."""
    names = [f"{tower}/{tag}" for tower, tags in entries().items() for tag in tags]
    return next(iter(get_close_matches(name, names, n=1, cutoff=0.8)), None)


@lru_cache(maxsize=1)
def entries() -> Mapping[str, Mapping[str, CatalogueEntry]]:
    """Tower -> tag -> entry. Raises WeightsError when open_clip's catalogue cannot be found or read."""
    spec = find_spec("open_clip")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0]) / "pretrained.py" if folders else None
    if path is None or not path.is_file():
        raise WeightsError("the catalogue of weights is missing.", "Type: pip install open_clip_torch")
    try:
        neighbour = path.with_name("constants.py")
        constants = _constants(neighbour.read_text(encoding="utf-8")) if neighbour.is_file() else {}
        found = parse(path.read_text(encoding="utf-8"), constants)
    except (SyntaxError, ValueError):
        found = {}
    if not any(entry.url or entry.hub for tags in found.values() for entry in tags.values()):
        raise WeightsError(f"{path} states the catalogue of weights in a way that cannot be read.", _OTHER_VERSION)
    return found


def parse(source: str, constants: Mapping[str, Any] | None = None) -> dict[str, dict[str, CatalogueEntry]]:
    """The entries stated in the source of `pretrained.py`. constants: what it imports from its neighbour."""
    names: dict[str, Any] = dict(constants or {})
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.endswith("cfg"):
            names[node.name] = _returned(node, names)
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = _value(node.value, names)
    towers = names.get("_PRETRAINED") or {}
    return {
        tower: {tag: entry if isinstance(entry, CatalogueEntry) else CatalogueEntry() for tag, entry in tags.items()}
        for tower, tags in towers.items()
        if isinstance(tags, dict)
    }


def _constants(source: str) -> dict[str, Any]:
    """The plain assignments of a module: the means and deviations of colours have names there."""
    return {
        node.targets[0].id: _value(node.value, {})
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _returned(function: ast.FunctionDef, names: Mapping[str, Any]) -> dict[str, Any]:
    """What a function that makes entries puts into each of them unless it is told otherwise."""
    for node in function.body:
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
            return {key: value for key, value in _value(node.value, names).items() if isinstance(key, str)}
    return {}


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """A constant, a known name, a dictionary or an entry; None for any other expression."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, names) for item in node.elts)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, names): _value(value, names) for key, value in pairs if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
        if node.func.id == "dict":
            return given
        if node.func.id.endswith("cfg"):
            plain = dict(zip(("url", "hf_hub"), (_value(value, names) for value in node.args), strict=False))
            usual = names.get(node.func.id) or {}
            facts = {**usual, "url": "", "hf_hub": ""} | plain | given
            return CatalogueEntry(
                str(facts.get("url") or ""),
                str(facts.get("hf_hub") or ""),
                facts.get("quick_gelu") is True,
                _triple(facts.get("mean")),
                _triple(facts.get("std")),
            )
    return None


def _triple(value: object) -> Triple | None:
    if not isinstance(value, tuple) or len(value) != 3 or not all(isinstance(one, int | float) for one in value):
        return None
    red, green, blue = (float(one) for one in value)
    return red, green, blue
