"""Queries from files, and answers as other programs read them."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from tbps_cli.errors import DataError, TbpsError, UsageError
from tbps_cli.search import document
from tbps_cli.search.hits import check_copies, copy_hits, page
from tbps_cli.search.index import index
from tbps_cli.search.queries import read_queries
from tbps_cli.search.query import Query, answers

FILES = {
    "q.txt": "a man in red\n\n  a woman in blue \n",
    "q.json": '["a man in red", {"caption": "a woman in blue", "id": 7}]',
    "q.jsonl": '{"query": "a man in red"}\n\n{"text": "a woman in blue", "person": 7}\n',
    "q.csv": "query,person\na man in red,\na woman in blue,7\n,\n",
    "q.tsv": "person\tsentence\n\ta man in red\n7\ta woman in blue\n",
}


@pytest.mark.parametrize("name", FILES)
def test_queries_are_read_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    queries = read_queries(tmp_path / name)
    assert [query.text for query in queries] == ["a man in red", "a woman in blue"]
    assert queries[0].persons is None
    assert queries[1].persons == (None if name == "q.txt" else {7})


def test_standard_input_holds_a_query_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("red\nblue\n"))
    assert [query.text for query in read_queries(Path("-"))] == ["red", "blue"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.txt", "\n \n", "holds no query"),
        ("q.json", "{", "q.json:1: not JSON"),
        ("q.json", '{"query": "a"}', "is not a list"),
        ("q.json", "[3]", "entry 1 is neither"),
        ("q.json", '[{"query": 3}]', "entry 1 has no query"),
        ("q.jsonl", '{"query": "a"}\nno\n', "q.jsonl:2: not JSON"),
        ("q.csv", "a,b\n1,2\n", "entry 2 has no query"),
        ("q.json", "[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_data_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_queries(tmp_path / name)
    assert message in caught.value.message


def test_a_file_that_is_missing_or_no_text_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("gone.txt", "q.txt"):
        with pytest.raises(DataError, match="cannot be read"):
            read_queries(tmp_path / name)


# Answers --------------------------------------------------------------------------------------


@pytest.fixture
def asked(model, photos: Path):
    gallery = index(model, photos)
    return gallery, answers(model, gallery, [Query("red"), Query("blue, again", persons=frozenset({3}))], top=2)


def test_the_document_has_the_agreed_keys(asked) -> None:
    gallery, (answer, other) = asked
    made = json.loads(json.dumps(document.document(answer, gallery, "runs/x-0001")))
    assert {key: made[key] for key in ("query", "size", "run")} == {"query": "red", "size": 3, "run": "runs/x-0001"}
    assert made["gallery"] == gallery.name
    hit = made["hits"][0]
    assert (hit["rank"], hit["path"], hit["person"]) == (1, "red.png", None)
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
    made = json.dumps(document.document(found[0], gallery, ""), ensure_ascii=False)
    assert made.encode("utf-8") and "\x1b" not in made and "\\u001b" not in made
    assert os.fsencode(strange) in document.paths(found)
    assert b"red" in page(found, gallery, "run").encode("utf-8", "replace")


def test_the_page_is_self_contained_and_escapes_what_it_shows(model, photos: Path) -> None:
    gallery = index(model, photos)
    found = answers(model, gallery, [Query("red <script>alert(1)</script>", persons=frozenset({1}))], top=2)
    text = page(found, gallery, "run")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64") == 2 and "http" not in text
    assert 'class="no"' in text and 'class="yes"' not in text


def test_copies_are_named_by_rank(asked, tmp_path: Path) -> None:
    assert copy_hits(asked[1][:1], tmp_path / "one") == 2
    assert sorted(path.name for path in (tmp_path / "one").iterdir())[0] == "001-red.png"
    assert copy_hits(asked[1], tmp_path / "two") == 4
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["001", "002"]


def test_copies_go_to_a_new_folder_only(asked, tmp_path: Path, photos: Path) -> None:
    check_copies(tmp_path / "new")
    for taken in (photos, photos / "red.png"):
        with pytest.raises(UsageError, match="--copy-to"):
            check_copies(taken)
    (photos / "red.png").unlink()
    with pytest.raises(TbpsError, match="cannot be copied"):
        copy_hits(asked[1], tmp_path / "new")
