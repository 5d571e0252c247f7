"""Small facts in the cache: kept, found again, and never needed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tbps_cli.remembered import recall, remember, state_of_file


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_fact_is_found_under_its_key_alone() -> None:
    remember("kind", ["a", 1], {"found": 2.5})
    assert recall("kind", ["a", 1]) == {"found": 2.5}
    assert recall("kind", ["a", 2]) is None and recall("other", ["a", 1]) is None
    remember("kind", ["a", 1], {"found": 3})
    assert recall("kind", ["a", 1]) == {"found": 3}


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b'{"fact": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_fact_is_none(content: bytes, own_cache: Path) -> None:
    remember("kind", "key", {"found": 1})
    (file,) = (own_cache / "remembered" / "kind").iterdir()
    file.write_bytes(content)
    assert recall("kind", "key") is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(own_cache: Path) -> None:
    own_cache.write_text("a file where the folder should be")
    remember("kind", "key", {"found": 1})
    assert recall("kind", "key") is None


def test_the_state_of_a_file_changes_with_it_and_is_unknown_while_it_is_fresh(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert state_of_file(file) is None
    file.write_text("one")
    assert state_of_file(file) is None, "another change could come within the same tick"
    os.utime(file, (1, 1))
    first = state_of_file(file)
    assert first is not None and state_of_file(file) == first
    (tmp_path / "link").symlink_to(file)
    assert state_of_file(tmp_path / "link") == first
    later = time.time() + 1e6
    os.utime(file, (later, later))
    assert state_of_file(file) is None, "a time that is to come says nothing"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 10**9 * int(later - 1e5))
        assert state_of_file(file) is not None, "but that of its entry does"
    file.write_text("two")
    os.utime(file, (1, 1))
    assert state_of_file(file) != first, "its time of change was set back, but not that of its entry"
