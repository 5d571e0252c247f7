"""No kill of processes that add to a large file, drop rows and merge it loses a row, doubles one or brings one back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.growth_kills import WAYS, kill_writers

KILLS = int(os.environ.get("TBPS_TEST_GROWTH_KILLS", "0"))
"""How many kills each form of the test makes; 0: few."""


@pytest.mark.parametrize("how", [WAYS[0], *(pytest.param(how, marks=pytest.mark.slow) for how in WAYS[1:])])
def test_kills_among_unmerged_parts_lose_no_acknowledged_row_and_double_none(tmp_path: Path, how: str) -> None:
    done = kill_writers(tmp_path, how, KILLS or (8 if not how else 5))
    assert done.fault is None, done.fault
    assert done.in_parts and done.galleries, f"{done}: no kill found parts, or nobody read"
