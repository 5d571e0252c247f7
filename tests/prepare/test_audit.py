"""The audit: what it finds, and what it leaves alone."""

import json

import pytest
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.data.open import open_dataset
from tbps_cli.prepare.audit import audit, exclusion_list, oddity
from tbps_cli.prepare.check import check


def found(tmp_path, rows, seeds=None):
    folder = write_set(tmp_path / "CUHK-PEDES", rows)
    for path, seed in (seeds or {}).items():
        save_image(folder / "imgs" / path, seed)
    dataset = open_dataset("cuhk-pedes", tmp_path)
    findings = audit(dataset, check(dataset, {})[1])
    return {finding.kind: finding for finding in findings}, exclusion_list(findings)


def test_a_clean_set_has_no_findings(tmp_path):
    findings, listed = found(tmp_path, cuhk_records())
    assert {kind: finding.count for kind, finding in findings.items()} == {
        "shared-caption": 0, "non-text": 0, "cut-caption": 0, "two-splits": 0, "person-in-splits": 0,
    }  # fmt: skip
    assert listed == []


def test_a_caption_shared_by_two_persons_is_found_whatever_its_case(tmp_path):
    rows = cuhk_records()
    rows[0]["captions"][1] = "A man in a red coat."
    rows[2]["captions"][0] = "a man in a  red coat"
    rows[3]["captions"][0] = "a man in a blue coat"
    rows[2]["captions"][1] = "a man in a blue coat"
    findings, listed = found(tmp_path, rows)
    assert findings["shared-caption"].count == 2
    assert [(entry.path, entry.caption) for entry in listed] == [("cam_a/001_0.png", 1), ("cam_a/002_0.png", 0)]


def test_the_same_image_in_two_splits_costs_the_training_copy(tmp_path):
    findings, listed = found(tmp_path, cuhk_records(), {"cam_a/001_0.png": 77, "cam_a/006_1.png": 77})
    assert findings["two-splits"].count == 2
    assert [(entry.path, entry.caption, entry.reason) for entry in listed] == [
        ("cam_a/001_0.png", None, "also in test")
    ]


def test_trouble_of_the_test_split_is_counted_but_never_listed(tmp_path):
    rows = cuhk_records()
    rows[-1]["captions"][0] = "<div>no person here</div>"
    findings, listed = found(tmp_path, rows)
    assert findings["non-text"].count == 1 and listed == []


def test_captions_that_are_cut_at_77_tokens_are_counted(tmp_path):
    rows = cuhk_records()
    rows[0]["captions"][0] = "a man in a red coat " * 12
    rows[1]["captions"][0] = "a man in a red coat " * 20
    rows[2]["captions"][0] = "coat " * 75
    findings, listed = found(tmp_path, rows)
    assert findings["cut-caption"].count == 1 and listed == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "wearing {color} trousers today",
        "<b>red coat and hat</b>",
        "see https://example.org/a for it",
        "0000_c1_0003.jpg is a man",
        "print() the man in red",
        "12345 67890 ---- a",
        "一个穿红色外套的男人在走路",
        "red coat",
        "a man \ufffd in red",
        "the man &lt;in red",
    ],
)
def test_what_is_no_sentence_is_odd(text):
    assert oddity(text)


@pytest.mark.parametrize(
    "text",
    [
        "A man in a red coat.",
        'she\'s wearing a "pink" dress: knee-length!\n',
        "The woman's bag is brown/beige & her shoes aren't visible (too dark)",
        "A boy, about 20; t-shirt with the number 7; café sign - none of it clear…",
    ],
)
def test_a_sentence_is_not_odd(text):
    assert oddity(text) is None


def test_a_person_in_two_splits_is_found_and_costs_the_training_images(tmp_path, caplog):
    rows = cuhk_records()
    rows[-1]["id"] = rows[0]["id"]
    findings, listed = found(tmp_path, rows)
    assert findings["person-in-splits"].count == 1
    assert findings["person-in-splits"].examples == ["person 1 is in train and test"]
    assert [(entry.path, entry.caption) for entry in listed] == [("cam_a/001_0.png", None), ("cam_a/001_1.png", None)]
    assert "1 person are in several splits (first: person 1 in train and test)" not in caplog.text
    assert "1 person is in several splits (first: person 1 in train and test)" in caplog.text


def test_persons_that_other_papers_files_number_by_split_are_not_taken_for_one(tmp_path, caplog):
    folder = tmp_path / "own"
    for split in ("train", "test"):
        rows = [{"image": f"{split}.png", "caption": "a man in a red coat", "image_id": 0}]
        save_image(folder / f"{split}.png")
        (folder / f"cuhk_{split}.json").write_text(json.dumps(rows))
    dataset = open_dataset(str(folder / "cuhk_train.json"), tmp_path)
    assert dataset.splits == {"train": (1, 1, 1), "test": (1, 1, 1)}
    assert dataset.persons_in_several_splits() == {} and "several splits" not in caplog.text
