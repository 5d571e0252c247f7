"""Pre-training sets: every published shape is read as a stream, and what is wrong with a file is named."""

import json
import re
import sys

import pytest
from support.sets import save_image

from tbps_cli.data import types
from tbps_cli.data.layouts.pretraining_sets import LAYOUTS
from tbps_cli.data.layouts.stream import JsonStream
from tbps_cli.data.open import find_layout, open_dataset
from tbps_cli.errors import DataError, MissingExtra
from tbps_cli.features.fingerprint import fingerprint


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(name, tmp_path, content, file=None):
    """(path, person, split, captions) of each image of one annotation file."""
    layout = find_layout(name)
    first = next(pattern for pattern in layout.annotations if not pattern.endswith(".jsonl"))
    write(tmp_path / layout.folder / (file or first.replace("*", "x")), content)
    return shown(open_dataset(name, tmp_path))


def shown(dataset):
    texts = {index: [] for index in range(len(dataset.images))}
    for caption in dataset.captions:
        texts[caption.image].append(caption.text)
    return [(image.path, image.person, image.split, texts[place]) for place, image in enumerate(dataset.images)]


def refused(name, tmp_path, content, file=None):
    with pytest.raises(DataError) as caught:
        read(name, tmp_path, content, file)
    assert "\n" not in caught.value.message
    return f"{caught.value.message} {caught.value.hint}"


