"""Every test works in a folder of its own and can read what the library said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.runs import tiny_run

from tbps_cli.models.run import Run


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """What the logger `tbps` said, as one text."""
    with caplog.at_level(logging.INFO, logger="tbps"):
        yield lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny_run(tmp_path / "runs" / "tiny-0001")
