"""The one way out: what becomes of characters that a stream lacks, of hostile names, of streams that fail."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.cli import output, render
from tbps_cli.errors import DataError, FilterError, RecipeError
from tbps_cli.escape import exact_bytes, json_text, printable
from tbps_cli.filtering.parse import parse


def write(monkeypatch, encoding: str, text: str) -> bytes:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors="strict"))
    output.stdout.write(text)
    output.stdout.flush()
    return raw.getvalue()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "y n - +/- -> \\xfc \\u4e2d \\xff \\ud83d"),
        ("cp1252", "y n · ± -> ü \\u4e2d \\xff \\ud83d"),
        ("gbk", "y n · ± → ü 中 \\xff \\ud83d"),
        ("utf-8", "✓ ✗ · ± → ü 中 \\xff \\ud83d"),
    ],
)
def test_a_character_that_the_encoding_lacks_is_escaped_and_our_own_signs_become_ascii(monkeypatch, encoding, shown):
    assert write(monkeypatch, encoding, "✓ ✗ · ± → ü 中 \udcff \ud83d").decode(encoding) == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-8"])
def test_a_document_holds_every_name_whatever_the_encoding(monkeypatch, encoding):
    names = ["ü中·", "no\u00a0break", "\u200d\u202f\u3000", "byte \udcff", "half \ud83d", "\x1b[2J\u009b", "a\u2028b"]
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors="strict"))
    output.document(names)
    output.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == names
    assert all(printable(line) == line for line in text.splitlines())


@given(st.text(st.characters(codec=None)))
def test_printable_text_is_one_line_that_every_terminal_can_be_sent(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1 and shown.encode("utf-8") is not None and "\x1b" not in shown


@given(st.text())
def test_every_text_is_read_back_from_a_document(text):
    assert json.loads(json_text([text])) == [text]


def test_a_number_that_is_none_is_null_in_a_document():
    assert json.loads(json_text({"a": [1.5, float("nan")], "b": (float("inf"),)})) == {"a": [1.5, None], "b": [None]}


def test_ordinary_text_is_shown_as_it_is():
    ordinary = "Snímek v\u00a013 写真\u3000一 \U0001f468\u200d\U0001f469 soft\u00adhyphen 3.45\u202fPM"
    assert printable(ordinary) == ordinary


def test_bytes_of_names_leave_as_they_came_and_half_characters_do_not():
    assert exact_bytes("caf\udce9 ü \ud83d") == b"caf\xe9 \xc3\xbc \xef\xbf\xbd"


def test_a_name_cannot_fake_a_message(capsys):
    render.error(DataError("a\nError: all files are lost.png: no image.", "See \x1b[2Jb"))
    render.note("one\rtwo")
    assert capsys.readouterr().err == (
        "Error: a\\nError: all files are lost.png: no image.\nHint: See \\x1b[2Jb\none\\rtwo\n"
    )


def test_a_mistake_in_a_filter_is_shown_with_a_caret_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FilterError) as caught:
        parse('path like "写真/*" and camera == c1')
    render.error(caught.value)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3] == '  path like "写真/*" and camera == c1'
    assert lines[-2] == "  " + " " * 33 + "^", lines
    assert lines[-1].startswith("Hint: ")


@pytest.mark.parametrize("told", [render.note, lambda text: render.error(DataError(text, text))])
def test_nothing_that_is_told_has_the_password_of_an_address(told, capsys: pytest.CaptureFixture[str]) -> None:
    told("there is nothing in postgresql:/user:secret@host/db.")
    said = capsys.readouterr().err
    assert "postgresql:/user@host/db" in said and "secret" not in said


def test_the_problems_of_a_recipe_stand_one_a_line_and_indented(capsys):
    render.error(RecipeError("2 problems:\n  a is wrong.\nHint: b is wrong."))
    assert capsys.readouterr().err == "Error: 2 problems:\n  a is wrong.\n  Hint: b is wrong.\n"


def test_what_a_program_reads_is_refused_rather_than_changed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "cp1252", errors="strict"))
    with pytest.raises(output.OutputError, match=r"takes cp1252, which has no \\u4e2d"):
        output.stdout.write_exactly("file\n中.png\n")


# Streams that fail ----------------------------------------------------------------------------


def tbps(words: str, redirect: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with a redirection of the shell."""
    return subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m tbps_cli {words} {redirect}'],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


FULL = "Error: standard output cannot be written (No space left on device).\n"
CLOSED = "Error: standard output is closed, so the results cannot be printed.\n"


@pytest.mark.parametrize("words", ["--help", "--version", "cache --json", "cache --help"])
@pytest.mark.parametrize(
    ("redirect", "message"), [(">/dev/full", FULL), (">&-", CLOSED), ("| true", ""), (">&- 2>&-", "")]
)
def test_a_stdout_that_cannot_be_written_is_one_line_and_one_that_nobody_reads_is_none(words, redirect, message):
    done = tbps(words, redirect)
    assert done.stderr == message and done.stdout == ""
    assert done.returncode == (0 if redirect == "| true" else 1)


def test_a_stderr_that_cannot_be_written_does_not_change_the_status():
    for redirect in ("2>/dev/full", "2>&-"):
        assert tbps("recipse", redirect).returncode == 2
        assert json.loads(tbps("runs nowhere --json", redirect).stdout) == []


def test_a_terminal_of_no_columns_still_shows_everything():
    done = tbps("recipse", "", COLUMNS="0", LINES="0", FORCE_COLOR="1")
    assert "there is no command" in done.stderr