A, B = ["a man in red", "a tall man in red"], ["a woman in blue"]
SHAPES = {
    "synth-pedes": [
        {"id": 7, "file_path": "Part1/7/0.jpg", "attributes": ["red, man"], "captions": A, "prompt_caption": ["x"]},
        {"id": 7, "file_path": "Part1/7/1.jpg", "attributes": ["blue"], "captions": B, "prompt_caption": ["y"]},
    ],
    "mals": [
        {"image": "Part1/7/0.jpg", "caption": A, "image_id": "3", "label": [1, 0, -1]},
        {"image": "Part1/7/1.jpg", "caption": B[0], "image_id": "3", "label": [1, 0, -1]},
    ],
    "luperson-mllm": {"Part1/7/0.jpg": A, "Part1/7/1.jpg": B[0]},
    "ham-pedes": [{"file_path": "Part1/7/0.jpg", "captions": A}, {"file_path": "Part1/7/1.jpg", "captions": B}],
    "luperson-t": [{"img_path": "Part1/7/0.jpg", "captions": A}, {"img_path": "Part1/7/1.jpg", "caption": B[0]}],
    "webperson": [
        {"Part1/7/0.jpg": {"caption1": A[0], "caption2": A[1]}},
        {"Part1/7/1.jpg": {"caption1": B[0], "caption2": None}},
    ],
    "ufine6926": [
        {"split": "train", "id": 7, "file_path": "Part1/7/0.jpg", "captions": A},
        {"split": "train", "id": 7, "file_path": "Part1/7/1.jpg", "captions": B},
    ],
    "iiitd-20k": [
        {"id": 7, "image": "Part1/7/0.jpg", "captions": A},
        {"id": 7, "image": "Part1/7/1.jpg", "caption": B[0]},
    ],
    "pab": [
        {"image": "Part1/7/0.jpg", "caption": A, "image_id": 1, "hard_i": "x.jpg", "hard_c": "no", "normal": "walk"},
        {"image": "Part1/7/1.jpg", "caption": B, "image_id": 2, "source_caption": "no", "scene": "street"},
    ],
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_published_shape_gives_images_captions_and_persons(name, tmp_path):
    stated = name in ("synth-pedes", "ham-pedes", "ufine6926", "iiitd-20k")
    persons = (7, 7) if stated else ("Part1/7/0.jpg", "Part1/7/1.jpg")
    assert read(name, tmp_path, SHAPES[name]) == [
        ("Part1/7/0.jpg", persons[0], "train", A),
        ("Part1/7/1.jpg", persons[1], "train", B),
    ]


def test_all_pretraining_sets_are_tested_here():
    assert {layout.name for layout in LAYOUTS} == set(SHAPES)


def test_json_lines_are_read_like_a_list(tmp_path):
    lines = "\n".join(json.dumps(record) for record in SHAPES["ham-pedes"])
    assert read("ham-pedes", tmp_path, lines, "captions.jsonl")[1][3] == B


def test_the_four_files_of_luperson_mllm_add_captions_to_the_same_images(tmp_path):
    folder = tmp_path / "LUPerson-MLLM"
    write(folder / "Ts-qwen.json", {"a.jpg": "a man", "b.jpg": "a woman"})
    write(folder / "Td-qwen.json", {"b.jpg": "she has a bag", "a.jpg": "a man"})
    write(folder / "Td-shikra.json", {"c.jpg": "a child", "a.jpg": "he runs"})
    dataset = open_dataset("luperson-mllm", tmp_path)
    assert [row[::3] for row in shown(dataset)] == [
        ("a.jpg", ["a man", "he runs"]),
        ("b.jpg", ["a woman", "she has a bag"]),
        ("c.jpg", ["a child"]),
    ]
    assert dataset.notes == ["1 caption left out: the same as another of the image"]


def test_duplicate_captions_and_repeated_images_are_noted(tmp_path):
    record = SHAPES["synth-pedes"][0]
    read("synth-pedes", tmp_path, [{**record, "captions": ["a", "a", ""]}, {**record, "id": 8, "captions": ["b"]}])
    dataset = open_dataset("synth-pedes", tmp_path)
    assert shown(dataset) == [("Part1/7/0.jpg", 7, "train", ["a", "", "b"])]
    assert dataset.notes == [
        "1 record gives an image another person than before (first: Part1/7/0.jpg)",
        "1 caption is empty",
        "1 caption left out: the same as another of the image",
        "1 record repeats an image path: the captions are joined",
    ]


def test_webpersons_slash_n_is_taken_out_but_not_from_words(tmp_path):
    rows = read("webperson", tmp_path, [{"a.jpg": {"caption1": "A man./n He wears a black/navy coat./n"}}])
    assert rows[0][3] == ["A man. He wears a black/navy coat."]


def test_a_split_comes_from_the_record_or_from_the_name_of_the_file(tmp_path):
    folder = tmp_path / "PAB" / "annotation"
    write(folder / "train" / "attr_0.json", SHAPES["pab"][:1])
    write(folder / "train" / "attr_1.json", SHAPES["pab"][1:])
    write(folder / "test" / "attr.json", [{"image": "t.jpg", "caption": "a man falls", "image_id": 1}])
    write(folder / "test" / "ucc.json", [{"image": "u.jpg", "caption": "a man runs", "image_id": 1}])
    assert open_dataset("pab", tmp_path).splits == {"train": (2, 2, 3), "test": (1, 1, 1)}
    assert open_dataset(str(folder / "test" / "ucc.json"), tmp_path).splits == {"test": (1, 1, 1)}
    with pytest.raises(DataError) as caught:
        open_dataset("pab", tmp_path).split("val")
    assert "train.select_on=test" in caught.value.hint


def test_persons_are_held_out_as_val_the_same_on_every_machine(tmp_path):
    records = [{"id": number // 2, "file_path": f"{number}.jpg", "captions": ["a"]} for number in range(80)]
    read("synth-pedes", tmp_path, records)
    dataset = open_dataset("synth-pedes", tmp_path)
    assert dataset.splits == {"train": (36, 72, 72), "val": (4, 8, 8)}
    assert sorted({image.person for image in dataset.images if image.split == "val"}) == [2, 6, 18, 29]
    assert dataset.notes == ["no split is stated: 4 persons are held out as val, by name; the rest is train"]
    assert dataset.persons_in_several_splits() == {}


@pytest.mark.parametrize("name", ["SYNTH-PEDES", "synth_pedes", "SynthPEDES"])
def test_names_are_understood_in_any_spelling(name, tmp_path):
    read("synth-pedes", tmp_path, SHAPES["synth-pedes"])
    assert open_dataset(name, tmp_path).name == "synth-pedes"


def test_images_of_ham_pedes_may_lie_in_synth_pedes(tmp_path):
    path = save_image(tmp_path / "SYNTH-PEDES" / "Part1" / "7" / "0.jpg")
    read("ham-pedes", tmp_path, SHAPES["ham-pedes"])
    dataset = open_dataset("ham-pedes", tmp_path)
    assert dataset.path_of(dataset.images[0]).samefile(path)


def test_a_file_of_a_known_name_is_read_by_its_path(tmp_path):
    path = write(tmp_path / "elsewhere" / "synthpedes_dataset.json", SHAPES["synth-pedes"])
    assert open_dataset(str(path), tmp_path).images[0].person == 7


# Packed and listed ------------------------------------------------------------------------------


def test_a_packed_split_equals_the_same_split_as_lists(tmp_path, monkeypatch):
    records = [
        {"id": person, "file_path": f"é{number}.jpg", "captions": [f"caption {number} 漢", "b"][: 1 + number % 2]}
        for number, person in enumerate([30, "x", 4, 30, 4, "b", 100, "x", 30, 5, 6, 7])
    ]
    read("synth-pedes", tmp_path, records)
    dataset = open_dataset("synth-pedes", tmp_path)
    listed = dataset.split("train")
    monkeypatch.setattr(types, "LISTED", 0)
    packed = dataset.split("train")
    assert isinstance(listed.captions, list) and not isinstance(packed.captions, list)
    for field in vars(listed):
        one, other = getattr(listed, field), getattr(packed, field)
        one, other = ([*value] if hasattr(value, "__len__") and field != "dataset" else value for value in (one, other))
        assert one == other, field
    assert fingerprint(packed.captions) == fingerprint(listed.captions)
    assert packed.captions[1:3] == listed.captions[1:3] and packed.captions[-1] == listed.captions[-1]
    with pytest.raises(IndexError):
        packed.captions[len(listed.captions)]


def test_a_packed_set_can_leave_out_images_and_captions(tmp_path):
    read("synth-pedes", tmp_path, SHAPES["synth-pedes"])
    for entry, rows in (
        ({"path": "Part1/7/0.jpg", "caption": 1}, [("Part1/7/0.jpg", A[:1]), ("Part1/7/1.jpg", B)]),
        ({"path": "Part1/7/0.jpg", "caption": None}, [("Part1/7/1.jpg", B)]),
    ):
        listed = write(tmp_path / "exclude.jsonl", json.dumps({**entry, "split": "train", "reason": "x"}))
        assert [row[::3] for row in shown(open_dataset("synth-pedes", tmp_path, exclude=listed))] == rows


# Files that break off, and broken ones ----------------------------------------------------------


@pytest.mark.parametrize("name", ["synth-pedes", "luperson-mllm", "webperson"])
def test_wherever_a_file_breaks_off_the_records_before_it_are_kept(name, tmp_path, caplog):
    whole = json.dumps(SHAPES[name])
    first, second = (json.dumps(part)[1:-1] for part in _parts(SHAPES[name]))
    ends = 1 + len(first), len(whole) - 1
    assert whole[1 : ends[0]] == first and whole[ends[0] + 2 : ends[1]] == second
    for cut in range(ends[0], len(whole)):
        caplog.clear()
        rows = read(name, tmp_path, whole[:cut])
        assert len(rows) == (2 if cut >= ends[1] else 1), cut
        assert f"breaks off at byte {cut:,}" in caplog.text and "What was read before is used" in caplog.text
    assert len(read(name, tmp_path, whole)) == 2


def _parts(content):
    if isinstance(content, dict):
        return [{key: value} for key, value in content.items()]
    return [[value] for value in content]


def test_nothing_before_the_break_is_an_error_that_names_the_file(tmp_path):
    assert "no records" in refused("synth-pedes", tmp_path, '[{"id": 7, "file_pa')


def test_room_that_a_download_never_filled_is_a_break_too(tmp_path, caplog):
    first = json.dumps(SHAPES["synth-pedes"][0])
    assert len(read("synth-pedes", tmp_path, "[" + first + ', {"id": 3, "fi' + "\0" * 5000)) == 1
    assert f"breaks off at byte {len(first) + 16}, in the middle of record 2" in caplog.text


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("padding", [b"", bytes(40)])
def test_a_break_may_be_within_an_escape_a_character_or_a_word(ascii_only, padding, tmp_path):
    content = [{"a": "x"}, {"b": 'é漢😀\\"\n\t]}', "c": [True, None, -1.5e-7, {"d": False}]}]
    raw = json.dumps(content, ensure_ascii=ascii_only).encode()
    path = tmp_path / "x.json"
    for cut in range(raw.index(b"}") + 1, len(raw) - 2):
        for piece in (5, 1 << 20):
            path.write_bytes(raw[:cut] + padding)
            stream = JsonStream(path, piece)
            assert [value for _, value in stream] == content[:1], cut
            assert stream.cut and abs(int(re.search(r"byte (\d+)", stream.cut)[1]) - cut) <= 3


def test_any_size_of_pieces_gives_the_same_elements(tmp_path):
    content = [{"a": 'é漢\\n"x', "n": [1.5e3, None, True]}, {"b": "😀", "c": -17}, {"k": {"k": "}]"}}]
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path = write(tmp_path / "x.json", text)
    for piece in (1, 2, 3, 7, 64, 1 << 20):
        stream = JsonStream(path, piece)
        assert [value for _, value in stream] == content and stream.cut is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>not found</html>", "is not JSON: it begins with '<'"),
        ("", "is empty"),
        ('[{"a": 1} {"b": 2}]', "expected ',' or ']' at byte 10 (record 2)"),
        ('[{"a": 1},, {"b": 2}, {"c": 333333333333}]', "at byte 10 (record 2)"),
        ('[{"a": 1, "a": 2}]', "has the field 'a' twice at byte 1 (record 1)"),
        ('{"a": 1, 5: 2}', "at byte 9 (record 2)"),
        ('{"a" 1, "b": 2, "c": 3333333333}', "expected ':' at byte 5 (record 1)"),
        ('[{"a": 1}] [', "there is text behind its end at byte 11"),
        ('[{"a": tru, "b": 3333333333333333333333}]', "at byte 7 (record 1)"),
        ('[{"a": "\0"}, {"b": 1}]', "invalid control character at byte 8 (record 1)"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused_with_byte_and_record(text, said, tmp_path):
    path = write(tmp_path / "x.json", text)
    with pytest.raises(DataError, match=re.escape(said)):
        list(JsonStream(path))


def test_an_element_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("tbps_cli.data.layouts.stream.LARGEST", 1000)
    path = write(tmp_path / "x.json", '[{"a": "' + "x" * 5000)
    with pytest.raises(DataError, match="unterminated string"):
        list(JsonStream(path, 100))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('[{"file_path": "a.jpg", "captions": ["caf\xe9"]}]'.encode("latin-1"), "byte 41 is 0xe9 (record 1)"),
        ("[]".encode("utf-16"), "UTF-16 text"),
        ("[]".encode("utf-32"), "UTF-32 text"),
    ],
)
def test_other_encodings_are_refused_with_the_byte(raw, said, tmp_path):
    folder = tmp_path / "SYNTH-PEDES"
    folder.mkdir()
    (folder / "synthpedes_dataset.json").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        open_dataset("synth-pedes", tmp_path)
    assert said in caught.value.message and "UTF-8" in caught.value.hint


def test_a_byte_order_mark_of_utf_8_is_understood(tmp_path):
    text = "\ufeff" + json.dumps(SHAPES["synth-pedes"])
    assert len(read("synth-pedes", tmp_path, text)) == 2


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "C:\\a.jpg", "a\0.jpg", "", 5])
def test_paths_that_lead_out_of_the_folder_are_refused(path, tmp_path):
    record = {"id": 1, "file_path": path, "captions": ["a"]}
    assert "record 2" in refused("synth-pedes", tmp_path, [SHAPES["synth-pedes"][0], record])


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"id": 1, "captions": ["a"]}, "record 1 names no image"),
        ({"id": 1, "file_path": "a.jpg"}, "record 1 has no captions"),
        ({"id": 1, "file_path": "a.jpg", "captions": 5}, "record 1 has captions 5"),
        ({"id": [], "file_path": "a.jpg", "captions": ["a"]}, "record 1 has person []"),
        ({"id": 1, "file_path": "a.jpg", "captions": ["a"], "split": "dev"}, "record 1 has split 'dev'"),
        (5, "record 1 is not an object but 5"),
    ],
)
def test_records_that_do_not_fit_are_named(record, said, tmp_path):
    assert said in refused("synth-pedes", tmp_path, [record])


