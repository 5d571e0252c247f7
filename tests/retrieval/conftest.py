"""A folder to evaluate in, and the command line in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import tiny_run
from support.sets import cuhk_records, write_set

from tbps_cli.cli.app import app


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a run and a data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TBPS_DATA_ROOT", raising=False)
    write_set(tmp_path / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 2, 6)))
    tiny_run(tmp_path / "runs" / "tiny-0001")
    return tmp_path


@pytest.fixture
def tbps(capsys):
    """Runs the command line in this process: (status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(words))
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return run
