"""What was read of a mapped file leaves the process's memory, and nothing else does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tbps_cli.weights.mapped_pages import AT_A_TIME, ReadOnce, give_back, let_go

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/self/smaps")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights of a model.bin"
    path.write_bytes(np.arange(1 << 20, dtype=np.uint32).tobytes())
    return path


def resident(path: Path) -> int:
    """Bytes of a mapped file that lie in memory."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)
    return sum(1024 * int(re.search(r"Rss: +(\d+)", part)[1]) for part in parts if str(path) in part)  # type: ignore[index]


def test_pages_that_were_read_go_and_come_back_as_they_were(file: Path) -> None:
    mapped = np.memmap(file, np.uint32, "r")
    total = int(mapped.sum(dtype=np.int64))
    assert resident(file) > 4_000_000
    assert let_go(file) >= mapped.nbytes and resident(file) == 0
    assert int(mapped.sum(dtype=np.int64)) == total and resident(file) > 4_000_000


def test_a_mapping_that_was_written_to_stays_as_it_is(file: Path) -> None:
    other = file.with_name("other.bin")
    other.write_bytes(file.read_bytes())
    written, read = np.memmap(file, np.uint32, "c"), np.memmap(other, np.uint32, "c")
    written[5], total = 77, int(read.sum(dtype=np.int64))
    assert let_go(file) == 0 and written[5] == 77 and resident(file) > 0
    assert let_go(other) and int(read.sum(dtype=np.int64)) == total


def test_nothing_happens_to_files_that_are_not_mapped_or_not_there(file: Path) -> None:
    assert let_go(file) == 0 and let_go(file.with_name("missing")) == 0
    give_back()


def test_what_is_read_bit_by_bit_goes_bit_by_bit(file: Path) -> None:
    mapped, reading = np.memmap(file, np.uint32, "r"), ReadOnce(file)
    mapped.sum()
    reading(mapped.nbytes)
    assert resident(file) > 0
    reading(AT_A_TIME)
    assert resident(file) == 0
    ReadOnce(None)(AT_A_TIME)