def test_an_own_folder_with_such_file_names_is_not_taken_for_a_pretraining_set(tmp_path):
    save_image(tmp_path / "mine" / "imgs" / "a.jpg")
    path = write(tmp_path / "mine" / "captions.jsonl", json.dumps({"image": "a.jpg", "caption": "a man", "person": 3}))
    for name in (str(path.parent), str(path)):
        dataset = open_dataset(name, tmp_path)
        assert dataset.name == "mine" and dataset.images[0].person == 3


# Parquet ----------------------------------------------------------------------------------------


def parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(columns), path)
    return path


WEB = {"image": [b"1", b"2"], "image_path": ["a.jpg", "b.jpg"], "caption1": ["a man", "a boy"], "caption2": ["x", None]}


def test_parquet_is_read_by_its_columns(tmp_path):
    parquet(tmp_path / "WebPerson" / "data" / "train-0.parquet", **WEB)
    dataset = open_dataset("webperson", tmp_path)
    assert shown(dataset) == [
        ("a.jpg", "a.jpg", "train", ["a man", "x"]),
        ("b.jpg", "b.jpg", "train", ["a boy"]),
    ]


def test_own_parquet_may_state_persons_and_splits(tmp_path):
    path = parquet(
        tmp_path / "mine" / "x.parquet",
        image=["a.jpg", "b.jpg"],
        caption=["m", "w"],
        person=[3, 4],
        split=["train", "val"],
    )
    assert shown(open_dataset(str(path), tmp_path)) == [
        ("a.jpg", 3, "train", ["m"]),
        ("b.jpg", 4, "val", ["w"]),
    ]


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (("image_path",), "no column of image paths (it has image, caption1, caption2)"),
        (("caption1", "caption2"), "no column of captions (it has image, image_path)"),
    ],
)
def test_parquet_without_the_columns_is_refused_by_their_names(without, said, tmp_path):
    parquet(tmp_path / "WebPerson" / "0.parquet", **{name: WEB[name] for name in WEB if name not in without})
    with pytest.raises(DataError, match=re.escape(said)):
        open_dataset("webperson", tmp_path)


def test_a_parquet_file_that_breaks_off_is_named_and_the_others_are_used(tmp_path, caplog):
    whole = parquet(tmp_path / "WebPerson" / "0.parquet", **WEB)
    raw = whole.read_bytes()
    broken = whole.with_name("1.parquet")
    broken.write_bytes(raw[:300])
    assert len(open_dataset("webperson", tmp_path).images) == 2
    assert "1.parquet breaks off at byte 300" in caplog.text
    whole.unlink()
    with pytest.raises(DataError, match="breaks off at byte 300"):
        open_dataset("webperson", tmp_path)
    for damaged, said in ((b"<html>", "is not a Parquet file"), (raw[:200] + bytes(40) + raw[240:], "is damaged")):
        broken.write_bytes(damaged)
        with pytest.raises(DataError, match=said):
            open_dataset("webperson", tmp_path)


def test_without_pyarrow_one_line_names_the_extra(tmp_path, monkeypatch):
    parquet(tmp_path / "WebPerson" / "0.parquet", **WEB)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as caught:
        open_dataset("webperson", tmp_path)
    assert caught.value.message == "reading 0.parquet needs pyarrow, which is not installed."
    assert caught.value.hint == "Type: pip install 'tbps[parquet]'"
