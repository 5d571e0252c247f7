"""One's own pairs: JSONL, CSV and plain folders."""

import json

import pytest
from support.sets import save_image

from tbps_cli.data.layouts.pairs import deal_splits
from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError
from tbps_cli.prepare.audit import audit


def table(tmp_path, text, name="own.csv", images=("a.png", "b.png", "c.png")):
    for seed, image in enumerate(images):
        save_image(tmp_path / image, seed)
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(name, tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset(name, tmp_path)
    return f"{caught.value.message}\n{caught.value.hint}"


def test_a_csv_with_everything(tmp_path):
    rows = "a.png,red coat,7,x,train", 'b.png,"blue, long",7,y,val', "c.png,hat,ann,x,test"
    text = "\n".join(["image,caption,person,camera,split", *rows])
    dataset = open_dataset(table(tmp_path, text), tmp_path)
    assert dataset.name == "own"
    assert [(p.person, p.camera, p.split) for p in dataset.images] == [
        (7, "x", "train"), (7, "y", "val"), ("ann", "x", "test"),
    ]  # fmt: skip
    assert dataset.captions[1].text == "blue, long"
    assert dataset.split("test").paths == [tmp_path / "c.png"]


def test_pairs_in_the_present_folder_have_its_name(tmp_path, monkeypatch):
    home = tmp_path / "station"
    table(home, "image,caption\na.png,red\nb.png,hat\nc.png,bag\n", "pairs.csv")
    monkeypatch.chdir(home)
    assert open_dataset("pairs.csv", tmp_path).name == open_dataset(str(home / "pairs.csv"), tmp_path).name == "station"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_column_names_are_understood(delimiter, tmp_path):
    text = delimiter.join(["file_path", "text", "pid"]) + "\n" + delimiter.join(["a.png", "red, long coat", "1"]) + "\n"
    assert open_dataset(table(tmp_path, "\ufeff" + text), tmp_path).captions[0].text == "red, long coat"


def test_lines_about_one_image_add_captions_to_it(tmp_path):
    lines = [
        {"image": "a.png", "caption": "one"},
        {"image": "b.png", "captions": ["x", "y"]},
        {"image": "a.png", "caption": "two"},
    ]
    name = table(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\n", "own.jsonl")
    dataset = open_dataset(name, tmp_path)
    assert [caption.image for caption in dataset.captions] == [0, 1, 1, 0]


def test_without_persons_each_image_is_its_own_and_the_split_never_changes(tmp_path):
    images = [f"imgs/{number}.png" for number in range(20)]
    lines = [f"{number}.png,caption {number}" for number in range(20)]
    forwards = open_dataset(table(tmp_path, "image,caption\n" + "\n".join(lines), images=images), tmp_path)
    backwards = open_dataset(table(tmp_path, "image,caption\n" + "\n".join(lines[::-1]), "b.csv", ()), tmp_path)
    assert forwards.splits == {"train": (16, 16, 16), "val": (2, 2, 2), "test": (2, 2, 2)}
    assert {(p.path, p.split) for p in forwards.images} == {(p.path, p.split) for p in backwards.images}
    assert forwards.root == tmp_path / "imgs"
    assert [p.path for p in forwards.images if p.split != "train"] == ["6.png", "13.png", "15.png", "18.png"]


@pytest.mark.parametrize(("persons", "held"), [(1, 0), (2, 0), (3, 1), (14, 1), (100, 10)])
def test_the_deal_holds_out_a_tenth_and_at_least_one(persons, held):
    dealt = list(deal_splits(range(persons)).values())
    assert (dealt.count("val"), dealt.count("test")) == (held, held)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("image,caption\na.png\n", "x.csv", "line 2 has 1 field where the header has 2 (image, caption)"),
        ("image,caption\na.png,b,c\n", "x.csv", "line 2 has 3 fields where the header has 2 (image, caption)"),
        ("image,words\na.png,b\n", "x.csv", "but caption is missing; it has image, words"),
        ('image,caption\na.png,"open\n', "x.csv", "line 2 opens a quote that is not closed"),
        ('image,caption\na.png,x\nb.png,"cool" shirt\n', "x.csv", "line 3 is not CSV"),
        ("image,caption\n", "x.csv", "holds no pairs"),
        ("image,caption,split\na.png,x,train\nb.png,y,\n", "x.csv", "1 of 2 images have no split"),
        ("image,caption,split\na.png,x,dev\n", "x.csv", "split 'dev'"),
        ("image,caption,person\na.png,x,1\na.png,y,2\n", "x.csv", "gives a.png to person 2, an earlier one to 1"),
        ("image,caption\n../a.png,x\n", "x.csv", "outside the image folder"),
        ('{"image": "a.png", "caption": "x"}\n{"image"\n', "x.jsonl", "line 2 is not JSON"),
        ("[1]\n", "x.jsonl", "line 1 is not an object"),
        ("", "x.jsonl", "holds no pairs"),
        ('{"image": "a.png", "caption": "x", "caption": "y"}', "x.jsonl", "has the field 'caption' twice"),
        ('{"image": "\\ud83d.png", "caption": "x"}', "x.jsonl", "line 1 has the image path"),
        ("image,caption\n" + "a" * 300 + ",x\n", "x.csv", "line 2 has the image path"),
        ("hello", "x.yaml", "is not an annotation"),
    ],
)
def test_a_table_that_is_wrong_says_where(text, name, said, tmp_path):
    assert said in refused(table(tmp_path, text, name), tmp_path)


