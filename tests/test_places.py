"""Where data sets and caches lie, from what the user has set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbps_cli import places


def test_a_home_folder_in_the_settings_is_expanded_for_data_and_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("TBPS_CACHE_DIR", "~/cache")
    monkeypatch.setenv("TBPS_DATA_ROOT", "~/sets")
    assert places.cache_dir() == Path("/home/me/cache")
    assert places.data_root() == Path("/home/me/sets")
    assert places.data_root(Path("~/stated")) == Path("/home/me/stated")
