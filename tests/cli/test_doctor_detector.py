"""`tbps doctor --detector CLIP`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def clip(small_street: Path) -> Path:
    return min(small_street.glob("clips/*.mp4"))


def test_hog_finds_a_share_of_the_drawn_persons_and_says_how_long_it_takes(tbps, clip):
    status, out, err = tbps("doctor", "--detector", str(clip), "--use", "hog", "--every", "2s", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["detector"], found["frames"], found["truth"]) == ("hog", 6, str(clip.with_suffix(".json")))
    assert found["persons"] >= 8
    assert found["recall"] >= 0.35, f"recall {found['recall']}"
    assert found["precision"] >= 0.35, f"precision {found['precision']}"
    assert found["mean_iou"] > 0.6
    assert 0 < found["seconds_per_frame"] < 60


def test_the_table_names_recall_precision_and_heights(tbps, clip):
    status, out, err = tbps("doctor", "--detector", str(clip), "--use", "hog", "--every", "4s")
    assert status == 0, err
    for word in ("recall", "precision", "mean IoU", "height in pixels", "s a frame", "few:", "--download"):
        assert word in out, f"{word} is missing in:\n{out}"


def test_without_truth_the_boxes_are_counted(tbps, clip):
    clip.with_suffix(".json").unlink()
    status, out, _ = tbps("doctor", "--detector", str(clip), "--use", "hog", "--every", "6s")
    assert status == 0 and "--truth FILE" in out and "recall" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--truth", "x.json"), "--truth goes with --detector"),
        (("--every", "1s"), "--every goes with --detector"),
        (("--detector", "none.mp4"), "none.mp4"),
        (("--detector", "CLIP", "--every", "soon"), "--every soon"),
        (("--detector", "CLIP", "--truth", "none.json"), "none.json cannot be read"),
        (("--detector", "CLIP", "--use", "magic"), "--use magic"),
        (("--detector", "TRUTH"), "cannot be read as a video"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_a_hint(tbps, clip, words, message):
    places = {"CLIP": str(clip), "TRUTH": str(clip.with_suffix(".json"))}
    status, out, err = tbps("doctor", *(places.get(word, word) for word in words))
    assert status in (1, 2) and message in err.replace("\n", " ") and "Hint:" in err
    assert "Traceback" not in err and not out
