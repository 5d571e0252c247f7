"""A folder to evaluate in."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import tiny_run
from support.sets import cuhk_records, write_set


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a run and a data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TBPS_DATA_ROOT", raising=False)
    write_set(tmp_path / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 2, 6)))
    tiny_run(tmp_path / "runs" / "tiny-0001")
    return tmp_path
