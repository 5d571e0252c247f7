"""The benchmark beside plain pgvector runs, and both ways find the right rows; no test looks at a time."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from support.galleries import unit_rows


def test_both_ways_find_the_best_rows(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench = importlib.import_module("benchmarks.pgvector")
    vector_GE = unit_rows(2500, 16).astype(np.float16)
    bench.report(postgres_url, vector_GE, unit_rows(12, 16, seed=4), 1)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    searches = [line for line in lines if "search," in line or "camera" in line]
    assert len(searches) == 2
    assert all(float(recall) >= 0.98 for line in searches for recall in line[-2:])


def test_the_way_of_a_spectrum_is_said_with_its_recall(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps_cli.databases.postgres_index.WAITING", 500)
    bench = importlib.import_module("benchmarks.pgvector")
    for rows, way in ((400, "all rows"), (600, "ef 200")):
        url = f"{postgres_url}?gallery=steep_{rows}"
        vector_GE, query_QE = bench.drawn("steep", rows, 10)
        bench.fill_ours(url, vector_GE)[0].close()
        line = bench.spectrum_line("steep", url, vector_GE, query_QE, 1)
        assert line.split()[:2] == ["steep", str(rows)]
        assert float(line.split()[2]) >= 0.99
        assert line.endswith(way)
