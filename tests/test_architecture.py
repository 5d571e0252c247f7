"""The flows of docs/architecture.md against the imports that the modules really have."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FLOWS = re.findall(r"<!-- flow: (\w+) -->\n(.*?)(?=\n<!-- flow|\n## )", PAGE, re.DOTALL)
LONGEST = 12


def stations(text: str) -> list[str]:
    """The module at the head of each numbered line."""
    return re.findall(r"^\d+\. `([\w/]+)\.py`", text, re.MULTILINE)


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, those inside functions and for type checkers too."""
    tree = ast.parse((ROOT / "tbps_cli" / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tbps_cli"):
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return frozenset(name.removeprefix("tbps_cli.").replace(".", "/") for name in found)


def reached(start: str, allowed: set[str]) -> set[str]:
    """What `start` imports; packages' own `__init__` files pass on what they import."""
    found = set(imports(start))
    for package in [name for name in found if (ROOT / "tbps_cli" / name / "__init__.py").is_file()]:
        found |= imports(f"{package}/__init__")
    return found & allowed


def test_the_page_has_the_five_flows() -> None:
    assert [name for name, _ in FLOWS] == ["train", "eval", "search", "index", "watch"]


@pytest.mark.parametrize(("name", "text"), FLOWS, ids=[name for name, _ in FLOWS])
def test_every_station_of_a_flow_is_imported_by_one_before_it(name: str, text: str) -> None:
    modules = stations(text)
    assert 5 <= len(modules) <= LONGEST, f"{name} has {len(modules)} stations"
    lost = [
        module
        for place, module in enumerate(modules[1:], 1)
        if not any(module in reached(before, set(modules)) for before in modules[:place])
    ]
    assert lost == [], f"{name}: no station before these imports them"


def test_the_check_notices_a_station_that_nobody_imports() -> None:
    assert "retrieval/rerank" not in reached("cli/train", {"retrieval/rerank"})
