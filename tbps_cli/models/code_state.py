"""The state of the code that makes a model of its files: what was found out with other code is found out again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
WEIGHTS = "methods", "models", "nn", "weights"
"""What embeddings are made by."""
EVERYTHING = *WEIGHTS, "augment", "data", "features", "recipe", "text"
"""What a model says of itself depends on these too: how images and captions are prepared, defaults of recipes."""


@lru_cache(maxsize=2)
def code_state(parts: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every module in these folders of the package."""
    paths = sorted(path for part in parts for path in (PACKAGE / part).glob("*.py"))
    states = [(path, path.stat()) for path in paths]
    return [(f"{path.parent.name}/{path.name}", state.st_size, state.st_mtime_ns) for path, state in states]
