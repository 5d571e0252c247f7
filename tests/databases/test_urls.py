"""URLs of databases: told from files, and never shown with a password."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.databases.opening import open_database
from tbps_cli.databases.urls import is_url, shown, shown_place, without_passwords
from tbps_cli.errors import UsageError


@pytest.mark.parametrize("place", ["postgresql://h/db", "postgres://h", "PostgreSQL://h/db", "milvus://h:19530"])
def test_a_place_of_a_database_is_known_by_its_scheme(place: str) -> None:
    assert is_url(place)


@pytest.mark.parametrize("place", ["photos", "postgresql", "postgresql:/x", "rtsp://cam/1", "http://h", "a/b://c", ""])
def test_files_and_streams_are_no_databases(place: str) -> None:
    assert not is_url(place)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://h/db", "postgresql://h/db"),
        ("postgresql://u:secret@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://:secret@h/db", "postgresql://h/db"),
        ("postgresql://u:se@cr/et@a:1,b:2/db", "postgresql://u@a:1,b:2/db"),
        ("postgresql://u:se?cret@h/db", "postgresql://u@h/db"),
        ("postgresql://h/db?user=u&password=secret&sslmode=require", "postgresql://h/db?user=u&sslmode=require"),
        ("postgresql://h/db?%70assword=secret", "postgresql://h/db"),
        ("postgresql://h/db?sslpassword=secret&connect_timeout=3", "postgresql://h/db?connect_timeout=3"),
        ("milvus://h:19530/people?token=root:secret", "milvus://h:19530/people"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=/run/postgresql"),
        ("postgresql://u:secret/db", "postgresql://u:.../db"),
        ("postgresql://[::1]:secret,h:5432/db", "postgresql://[::1]:...,h:5432/db"),
        ("postgresql://h/db&user=u&password=secret", "postgresql://h/db?user=u"),
        ("postgresql://h/db?passwort=secret&passfile=/p", "postgresql://h/db?passfile=/p"),
        ("postgresql://h/db?user=u;password=secret", "postgresql://h/db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, seen: str) -> None:
    assert shown(url) == seen


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=6), st.sampled_from(["", "?user=u"]))
def test_whatever_the_password_is_nothing_of_it_is_shown(password: str, behind: str) -> None:
    assert shown(f"postgresql://u:{password}@h/db{behind}") in ("postgresql://u@h/db" + behind, "postgresql://u@h/db")


def test_shards_of_two_kinds_or_given_twice_are_refused_without_their_password() -> None:
    with pytest.raises(UsageError, match="one kind"):
        open_database(["postgresql://a/db", "milvus://b"])
    with pytest.raises(UsageError, match="given twice") as caught:
        open_database(["postgresql://u:secret@a/db"] * 2)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ("postgressql://u:secret@h/db", "postgressql://u@h/db"),
        ("postgresql:/u:secret@h/db", "postgresql://u@h/db"),
        ("mysql+x://h/db?password=secret", "mysql+x://h/db"),
        (" postgresql://u:secret@h/db", " postgresql://u@h/db"),
        ("'postgresql://u:secret@h/db'", "'postgresql://u@h/db'"),
        ("URL=postgresql://u:secret@h/db", "URL=postgresql://u@h/db"),
        ("postgresql:u:secret@h/db", "postgresql://u@h/db"),
        ("host=h password=secret user=u", "host=h password=... user=u"),
        ("host=h password = 'se cr\\'et'", "host=h password=..."),
        ("photos/password=3.jpg", "photos/password=3.jpg"),
        ("C:/photos/a@b=c.jpg", "C:/photos/a@b=c.jpg"),
        ("people.h5", "people.h5"),
    ],
)
def test_a_mistyped_url_is_shown_without_its_password_too(place: str, seen: str) -> None:
    assert shown_place(place) == seen


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:secret/db",
        "postgresql://u:secret/x@h/db",
        "postgresql://u:a@secret@h/db",
        "postgresql://u:secret%ff@h/db",
        "postgresql://h:1,i:secret/db",
    ],
)
def test_a_url_whose_password_would_be_read_as_something_else_is_refused_without_it(url: str) -> None:
    with pytest.raises(UsageError, match="no URL of PostgreSQL") as caught:
        open_database(url)
    assert "secret" not in str(caught.value) + str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (
            "--ckpt postgresql:/u:secret@h/db: there is no such file.",
            "--ckpt postgresql:/u@h/db: there is no such file.",
        ),
        ("(postgresql://u:se@cret@h/db)", "(postgresql://u@h/db)"),
        ("postgresql://h/db?user=u&password=secret: no", "postgresql://h/db?user=u&password=... no"),
        ("postgresql:u:secret@h/db: there is none.", "postgresql:u@h/db: there is none."),
        ("at 10:30 c@d.jpg: http://h:80/page", "at 10:30 c@d.jpg: http://h:80/page"),
    ],
)
def test_whatever_is_told_has_no_password_of_an_address(text: str, seen: str) -> None:
    assert without_passwords(text) == seen
