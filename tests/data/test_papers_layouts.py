"""The annotation files of other papers are recognised by name and content, below a name or as a path."""

import json

import pytest
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError


def by_split(rows):
    return {split: [row for row in rows if row["split"] == split] for split in ("train", "val", "test")}


def images_of(folder, rows):
    for seed, row in enumerate(rows):
        save_image(folder / row["file_path"], seed)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def tbps_clip(folder):
    rows = cuhk_records()
    images_of(folder / "imgs", rows)
    for split, part in by_split(rows).items():
        for row in part:
            del row["split"]
            row["captions_bt"] = ["", "back"] if split == "train" else ["", ""]
        if split != "val":
            write(folder / f"{split}_reid.json", part)


def rasa(folder):
    rows = cuhk_records()
    images_of(folder / "imgs", rows)
    for split, part in by_split(rows).items():
        write(folder / f"processed_data/{split}.json", part)


def textreid(folder):
    rows, image = cuhk_records(), 0
    images_of(folder / "imgs", rows)
    for split, part in by_split(rows).items():
        entries = []
        for row in part:
            image += 1
            same = {"file_path": row["file_path"], "id": row["id"] - 1, "image_id": image}
            entries += [
                {**same, "sentence": text, "onehot": [1, 2 + number]} for number, text in enumerate(row["captions"])
            ]
        write(folder / f"annotations/{split}.json", {"categories": [1], "annotations": entries})


def aptm(folder):
    rows = cuhk_records()
    images_of(folder / "images", rows)
    for split, part in by_split(rows).items():
        each = [{"image": row["file_path"], "caption": row["captions"], "image_id": row["id"]} for row in part]
        if split == "train":
            each = [{**row, "caption": text} for number in (0, 1) for row in each for text in [row["caption"][number]]]
        write(folder / f"data/finetune/cuhk_{split}.json", each)


LAYOUTS = {"TBPS-CLIP": tbps_clip, "RaSa": rasa, "TextReID": textreid, "APTM": aptm}


@pytest.mark.parametrize("paper", LAYOUTS)
def test_a_papers_annotation_is_read_under_the_data_sets_name(paper, tmp_path):
    LAYOUTS[paper](tmp_path / "CUHK-PEDES")
    dataset = open_dataset("cuhk-pedes", tmp_path)
    split = dataset.split("train")
    assert dataset.name == "cuhk-pedes" and any(paper in note for note in dataset.notes)
    assert split.class_of.tolist() == [0, 0, 1, 1, 2, 2] and len(split) == 12
    assert all(path.is_file() for path in split.paths)
    assert sorted(dataset.split("test").captions)[0] == "Person 6 as seen in image 0."


@pytest.mark.parametrize("paper", LAYOUTS)
def test_a_papers_annotation_is_read_by_its_folder(paper, tmp_path):
    LAYOUTS[paper](tmp_path / "mine")
    dataset = open_dataset(str(tmp_path / "mine"), tmp_path)
    assert len(dataset.split("test").paths) == 4 and dataset.name == "mine"


def test_tbps_clip_brings_back_translations_and_needs_no_val(tmp_path):
    tbps_clip(tmp_path / "CUHK-PEDES")
    dataset = open_dataset("cuhk-pedes", tmp_path)
    assert dataset.split("train").back_translations[:2] == [None, "back"]
    assert list(dataset.splits) == ["train", "test"]


def test_textreid_brings_word_ids_and_counts_images_not_entries(tmp_path):
    textreid(tmp_path / "CUHK-PEDES")
    split = open_dataset("cuhk-pedes", tmp_path).split("val")
    assert split.word_ids[:3] == [(1, 2), (1, 3), (1, 2)]
    assert len(split.paths) == 4 and split.image_person == [3, 3, 4, 4]


def test_captions_of_one_image_need_not_stand_together(tmp_path):
    aptm(tmp_path / "CUHK-PEDES")
    split = open_dataset("cuhk-pedes", tmp_path).split("train")
    assert split.caption_image.tolist() == [0, 1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize(("paper", "file"), [("TBPS-CLIP", "test_reid.json"), ("APTM", "data/finetune/cuhk_test.json")])
def test_a_papers_annotation_is_read_by_one_of_its_files(paper, file, tmp_path):
    LAYOUTS[paper](tmp_path / "mine")
    dataset = open_dataset(str(tmp_path / "mine" / file), tmp_path)
    assert {"train", "test"} <= set(dataset.splits)
    assert all(path.is_file() for path in dataset.split("test").paths)


def test_three_data_sets_in_one_folder_need_a_name(tmp_path):
    aptm(tmp_path / "x")
    write(tmp_path / "x/data/finetune/rstp_test.json", [{"image": "a", "caption": ["b"], "image_id": 1}])
    with pytest.raises(DataError, match="cuhk-pedes and rstpreid"):
        open_dataset(str(tmp_path / "x"), tmp_path)


def test_an_official_file_anywhere_is_read_and_takes_its_folders_name(tmp_path):
    write_set(tmp_path / "Station", cuhk_records())
    dataset = open_dataset(str(tmp_path / "Station/reid_raw.json"), tmp_path)
    assert dataset.name == "station" and len(dataset.images) == 14


def test_the_official_file_is_preferred_to_a_papers(tmp_path):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    rasa(tmp_path / "CUHK-PEDES")
    assert open_dataset("cuhk-pedes", tmp_path).notes == []
