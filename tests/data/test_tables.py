"""Tables that people write: read right, or refused with the line and the header, never cut, merged or shifted."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.data.layouts import records, tables
from tbps_cli.data.layouts.records import as_person, decode
from tbps_cli.errors import DataError

FIELDS = {
    "image": ("image", "path"),
    "caption": ("caption", "captions", "text"),
    "person": ("person", "pid", "id"),
    "camera": ("camera",),
}


def read(text, needed=("caption",)):
    return list(tables.csv_rows(text, FIELDS, "x.csv", sentence="caption", required=needed))


def refused(text):
    with pytest.raises(DataError) as caught:
        read(text)
    assert "\n" not in caught.value.message
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "text",
    [
        "caption,person\na man,7\na woman,8\n",
        "caption;person\r\na man;7\r\na woman;8\r\n",
        "person\tcaption\n7\ta man\n8\ta woman\n",
        "caption, person\na man, 7\na woman, 8\n",
        '"caption","person"\n"a man","7"\n"a woman","8"\n',
        "Caption,PERSON\n\na man,7\n,\na woman,8\n\n",
        "text,id\ra man,7\ra woman,8",
        "note,with comma;caption;pid\nx;a man;7\n;a woman;8\n",
        ",caption,person\n0,a man,7\n1,a woman,8\n",
    ],
)
def test_tables_as_spreadsheets_write_them_are_read_alike(text):
    assert [row for _, row in read(text)] == [
        {"caption": "a man", "person": "7"},
        {"caption": "a woman", "person": "8"},
    ]


def test_places_are_the_lines_that_rows_begin_in():
    text = 'caption,person\n"a man\nwho runs",7\n\na woman,8\n'
    assert [place for place, _ in read(text)] == ["line 2", "line 5"]


def test_in_a_table_of_one_column_commas_and_semicolons_belong_to_the_sentence():
    rows = read("caption\na man in a red coat, carrying a bag; tall\n")
    assert rows == [("line 2", {"caption": "a man in a red coat, carrying a bag; tall"})]


def test_quoted_sentences_may_hold_delimiters_quotes_and_line_breaks():
    text = 'image,caption\na.png,"tall, with a ""cool"" hat"\nb.png,"red\nhat"\nb.png,5" heels\n'
    assert [row["caption"] for _, row in read(text)] == [
        'tall, with a "cool" hat',
        "red\nhat",
        '5" heels',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # a comma without quotes
        (
            "caption,person\na man in a red coat, with a bag,17\n",
            "line 2 has 3 fields where the header has 2 (caption, per",
        ),
        ("caption,person\na man in a red coat, with a bag\n", "line 2 has ' with a bag' as 'person'"),
        ("caption,person\na man\n", "line 2 has 1 field where the header has 2"),
        # a stray quote
        (
            'caption,person\n"a man with a bag,17\na woman,18\na boy,19\n',
            "line 2 opens a quote that is not closed: '\"a man",
        ),
        ('caption,person\na man,1\n"a woman,2\na boy,3\na "tall" girl,4\n', "line 3 is not CSV"),
        (
            'caption,person\n"a man,1\na woman",2\n',
            "line 2 begins a value of several lines that looks like several rows: 'a man,1\\na woman'",
        ),
        ('caption,person\n"a man,1\n' + "a woman in red,2\n" * 9_000, "line 2 opens a quote that is not closed"),
        ('caption\n"a man\na woman"\n', "line 2 begins a value of several lines"),
        # headers
        ("caption,caption\na man,a tall man\n", "line 1 has 'caption' twice: caption, caption"),
        ("caption,Person,person \na,1,2\n", "line 1 has 'person' twice"),
        ("caption,persn\na man,7\n", "line 1 has 'persn', which is not known: caption, persn. Did you mean person?"),
        ("a man in red,7\na woman,8\n", "but caption is missing; it has a man in red, 7"),
        ("", "but caption is missing; it has nothing"),
        ("person\n7\n", "but caption is missing; it has person. It may be called caption, captions, text"),
        # a list in a cell
        ("captions,person\n\"['a man', 'a tall man']\",7\n", "line 2 holds a list in the column 'captions'"),
        ('captions,person\n"[""a man"", ""tall""]",7\n', "line 2 holds a list in the column 'captions'"),
    ],
)
def test_what_cannot_be_read_right_is_refused_with_its_line(text, said):
    assert said in refused(text)


def test_a_column_of_another_meaning_is_not_taken_for_a_slip():
    assert read("idx,caption,texts,camera_height\n1,a man,x,3\n") == [("line 2", {"caption": "a man"})]


def test_the_first_of_several_names_for_one_field_counts():
    assert read("id,caption,person\n1,a man,7\n") == [("line 2", {"caption": "a man", "person": "7"})]


def test_lines_end_where_files_end_them_and_nowhere_else():
    assert tables.split_lines("a\u2028b\x0cc\x85d\x1ee\r\nf\rg\nh") == ["a\u2028b\x0cc\x85d\x1ee", "f", "g", "h"]


@pytest.mark.parametrize(
    ("spelled", "person"),
    [(-1, -1), ("-1", -1), ("+5", 5), (17.0, 17), ("17.0", 17), (" 017 ", 17), ("17.5", "17.5"), ("ann", "ann")],
)
def test_a_person_is_the_same_however_it_is_spelled(spelled, person):
    assert as_person(spelled, 1, "x") == person


@pytest.mark.parametrize("value", ["[1, 2]", ' ["ann"]', '{"id": 1}'])
def test_a_list_in_a_cell_names_several_persons_and_is_refused(value):
    with pytest.raises(DataError, match="line 3 names several persons"):
        as_person(value, "line 3", "x")
    assert as_person("[unknown]", "line 3", "x") == "[unknown]"


@pytest.mark.parametrize("value", [None, True, [], "", float("nan")])
def test_what_names_no_person_is_refused(value):
    with pytest.raises(DataError, match="line 3 has person"):
        as_person(value, "line 3", "x")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a man".encode("utf-16"), "x is UTF-16 text"),
        ("a man".encode("utf-32"), "x is UTF-32 text"),
        ("a man".encode("utf-16-le"), "line 1 has a zero byte"),
        ("a man\na caf\xe9\n".encode("latin-1"), "line 2 has the byte 0xe9"),
    ],
)
def test_another_encoding_is_named(raw, said):
    with pytest.raises(DataError, match=said):
        decode(raw, "x")


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda word: word.strip())


@given(st.lists(st.tuples(WORDS, st.integers(0, 99)), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_comes_back_or_is_refused(rows, delimiter):
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([("caption", "person"), *rows])
    try:
        found = [(row["caption"], int(row["person"])) for _, row in read(text.getvalue())]
    except DataError:
        assert any("\n" in word or "\r" in word or word.strip().startswith("[") for word, _ in rows)
    else:
        assert found == rows


@given(st.text(max_size=80) | st.from_regex(r"(caption|person|[,;\"\n\r\t ]|a|7)*"))
def test_any_text_is_a_table_or_one_line(text):
    try:
        read(text)
    except DataError as error:
        assert "\n" not in error.message and error.hint


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), st.lists, max_leaves=5))
def test_any_json_list_gives_its_entries(value):
    from pathlib import Path

    given_list = [value]
    assert list(tables.entries(Path("x.json"), json.dumps(given_list), "x.json")) == [("entry 1", value)]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no such device here")
def test_a_device_is_no_annotation_and_no_file_of_queries():
    with pytest.raises(DataError, match="/dev/zero is a device, not a file"):
        records.read_text(Path("/dev/zero"))
