from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import oracles

from tbps_cli.errors import TbpsError
from tbps_cli.text import bpe
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.merging import FIRST, NEVER, Merges
from tbps_cli.text.tokenizer import from_description

PLAIN = Bpe()
MASKED = Bpe(mask=True)
PIECES = st.sampled_from(
    [
        "a man",
        "T-shirt",
        "<start_of_text>",
        "<END_OF_TEXT>",
        "<|endoftext|>",
        "jekyll",
        "he'll",
        "'ſ",
        "cafÃ©",
        "“quoted”",
        "&amp;amp;",
        "&lt;b&gt;",
        "&#28;",
        "naïve",
        "ΟΔΟΣ",
        "İstanbul",
        "中文",
        "👕",
        "½",
        "aaaaaaaaaaaa",
        "!!!???",
        " ",
        "\t\n",
        "\x1b[1m",
        "\r\n",
        "\u3000",
        "…",
    ]
)


@pytest.fixture(scope="module")
def reference() -> Any:
    return oracles.open_clip_tokenizer().SimpleTokenizer()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join)))
@example("a\x1cb\x85c\x7f")
def test_the_plain_variant_gives_open_clips_ids_on_any_text(reference: Any, text: str) -> None:
    assert PLAIN.encode(text) == reference.encode(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abcdeilnorst", max_size=400))
def test_long_words_are_merged_as_open_clip_merges_them(reference: Any, text: str) -> None:
    assert PLAIN.encode(text) == reference.encode(text)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=40).map(" ".join), min_size=1, max_size=4), st.integers(2, 90))
def test_rows_equal_open_clips_rows_at_any_context(reference: Any, texts: list[str], context: int) -> None:
    assert np.array_equal(Bpe(context)(texts), reference(texts, context).numpy())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=8).map("".join)), max_size=12))
def test_words_merged_together_have_the_ids_that_each_has_alone(texts: list[str]) -> None:
    together, alone = Bpe(mask=True), Bpe(mask=True)
    assert np.array_equal(together(texts), np.concatenate([np.zeros((0, 77), np.int64), *(alone([t]) for t in texts)]))
    assert np.array_equal(together(texts, query=True), Bpe(mask=True)(texts, query=True))


def test_the_table_of_merges_holds_every_pair_and_no_other() -> None:
    lines = bpe._merge_lines()
    merges = Merges(lines)
    ids = np.arange(bpe.MERGES) + FIRST
    words = ["".join(line.split()) for line in lines]
    whole = [word.removesuffix("</w>") for word in words if word.endswith("</w>") and word.isascii()]
    found, begins = merges.ids(whole)
    expected = [number for number, word in zip(ids, words, strict=True) if word.endswith("</w>") and word.isascii()]
    assert (np.diff(begins) == 1).mean() > 0.99  # a few words are never reached from their bytes
    alone = np.diff(begins) == 1
    assert np.array_equal(found[begins[:-1][alone]], np.array(expected)[alone])
    noise = np.random.default_rng(0).integers(0, 49_000, (2, 100_000), dtype=np.int32)
    assert (merges.rank(*noise) == NEVER).mean() > 0.99
    assert merges.ids([])[1].tolist() == [0]


def test_a_cache_shared_by_threads_never_loses_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "CACHED_CHUNKS", 5)
    shared = Bpe()
    texts = [f"a man {number} in red number {number % 7}" for number in range(60)]
    expected = PLAIN(texts).tolist()
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda text: shared([text])[0].tolist(), texts * 5))
    assert rows == expected * 5


def test_the_masked_variant_gives_the_published_ids(irra_tokenizer: Any) -> None:
    wrong = [case["text"] for case in irra_tokenizer["cases"] if MASKED.encode(case["text"]) != case["ids"]]
    assert wrong == []


def test_the_masked_variant_gives_the_published_rows(irra_tokenizer: Any) -> None:
    cases = irra_tokenizer["cases"]
    assert MASKED([case["text"] for case in cases]).tolist() == [case["tokens77"] for case in cases]
    facts = [irra_tokenizer[key] for key in ("vocab_size", "mask", "sot", "eot")]
    assert facts == [MASKED.vocabulary, MASKED.mask_id, MASKED.start, MASKED.end]


def test_tbps_clips_captions_become_its_rows(tbps_clip_text: Any) -> None:
    for case in tbps_clip_text["tokenize"]:
        row = Bpe(case["context_length"], mask=True)([case["text"]])[0].tolist()
        assert row == case["ids"], case["text"]


