"""How a detector is measured, and the truth files that it is measured by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.street import SMALL, truth_of

from tbps_cli.errors import DataError
from tbps_cli.footage.boxes import Detection
from tbps_cli.footage.score import VISIBLE, iou, score_detector
from tbps_cli.footage.truth import beside, read_truth


class Told:
    """Gives boxes that it was told, frame by frame."""

    name = fingerprint = "told"

    def __init__(self, boxes: list[list[Detection]]) -> None:
        self.boxes = iter(boxes)

    def __call__(self, frame: Image.Image) -> list[Detection]:
        assert frame.size == SMALL.size
        return next(self.boxes)


@pytest.fixture
def clip(small_street: Path) -> Path:
    return min(small_street.glob("clips/*.mp4"))


def true_boxes(clip: Path, change=lambda box: box, least: float = 0.0) -> list[list[Detection]]:
    return [
        [Detection(change(tuple(box["box"])), 0.9) for box in frame["boxes"] if box["visible"] >= least]
        for frame in truth_of(clip)["frames"]
    ]


def scored(clip: Path, boxes: list[list[Detection]], **options):
    truth = read_truth(clip.with_suffix(".json"), SMALL.rate)
    return score_detector(Told(boxes), clip, truth, **options)


def test_who_gives_the_true_boxes_finds_everybody(clip):
    score = scored(clip, true_boxes(clip))
    assert (score.recall, score.precision, score.mean_overlap) == (1.0, 1.0, 1.0)
    assert score.frames == SMALL.seconds * SMALL.rate
    asked = [b for frame in truth_of(clip)["frames"] for b in frame["boxes"] if b["visible"] >= VISIBLE]
    assert score.persons == len(asked) == sum(persons for persons, _ in score.by_height.values())


def test_boxes_twice_too_large_find_nobody(clip):
    score = scored(
        clip, true_boxes(clip, lambda box: (box[0] - box[2] // 2, box[1] - box[3] // 2, 2 * box[2], 2 * box[3]))
    )
    assert score.recall < 0.05 and score.precision < 0.05


def test_a_second_box_on_a_person_is_a_mistake(clip):
    boxes = true_boxes(clip, least=VISIBLE)
    score = scored(clip, [frame + [Detection(box, 0.5) for box, _ in frame] for frame in boxes])
    assert score.recall == 1.0
    assert score.precision == pytest.approx(0.5, abs=0.05)


def test_a_box_on_somebody_who_is_hidden_is_neither_asked_for_nor_a_mistake(clip):
    score = scored(clip, true_boxes(clip, least=VISIBLE))
    hidden = [b for frame in truth_of(clip)["frames"] for b in frame["boxes"] if b["visible"] < VISIBLE]
    assert hidden, "the street has somebody who is hidden"
    assert (score.recall, score.precision) == (1.0, 1.0)


def test_every_takes_fewer_frames_and_compares_each_with_its_own_truth(clip):
    frames = true_boxes(clip)
    score = scored(clip, frames[:: SMALL.rate], every=1.0)
    assert (score.frames, score.recall, score.precision) == (SMALL.seconds, 1.0, 1.0)


def test_without_truth_boxes_are_counted_and_shares_are_unknown(clip):
    boxes = true_boxes(clip)
    score = score_detector(Told(boxes), clip, None)
    assert score.boxes == sum(map(len, boxes)) > 0
    assert score.recall is score.precision is score.mean_overlap is None
    assert score.document()["recall"] is None


def test_iou_is_that_of_two_painted_boxes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = [tuple(int(v) for v in (*rng.integers(0, 30, 2), *rng.integers(1, 20, 2))) for _ in range(2)]
        planes = np.zeros((2, 60, 60), bool)
        for plane, (x, y, w, h) in zip(planes, boxes, strict=True):
            plane[y : y + h, x : x + w] = True
        assert iou(*boxes) == pytest.approx(planes.all(0).sum() / planes.any(0).sum())


CHALLENGE = """\
1,1,10,20,30,80,1,1,1
1,2,50,20,30,80,1,7,1
2,1,12,20,30,80,1,1,0.25
4,3,14,20,30,80,0,1,1
"""


def test_a_file_of_the_challenge_is_read_with_its_classes_and_flags(tmp_path):
    file = tmp_path / "gt.txt"
    file.write_text(CHALLENGE, "utf-8")
    truth = read_truth(file, 25.0)
    assert sorted(truth.boxes) == [0, 0.04, 0.08, 0.12]
    assert [(box.track, box.counts, box.visible) for box in truth.at(0.0)] == [("1", True, 1.0), ("2", False, 1.0)]
    assert truth.at(0.041)[0].visible == 0.25
    assert truth.at(0.08) == []
    assert truth.at(0.12)[0].counts is False
    assert truth.at(0.2) is None


def test_a_file_of_2015_has_no_classes(tmp_path):
    file = tmp_path / "gt.txt"
    file.write_text("1,1,1703,385,157,339,1,-1,-1,-1\n", "utf-8")
    assert read_truth(file, 25.0).at(0.0)[0] == ((1703, 385, 157, 339), "1", 1.0, True)


def test_the_truth_beside_a_clip_is_found(clip, tmp_path):
    assert beside(clip) == clip.with_suffix(".json")
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "gt.txt").write_text(CHALLENGE, "utf-8")
    assert beside(tmp_path / "MOT17.mp4") == tmp_path / "gt" / "gt.txt"
    assert beside(tmp_path / "gt" / "other.mp4") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nobody"),
        ("{}", "is no truth file: 'frames' is missing"),
        ("{", "is no truth file"),
        ('{"frames": 3}', "its `frames` are no list"),
        ('{"frames": [{"seconds": 0}]}', "frame 0: 'boxes' is missing"),
        ('{"frames": [{"seconds": 0, "boxes": [{"track": 1, "box": [1, 2, 3]}]}]}', "frame 0"),
        ('{"frames": [{"seconds": 0, "boxes": [{"track": 1, "box": [1, 2, 0, 4]}]}]}', "is no box"),
        ("1,1,10,20\n", "gt.txt:1: 4 fields instead of at least 6"),
        ("1,1,10,20,30,80\n0,1,10,20,30,80\n", "gt.txt:2: frame 0 is outside"),
        ("1,1,10,20,nan,80\n", "is no box"),
        ("a man in a red coat\n", "gt.txt:1"),
        ("1,1,10,20,30,80,x\n", "gt.txt:1"),
    ],
)
def test_a_file_that_is_no_truth_is_refused_with_its_place(tmp_path, text, message):
    file = tmp_path / "gt.txt"
    file.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message.replace("`", ".")) as refused:
        read_truth(file, 25.0)
    assert "\n" not in refused.value.message and refused.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        read_truth(tmp_path / "none.txt", 25.0)


def test_the_truth_of_another_video_is_refused(clip, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps({"frames": [{"seconds": 900.0, "boxes": [{"track": 1, "box": [1, 2, 3, 4]}]}]}), "utf-8"
    )
    with pytest.raises(DataError, match="says nothing about any frame"):
        score_detector(Told([]), clip, read_truth(other, 3.0))
