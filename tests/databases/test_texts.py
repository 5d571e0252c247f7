"""Any name of a file can be kept in a database, and comes back as it was."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tbps_cli.databases.texts import as_it_was, kept

names = st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))


@given(names | st.text(st.characters(exclude_categories=["Cs"])))
@example("\uefe9")
@example("caf\udce9.jpg")
def test_every_name_is_kept_as_valid_text_without_nul_and_comes_back(name: str) -> None:
    text = kept(name)
    assert "\0" not in text
    assert text.encode("utf-8").decode("utf-8") == text
    assert as_it_was(text) == name


@given(names, names)
def test_two_names_stay_two(one: str, other: str) -> None:
    assert (kept(one) == kept(other)) == (one == other)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert any("\uef00" <= letter <= "\uefff" for letter in text) or kept(text) == text