def test_cleaning_inside_the_tokenizer_equals_cleaning_before_it(tbps_clip_text: Any) -> None:
    cleaned = Bpe(77, mask=True, clean_words=5)
    cases = [case for case in tbps_clip_text["pre_caption"] if case["max_words"] == 5]
    assert cases
    for case in cases:
        assert cleaned.encode(case["input"]) == MASKED.encode(case["output"])


def test_jekyll_takes_two_ids_where_the_mask_took_its_own() -> None:
    assert MASKED.encode("jekyll") == [43893, 865]
    assert PLAIN.encode("jekyll") == [MASKED.mask_id]
    assert (MASKED.first_special, PLAIN.first_special) == (49405, 49406)


def test_a_query_cannot_hold_special_tokens() -> None:
    text = "a man <|endoftext|> in <|MASK|> red <|startoftext|>"
    specials = {MASKED.start, MASKED.mask_id, MASKED.end}
    assert specials < set(MASKED.encode(text))
    assert specials.isdisjoint(MASKED.encode(text, query=True))
    row = MASKED([text], query=True)[0].tolist()
    assert row.count(MASKED.end) == 1 and row[0] == MASKED.start and row.count(MASKED.start) == 1


def test_a_query_without_special_tokens_has_the_ids_of_a_caption(irra_tokenizer: Any) -> None:
    texts = [case["text"] for case in irra_tokenizer["cases"] if "<|" not in case["text"]]
    assert np.array_equal(MASKED(texts), MASKED(texts, query=True))


def test_a_long_caption_is_counted_as_cut_and_keeps_its_end() -> None:
    fits, long = "word " * 75, "word " * 76
    rows = PLAIN([fits, long, ""])
    assert PLAIN.cut_count([fits, long, ""]) == 1
    assert rows[0].tolist() == rows[1].tolist() and rows[1, 76] == PLAIN.end
    assert rows[2].tolist() == [PLAIN.start, PLAIN.end] + [0] * 75
    assert PLAIN([]).shape == (0, 77)


def test_the_cache_stays_bounded_and_never_changes_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "CACHED_CHUNKS", 3)
    small = Bpe()
    words = [*["red", "green", "blue", "grey", "red", "pink", "white", "red-green", "black", "blue"], "x" * 200]
    for word in words * 2:
        first = small.encode(word)
        first.append(-1)  # a caller's own list: the cache must not share it
        assert small.encode(word) == PLAIN.encode(word)
        assert len(small._cache[False]) <= 3
    assert "x" * 200 not in small._cache[False]


@pytest.mark.parametrize("tokenizer", [Bpe(), Bpe(32, mask=True, clean_words=77)])
def test_a_description_and_a_pickle_build_the_same_tokenizer(tokenizer: Bpe) -> None:
    text = "A man; in a (red) coat. <|mask|>"
    for copy in (from_description(tokenizer.describe()), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.describe() == tokenizer.describe()
        assert np.array_equal(copy([text]), tokenizer([text]))
    assert len(pickle.dumps(tokenizer)) < 500


@pytest.mark.parametrize(
    "damage", [{"kind": "wordpiece"}, {"context": "77"}, {"context": 1}, {"mask": 1}, {"merges": "0"}, {"end": 5}]
)
def test_a_damaged_description_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(TbpsError, match="tokenizer"):
        from_description(PLAIN.describe() | damage)


def test_a_context_without_room_and_a_missing_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="context must be at least 2"):
        Bpe(1)
    with pytest.raises(ValueError, match="no mask"):
        print(PLAIN.mask_id)


def test_another_vocabulary_is_refused_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / bpe.MERGES_FILE
    monkeypatch.setattr(bpe, "_merges_path", lambda: path)
    with pytest.raises(TbpsError, match="cannot be read"):
        bpe._merge_lines()
    path.write_bytes(gzip.compress(b"#version\na b\n"))
    with pytest.raises(TbpsError, match="SHA-256"):
        bpe._merge_lines()
    path.write_bytes(b"\x1f\x8bnot gzip")
    with pytest.raises(TbpsError, match="cannot be read"):
        bpe._merge_lines()


def test_a_missing_vocabulary_package_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TbpsError, match="not installed"):
        bpe._merges_path()


def test_tokenising_imports_neither_torch_nor_open_clip() -> None:
    code = (
        "import sys; from tbps_cli.text.bpe import Bpe; Bpe()(['a man']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'open_clip')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
