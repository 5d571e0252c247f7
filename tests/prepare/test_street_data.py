"""`tbps prepare-data synthetic --street`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = ("--street", "--identities", "4", "--cameras", "1", "--minutes", "0.05", "--size", "320x240", "--rate", "2")


def test_a_street_is_drawn_once_and_described(tbps, tmp_path: Path) -> None:
    root = ("--data-root", str(tmp_path))
    status, out, err = tbps("prepare-data", "synthetic", *TINY, *root)
    assert status == 0, err
    assert "cam1_2026-01-05T10-00-00.mp4" in out and "ready" in out
    clip = tmp_path / "synthetic-street" / "clips" / "cam1_2026-01-05T10-00-00.mp4"
    written = clip.stat().st_mtime_ns
    status, out, _ = tbps("prepare-data", "synthetic", "--street", *root, "--json")
    assert status == 0 and clip.stat().st_mtime_ns == written
    document = json.loads(out)
    assert (document["rate"], document["size"], document["seconds"]) == (2, [320, 240], 3)
    assert [found["frames"] for found in document["clips"]] == [6]


def test_other_numbers_draw_it_anew(tbps, tmp_path: Path) -> None:
    root = ("--data-root", str(tmp_path), "--json")
    tbps("prepare-data", "synthetic", *TINY, *root)
    status, out, _ = tbps("prepare-data", "synthetic", *TINY[:-1], "3", *root)
    assert status == 0 and json.loads(out)["rate"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cuhk-pedes", "--street"), "--street does not go with cuhk-pedes"),
        (("synthetic", "--street", "--audit"), "--audit does not go with --street"),
        (("synthetic", "--cameras", "2"), "--cameras goes with --street"),
        (("synthetic", "--street", "--size", "wide"), "--size wide is not a size"),
        (("synthetic", "--street", "--minutes", "-1"), "--minutes -1.0 is not a length"),
    ],
)
def test_options_that_do_not_fit_are_named(tbps, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    status, _, err = tbps("prepare-data", *words, "--data-root", str(tmp_path))
    assert status == 2 and message in err and "Hint:" in err


def test_a_street_with_a_clip_missing_is_named(tbps, tmp_path: Path) -> None:
    root = ("--data-root", str(tmp_path))
    tbps("prepare-data", "synthetic", *TINY, *root)
    (tmp_path / "synthetic-street" / "clips" / "cam1_2026-01-05T10-00-00.mp4").unlink()
    status, _, err = tbps("prepare-data", "synthetic", "--street", *root)
    assert status == 1 and "is not whole" in err and "Hint: Delete the folder" in err
