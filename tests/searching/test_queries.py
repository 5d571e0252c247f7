"""Queries from files, and answers as other programs read them."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tbps_cli.errors import DataError, TbpsError
from tbps_cli.escape import json_text
from tbps_cli.features.rows import Rows
from tbps_cli.searching import document
from tbps_cli.searching.hits import copy_hits, page
from tbps_cli.searching.index import index
from tbps_cli.searching.queries import read_queries
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import answers

FILES = {
    "q.txt": "a man in red\n\n  a woman in blue \n",
    "q.json": '["a man in red", {"caption": "a woman in blue", "id": 7}]',
    "q.jsonl": '{"query": "a man in red"}\n\n{"text": "a woman in blue", "person": 7}\n',
    "q.csv": "query,person\na man in red,\na woman in blue,7\n,\n",
    "q.tsv": "person\tsentence\n\ta man in red\n7\ta woman in blue\n",
    "q.ndjson": '{"query": "a man in red", "person": null}\r\n{"caption": "a woman in blue", "pid": "+7"}\r\n',
    "semicolons.csv": "query; person\r\na man in red;\r\na woman in blue;7.0\r\n",
}


@pytest.mark.parametrize("name", FILES)
def test_queries_are_read_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    queries = read_queries(tmp_path / name)
    assert [query.text for query in queries] == ["a man in red", "a woman in blue"]
    assert queries[0].persons is None
    assert queries[1].persons == (None if name == "q.txt" else {7})


def test_standard_input_holds_a_query_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("red\nblüe\n".encode()), "ascii"))
    assert [query.text for query in read_queries(Path("-"))] == ["red", "blüe"]


def test_closed_standard_input_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        read_queries(Path("-"))


def test_odd_blanks_and_line_separators_are_part_of_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes("a man\u2028in red\n\xa0\n\f\na\xa0woman\f in blue\n".encode())
    assert [query.text for query in read_queries(tmp_path / "q.txt")] == ["a man\u2028in red", "a\xa0woman\f in blue"]
    (tmp_path / "q.jsonl").write_bytes('{"query": "a man\u2028in red"}\n'.encode())
    assert read_queries(tmp_path / "q.jsonl")[0].text == "a man\u2028in red"


def test_half_a_character_becomes_the_sign_for_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('["a man \\ud83d in red"]')
    assert read_queries(tmp_path / "q.json")[0].text == "a man \ufffd in red"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.txt", "\n \n", "has no query in it"),
        ("q.json", "{", "q.json is not JSON: Expecting property name enclosed in double quotes at line 1"),
        ("q.json", '{"query": "a"}', "is not a list"),
        ("q.json", "[3]", "entry 1 is neither"),
        ("q.json", '[{"query": 3}]', "entry 1 has a query that is not a sentence (3)"),
        ("q.json", '[{"captions": ["a", "b"]}]', "entry 1 has a query that is not a sentence (['a', 'b'])"),
        ("q.json", '[{"person": 3}]', "entry 1 has no query"),
        ("q.json", '[{"query": "a", "persn": 3}]', "entry 1 has 'persn', which is not known"),
        ("q.json", '[{"query": "a", "person": [3]}]', "entry 1 has person [3]"),
        ("q.jsonl", '{"query": "a"}\nno\n', "q.jsonl: line 2 is not JSON: Expecting value at column 1"),
        ("q.csv", "a,b\n1,2\n", "line 1 should name the columns, but query is missing; it has a, b"),
        ("q.csv", "query,person\na man, tall,7\n", "line 2 has 3 fields where the header has 2"),
        ("q.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_data_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_queries(tmp_path / name)
    assert message in caught.value.message


def test_a_file_that_is_missing_or_no_text_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "folder").mkdir()
    for name, said in (("gone.txt", "does not exist"), ("q.txt", "is UTF-16 text"), ("folder", "cannot be read: Is a")):
        with pytest.raises(DataError, match=rf"--queries .*{said}"):
            read_queries(tmp_path / name)


# Answers --------------------------------------------------------------------------------------


@pytest.fixture
def asked(model, photos: Path):
    gallery = index(model, photos)
    gallery = replace(gallery, rows=Rows.of(replace(row, person=5) for row in gallery.rows))
    return gallery, answers(model, gallery, [Query("red"), Query("blue, again", persons=frozenset({3}))], top=2)


def test_hits_without_a_known_person_are_neither_right_nor_wrong(model, photos: Path) -> None:
    gallery = index(model, photos)
    rows = Rows.of(replace(row, person={"red.png": 3, "green.png": 4}.get(row.path)) for row in gallery.rows)
    asked = [Query("red", persons=frozenset({3}))]
    some = answers(model, replace(gallery, rows=rows), asked)[0]
    assert {hit.path: some.is_right(hit) for hit in some.hits} == {
        "red.png": True,
        "green.png": False,
        "below/blue.jpg": None,
    }
    assert "person 3: 1 of the first 2 are right" in page([some], gallery, "run")
    none = answers(model, gallery, asked)[0]
    assert all("right" not in hit for hit in document.document(none, gallery, "")["hits"])
    text = page([none], gallery, "run")
    assert 'class="no"' not in text and "are right" not in text


def test_the_document_has_the_agreed_keys(asked) -> None:
    gallery, (answer, other) = asked
    made = json.loads(json.dumps(document.document(answer, gallery, "runs/x-0001")))
    assert {key: made[key] for key in ("query", "size", "run")} == {"query": "red", "size": 3, "run": "runs/x-0001"}
    assert made["gallery"] == gallery.name
    hit = made["hits"][0]
    assert (hit["rank"], hit["path"], hit["person"]) == (1, "red.png", 5)
    assert Path(hit["file"]).is_file() and 0.9 < hit["score"] <= 1 and "right" not in hit
    assert [hit["right"] for hit in document.document(other, gallery, "")["hits"]] == [False, False]


def test_the_table_is_csv_with_a_heading(asked) -> None:
    rows = list(csv.DictReader(io.StringIO(document.table(asked[1]))))
    assert [row["query"] for row in rows] == ["red", "red", "blue, again", "blue, again"]
    assert (rows[0]["rank"], rows[0]["path"]) == ("1", "red.png")


def test_paths_can_be_opened_and_stand_once(asked) -> None:
    found = document.paths(asked[1], b"\0").split(b"\0")
    assert found.pop() == b""
    assert len(found) == len(set(found)) and all(Path(os.fsdecode(path)).is_file() for path in found)


def test_strange_file_names_are_printed_harmlessly_but_stay_paths(model, photos: Path) -> None:
    strange = os.fsdecode(b"\x1b[31mred\xff\n.png")
    (photos / "red.png").rename(photos / strange)
    gallery = index(model, photos)
    found = answers(model, gallery, [Query("red")], top=1)
    made = json_text(document.document(found[0], gallery, ""))
    assert made.encode("utf-8") and "\x1b" not in made
    assert Path(json.loads(made)["hits"][0]["file"]).is_file()
    assert os.fsencode(strange) in document.paths(found)
    assert b"red" in page(found, gallery, "run").encode("utf-8", "replace")


def test_the_page_is_self_contained_and_escapes_what_it_shows(model, photos: Path) -> None:
    gallery = index(model, photos)
    gallery = replace(gallery, rows=Rows.of(replace(row, person=5) for row in gallery.rows))
    found = answers(model, gallery, [Query("red <script>alert(1)</script>", persons=frozenset({1}))], top=2)
    text = page(found, gallery, "run")
    assert text.count("<script") == 1 and "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert text.count("data:image/jpeg;base64") == 2 and "http:" not in text and "https:" not in text
    assert 'class="no"' in text and 'class="yes"' not in text


def test_copies_are_named_by_rank(asked, tmp_path: Path) -> None:
    assert copy_hits(asked[1][:1], asked[0], tmp_path / "one") == 2
    assert sorted(path.name for path in (tmp_path / "one").iterdir())[0] == "001-red.png"
    assert copy_hits(asked[1], asked[0], tmp_path / "two") == 4
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["001", "002"]


def test_a_copy_of_a_very_long_name_keeps_its_ending(asked, tmp_path: Path, photos: Path) -> None:
    long = "x" * 250 + ".png"
    (photos / "red.png").rename(photos / long)
    first = asked[1][0]
    hit = replace(first.hits[0], path=long, file=photos / long)
    assert copy_hits([replace(first, hits=[hit])], asked[0], tmp_path / "new") == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["001-" + "x" * 247 + ".png"]


def test_a_copy_of_what_is_gone_is_one_line(asked, tmp_path: Path, photos: Path) -> None:
    (photos / "red.png").unlink()
    with pytest.raises(TbpsError, match=r"red\.png cannot be copied: it is not there any more"):
        copy_hits(asked[1], asked[0], tmp_path / "new")
