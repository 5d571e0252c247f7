"""Reading the official layouts: the papers' numbering, and every way in which a file can be wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.data.layouts import records
from tbps_cli.data.open import LAYOUTS, find_layout, open_dataset
from tbps_cli.data.types import class_numbers
from tbps_cli.errors import DataError


def broken(tmp_path, content, name="CUHK-PEDES/reid_raw.json"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        open_dataset("cuhk-pedes", tmp_path)
    return f"{caught.value.message}\n{caught.value.hint}"


def one(**changes):
    return [{**cuhk_records()[0], **changes}]


def test_records_keep_the_order_of_the_file_and_their_raw_ids(cuhk):
    split = open_dataset("cuhk-pedes", cuhk).split("train")
    assert [path.name for path in split.paths] == [f"{p:03}_{n}.png" for p in (1, 2, 3) for n in (0, 1)]
    assert split.image_person == [1, 1, 2, 2, 3, 3]
    assert split.class_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.caption_image.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert split.caption_class.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert split.identities == 3 and len(split) == 12
    assert split.caption_image.dtype == np.int64


def test_a_test_split_keeps_raw_ids_and_all_captions_as_queries(cuhk):
    split = open_dataset("cuhk-pedes", cuhk).split("test")
    assert split.caption_person == [6] * 4 + [7] * 4
    assert split.captions[0] == "Person 6 as seen in image 0."
    assert split.paths[0] == cuhk / "CUHK-PEDES/imgs/cam_a/006_0.png"


def test_the_splits_are_counted(cuhk):
    assert open_dataset("CUHK", cuhk).splits == {"train": (3, 6, 12), "val": (2, 4, 8), "test": (2, 4, 8)}


@pytest.mark.parametrize("name", ["cuhk-pedes", "CUHK-PEDES", "cuhk_pedes", "CUHK"])
def test_a_data_set_answers_to_every_spelling(name, cuhk):
    assert open_dataset(name, cuhk).name == "cuhk-pedes"


@pytest.mark.parametrize("place", ["CUHK-PEDES", "cuhk-pedes", "cuhkpedes", "CUHK_PEDES", "."])
def test_the_folder_is_found_in_any_spelling_and_as_the_data_root_itself(place, tmp_path):
    write_set(tmp_path / place, cuhk_records())
    assert len(open_dataset("cuhk-pedes", tmp_path).images) == 14


@pytest.mark.parametrize("annotation", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_both_spellings_of_the_icfg_file_are_read_and_the_record_decides_the_split(annotation, tmp_path):
    rows = [
        {"split": "train", "id": 0, "file_path": "test/0000/0000_002_05_0303morning_0018_1.jpg", "captions": ["a"]},
        {"split": "test", "id": 9, "file_path": "train/x.jpg", "captions": ["b"]},
    ]
    write_set(tmp_path / "ICFG-PEDES", rows, annotation)
    dataset = open_dataset("icfg-pedes", tmp_path)
    assert dataset.splits == {"train": (1, 1, 1), "test": (1, 1, 1)}
    assert (dataset.images[0].camera, dataset.images[0].time) == ("05", "0303morning")
    with pytest.raises(DataError, match="no val split") as caught:
        dataset.split("val")
    assert "select_on=test" in caught.value.hint


def test_rstpreid_names_its_image_key_and_camera(tmp_path):
    rows = [{"split": "train", "id": 0, "img_path": "0000_c14_0031.jpg", "captions": ["a", "b"]}]
    write_set(tmp_path / "RSTPReid", rows, "data_captions.json", "img_path")
    dataset = open_dataset("rstpreid", tmp_path)
    assert dataset.images[0].path == "0000_c14_0031.jpg" and dataset.images[0].camera == "14"


def test_the_official_counts_are_those_of_the_papers():
    totals = {name: [sum(numbers) for numbers in zip(*layout.counts.values(), strict=True)]
              for name, layout in LAYOUTS.items() if layout.counts}  # fmt: skip
    assert totals == {
        "cuhk-pedes": [13_003, 40_206, 80_440],
        "icfg-pedes": [4_102, 54_522, 54_522],
        "rstpreid": [4_101, 20_505, 41_010],
    }
    assert find_layout("runs/own.csv") is None


@pytest.mark.parametrize(
    ("value", "person"), [(3, 3), ("3", 3), ("0003", 3), (3.0, 3), (3.5, "3.5"), ("blue coat", "blue coat"), (-1, -1)]
)
def test_an_identity_may_have_any_json_type(value, person, tmp_path):
    write_set(tmp_path / "CUHK-PEDES", one(id=value))
    assert open_dataset("cuhk-pedes", tmp_path).images[0].person == person


def test_numbers_come_before_names_in_the_class_numbers():
    assert class_numbers(["b", 10, 2, "a", 2]) == {2: 0, 10: 1, "a": 2, "b": 3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "training"}, "record 1 has split 'training'"),
        ({"split": 1}, "record 1 has split 1"),
        ({"id": None}, "record 1 has person None"),
        ({"id": [1]}, "record 1 has person [1]"),
        ({"id": float("nan")}, "record 1 has person nan"),
        ({"captions": 5}, "record 1 has captions 5"),
        ({"captions": ["a", None]}, "record 1 has captions ['a', None]"),
        ({"file_path": "../../etc/passwd"}, "points outside the image folder"),
        ({"file_path": "/etc/passwd"}, "points outside the image folder"),
        ({"file_path": "C:\\boot.ini"}, "points outside the image folder"),
        ({"file_path": "a\\..\\..\\b.png"}, "points outside the image folder"),
        ({"file_path": ""}, "record 1 has the image path ''"),
        ({"file_path": "a\0b"}, "record 1 has the image path"),
        ({"captions_bt": ["one"]}, "2 captions but 1 back-translations"),
    ],
)
def test_a_record_that_cannot_be_right_is_refused_by_its_number(changes, said, tmp_path):
    assert said in broken(tmp_path, one(**changes))


@pytest.mark.parametrize("field", ["split", "id", "file_path", "captions"])
def test_a_missing_field_is_named_with_its_record(field, tmp_path):
    rows = cuhk_records()[:3]
    del rows[2][field]
    assert f"record 3 has no field '{field}'" in broken(tmp_path, rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[\n  oops\n]", "line 2, column 3"),
        ("[" + "1" * 5000 + "]", "is not JSON"),
        ("<html>", "line 1, column 1"),
        ('{"annotations": []}', "an object where a list"),
        ("[]", "no records"),
        ("[1]", "record 1 is not an object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_annotation_says_where(content, said, tmp_path):
    assert said in broken(tmp_path, content)


def test_an_annotation_that_is_no_text_says_so(tmp_path):
    (tmp_path / "CUHK-PEDES").mkdir()
    (tmp_path / "CUHK-PEDES/reid_raw.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        open_dataset("cuhk-pedes", tmp_path)


def test_a_byte_order_mark_is_understood(tmp_path):
    folder = write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    path = folder / "reid_raw.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_dataset("cuhk-pedes", tmp_path).images) == 14


def test_caption_all_alone_is_explained(tmp_path):
    (tmp_path / "CUHK-PEDES/imgs").mkdir(parents=True)
    said = broken(tmp_path, [{"id": 1, "file_path": "a.png", "captions": ["a"]}], "CUHK-PEDES/caption_all.json")
    assert "no reid_raw.json" in said and "separate download" in said


def test_caption_all_with_splits_is_read(tmp_path):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(), "caption_all.json")
    assert len(open_dataset("cuhk-pedes", tmp_path).captions) == 28


def test_an_absent_data_set_says_what_to_type(tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset("rstp", tmp_path / "nowhere")
    assert "RSTPReid is not in" in caught.value.message and "tbps prepare-data rstpreid" in caught.value.hint


def test_a_folder_without_annotation_says_what_lies_there(tmp_path):
    save_image(tmp_path / "RSTPReid/imgs/a.png")
    with pytest.raises(DataError, match=r"no data_captions\.json \(it has imgs\)"):
        open_dataset("rstpreid", tmp_path)


def test_an_unknown_name_gets_the_nearest_one(tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset("chuk-pedes", tmp_path)
    assert "Did you mean cuhk-pedes?" in caught.value.hint


def test_odd_records_are_kept_and_noted(tmp_path):
    rows = cuhk_records()
    rows[0]["captions"] = []
    rows[1]["captions"] = ["  "]
    rows[3]["file_path"] = rows[2]["file_path"]
    write_set(tmp_path / "CUHK-PEDES", rows)
    dataset = open_dataset("cuhk-pedes", tmp_path)
    assert dataset.notes == [
        "1 image has no caption (first: cam_a/001_0.png)",
        "1 caption is empty (first: cam_a/001_1.png)",
        "1 record repeats an image path (first: cam_a/002_0.png)",
    ]
    assert len(dataset.split("train").paths) == 6


def test_back_translations_beside_the_official_file_are_taken_along(tmp_path):
    rows = cuhk_records()
    folder = write_set(tmp_path / "CUHK-PEDES", rows)
    train = [{**row, "captions_bt": [f"back {text}" for text in row["captions"]]} for row in rows[:2]]
    (folder / "train_reid.json").write_text(json.dumps(train))
    dataset = open_dataset("cuhk-pedes", tmp_path)
    backs = dataset.split("train").back_translations
    assert backs[:4] == [f"back {text}" for row in rows[:2] for text in row["captions"]]
    assert backs[4:] == [None] * 8
    assert "back-translations of 4 captions come from train_reid.json" in dataset.notes


@given(st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=3)), max_size=30))
def test_class_numbers_are_dense_and_follow_the_order_of_ids(persons):
    numbers = class_numbers(persons)
    assert sorted(numbers.values()) == list(range(len(set(persons))))
    whole = [person for person in numbers if isinstance(person, int)]
    assert whole == sorted(whole)


@given(st.text(max_size=40))
def test_a_path_from_an_annotation_never_leaves_its_folder(text):
    from pathlib import Path

    try:
        path = records.as_path(text, 1, Path("x.json"))
    except DataError:
        return
    inside = Path("/data/imgs") / path
    assert inside.is_relative_to("/data/imgs") and ".." not in inside.parts and "\0" not in path
