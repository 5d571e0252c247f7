"""The file for the library `tokenizers` gives our ids, and our merges come back from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tbps_cli.errors import TbpsError
from tbps_cli.text import bpe
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.tokenizer_file import merges_in

CAPTIONS = [
    "a man in a white shirt and black trousers, carrying a red backpack.",
    "She's 25: wears a knee-length DRESS;  \t and\nhigh heels",
    "word " * 100,
    "",
    "naïve café 你好 🙂 100%",
    "jekyll and hyde",
]


@pytest.mark.parametrize(
    "ours", [Bpe(), Bpe(77, mask=True), Bpe(20), Bpe(77, kept_free=4)], ids=["plain", "mask", "20", "kept"]
)
def test_the_library_gives_our_ids(ours: Bpe, tmp_path: Path) -> None:
    ours.write_file(tmp_path / "t.json")
    theirs = Tokenizer.from_file(str(tmp_path / "t.json"))
    theirs.encode_special_tokens = True
    for caption in [*CAPTIONS, "a <|endoftext|> <|mask|> <end_of_text> man"]:
        assert theirs.encode(caption).ids == ours([caption], query=True)[0].tolist(), caption


def test_where_open_clip_is_missing_the_merges_come_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Bpe(77, mask=True)(CAPTIONS)
    Bpe(77, mask=True).write_file(tmp_path / "t.json")
    monkeypatch.setattr(bpe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TbpsError, match="open_clip_torch"):
        bpe._merge_lines()
    assert (Bpe(77, mask=True, file=tmp_path / "t.json")(CAPTIONS) == expected).all()


@pytest.mark.parametrize("damage", ["{", '{"model": {"merges": [["a", "b"]]}}', '{"model": []}', "swapped"])
def test_a_file_that_was_altered_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    Bpe().write_file(path)
    if damage == "swapped":
        made = json.loads(path.read_text())
        made["model"]["merges"][0], made["model"]["merges"][1] = made["model"]["merges"][1::-1]
        damage = json.dumps(made)
    path.write_text(damage)
    with pytest.raises(TbpsError, match=r"cannot be read|does not hold"):
        merges_in(path)