def test_halves_of_characters_become_the_sign_for_broken_ones(tmp_path):
    line = '{"image": "a.png", "caption": "a man \\ud83d", "person": "p\\udc00", "camera": "\\ud800"}'
    dataset = open_dataset(table(tmp_path, line, "own.jsonl"), tmp_path)
    assert dataset.captions[0].text == "a man \ufffd"
    assert (dataset.images[0].person, dataset.images[0].camera) == ("p\ufffd", "\ufffd")
    assert audit(dataset, {})[1].examples == ["a.png: a man \ufffd (broken characters)"]


def test_captions_beside_an_image_are_split_at_line_ends_only(tmp_path):
    text = "one\u2028more\fwords\r\ntwo\x85\n"
    save_image(tmp_path / "a.png").with_suffix(".txt").write_bytes(text.encode())
    captions = [caption.text for caption in open_dataset(str(tmp_path), tmp_path).captions]
    assert captions == ["one\u2028more\fwords", "two"]


def folder_of(tmp_path, *paths):
    for seed, path in enumerate(paths):
        save_image(tmp_path / path, seed).with_suffix(".txt").write_text(f"words about {path}\n\nmore words\n")
    return str(tmp_path)


def test_a_plain_folder_with_splits_and_persons(tmp_path):
    name = folder_of(tmp_path, "train/ann/1.png", "train/ann/2.png", "train/3.png", "test/bob/1.png")
    dataset = open_dataset(name, tmp_path)
    assert [(p.person, p.split) for p in dataset.images] == [
        ("bob", "test"), ("train/3.png", "train"), ("ann", "train"), ("ann", "train"),
    ]  # fmt: skip
    assert dataset.captions[0].text == "words about test/bob/1.png" and len(dataset.captions) == 8


def test_a_plain_folder_without_splits_is_dealt_out(tmp_path):
    assert set(open_dataset(folder_of(tmp_path, *[f"{n}.png" for n in range(5)]), tmp_path).splits) == {
        "train",
        "val",
        "test",
    }


def test_a_folder_without_captions_says_how_to_search_it(tmp_path):
    save_image(tmp_path / "a.png")
    assert "tbps index" in refused(str(tmp_path), tmp_path)


def test_an_empty_folder_and_a_mixed_one_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(str(tmp_path / "empty"), tmp_path)
    assert "some images lie in train" in refused(folder_of(tmp_path / "mixed", "train/1.png", "2.png"), tmp_path)


def test_a_folder_with_one_table_means_that_table_and_with_two_asks(tmp_path):
    table(tmp_path, "image,caption\na.png,x\n", "one.csv")
    assert len(open_dataset(str(tmp_path), tmp_path).images) == 1
    table(tmp_path, "image,caption\na.png,x\n", "two.csv")
    assert "has 2 tables (one.csv, two.csv)" in refused(str(tmp_path), tmp_path)
