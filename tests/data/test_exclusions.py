"""The list of what a recipe leaves out."""

import pytest

from tbps_cli.data import exclusions
from tbps_cli.data.exclusions import Exclusion
from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError


def test_listed_images_and_captions_are_gone_and_the_rest_keeps_its_order(cuhk):
    path = cuhk / "exclude.jsonl"
    listed = [
        Exclusion("cam_a/001_0.png", None, "train", "in test too"),
        Exclusion("cam_a/002_1.png", 1, "train", "code"),
        Exclusion("cam_a/999_1.png", 0, "train", "elsewhere"),
    ]
    path.write_text(exclusions.text_of(listed), encoding="utf-8")
    assert exclusions.read(path) == listed
    whole = open_dataset("cuhk-pedes", cuhk).split("train")
    dataset = open_dataset("cuhk-pedes", cuhk, exclude=path)
    split = dataset.split("train")
    assert split.captions == [text for place, text in enumerate(whole.captions) if place not in (0, 1, 7)]
    assert split.paths == whole.paths[1:] and split.caption_image.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    assert dataset.notes == [
        "exclude.jsonl leaves out 1 image and 3 captions",
        "1 entry of exclude.jsonl not found in this data set",
    ]


def test_leaving_out_test_records_is_said(cuhk):
    path = cuhk / "exclude.jsonl"
    path.write_text(exclusions.text_of([Exclusion("cam_a/006_0.png", 0, "test", "")]), encoding="utf-8")
    dataset = open_dataset("cuhk-pedes", cuhk, exclude=path)
    assert len(dataset.split("test").captions) == 7
    assert "1 of them is in val or test: scores are not comparable with published ones" in dataset.notes


@pytest.mark.parametrize("line", ["[1]", '{"caption": 1}', '{"path": "a", "caption": "1"}', '{"path": "../a"}', "{"])
def test_a_broken_list_names_its_line(line, cuhk):
    path = cuhk / "exclude.jsonl"
    path.write_text('\n{"path": "a.png", "caption": null}\n' + line + "\n")
    with pytest.raises(DataError, match="3"):
        open_dataset("cuhk-pedes", cuhk, exclude=path)
