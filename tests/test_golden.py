"""Every golden folder of the repository, through the check that `scripts/check_parity.py` runs."""

from pathlib import Path

import pytest
from parity.check import run

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(path.name for path in GOLDEN.iterdir() if (path / "config.json").is_file())


@pytest.mark.parametrize("name", FOLDERS)
def test_golden(name):
    report = run(GOLDEN / name)
    assert not report.failures, "\n".join(report.failures)
    assert report.compared > 0
