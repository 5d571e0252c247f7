"""Figures that the text tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


def figures(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tbps_clip_text() -> Any:
    return figures("tbps_clip/text.json")


@pytest.fixture(scope="session")
def textreid_words() -> Any:
    return figures("textreid/tokens.json")


@pytest.fixture(scope="session")
def irra_tokenizer() -> Any:
    return figures("irra/tokenizer.json")


@pytest.fixture(scope="session")
def irra_masking() -> Any:
    return figures("irra/mlm_masking.json")
