from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.text.bpe import Bpe
from tbps_cli.text.word_changes import (
    augment_caption,
    augment_ids,
    clean_caption,
    delete_words,
    rewrite_captions,
    vary_ids,
)

MASK = FIRST_SPECIAL = 49405


class Replay(random.Random):
    """Python's generator, answering with recorded draws; each must be asked for by its own kind."""

    def __init__(self, draws: list[list[Any]]) -> None:
        super().__init__()
        self.draws = iter(draws)

    def _next(self, kind: str) -> Any:
        recorded, value = next(self.draws)
        assert recorded == kind
        return value

    def random(self) -> float:
        return self._next("random")

    def uniform(self, a: float, b: float) -> float:
        assert (a, b) == (0, 1)
        return self._next("uniform")

    def choice(self, seq: Any) -> Any:
        return seq[self._next("choice_index")]

    def is_used_up(self) -> bool:
        return next(self.draws, None) is None


def test_cleaning_equals_the_published_captions(tbps_clip_text: Any) -> None:
    for case in tbps_clip_text["pre_caption"]:
        assert clean_caption(case["input"], case["max_words"]) == case["output"]


def test_cleaning_gives_the_captions_of_the_published_data_lists(tbps_clip_text: Any) -> None:
    facts = tbps_clip_text["annotations"]
    captions = [caption for entry in facts["json"] for caption in entry["captions"]]
    assert [clean_caption(caption) for caption in captions] == facts["eval_text"]
    pairs = [
        (clean_caption(caption), clean_caption(back))
        for entry in facts["json"]
        for caption, back in zip(
            entry["captions"], entry.get("captions_bt") or [""] * len(entry["captions"]), strict=False
        )
    ]
    assert pairs == [(caption, back) for _, caption, back, _ in facts["train_pairs"]]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from(list(' \t\n\r.!"()*#:;~aBé,İ\u3000')), max_size=40), st.integers(1, 6))
def test_cleaning_twice_changes_nothing(caption: str, words: int) -> None:
    once = clean_caption(caption, words)
    assert clean_caption(once, words) == once


def test_word_deletion_equals_the_published_draws(tbps_clip_text: Any) -> None:
    for case in tbps_clip_text["random_deletion"]:
        replay = Replay(case["draws"])
        assert delete_words(case["text"], replay, case["p"]) == case["output"]
        assert replay.is_used_up()


def test_the_text_path_of_a_training_batch_equals_the_published_one(tbps_clip_text: Any) -> None:
    path = tbps_clip_text["train_text_path"]
    replay = Replay(path["draws"])
    texts = rewrite_captions(
        path["captions"],
        path["captions_bt"],
        replay,
        back_translation=path["backtrans_p"],
        deletion=path["eda_alpha"],
    )
    assert texts == path["texts"] and replay.is_used_up()
    context = path["context_length"]
    assert Bpe(context, mask=True)(texts).tolist() == path["ids"]
    assert Bpe(context, mask=True, clean_words=77)(texts).tolist() == path["ids"]


@pytest.mark.parametrize("caption", ["", "man", "  man "])
def test_captions_of_one_word_or_none_are_returned_unchanged(caption: str) -> None:
    assert delete_words(caption, random.Random(0), 1.0) == caption


@pytest.mark.parametrize("back", ["", None])
def test_a_missing_back_translation_is_never_taken(back: str | None) -> None:
    rewritten = rewrite_captions(["a man"], [back], random.Random(0), back_translation=1.0, deletion=0.0)
    assert rewritten == ["a man"]


def test_ids_are_masked_replaced_and_removed_in_rdes_shares() -> None:
    words = list(range(1000, 31000))
    ids = [49406, *words, 49407, 0]
    varied = vary_ids(ids, random.Random(4), mask=MASK, first_special=FIRST_SPECIAL)
    assert len(varied) == len(ids) and varied[0] == 49406
    end = varied.index(49407)
    removed = len(words) - (end - 1)
    masked = varied.count(MASK)
    assert not any(varied[end + 1 :])
    assert abs(masked / 30000 - 0.12) < 0.01 and abs(removed / 30000 - 0.04) < 0.01
    untouched = len(set(words) & set(varied)) / 30000
    assert 0.79 < untouched < 0.84


def test_special_tokens_and_padding_outlive_rdes_change() -> None:
    for seed in range(100):
        varied = vary_ids([49406, 49405, 320, 49407, 0], random.Random(seed), mask=MASK, first_special=FIRST_SPECIAL)
        assert varied[:2] == [49406, 49405] and 49407 in varied[2:4] and varied[4] == 0


def test_an_augmentation_is_found_by_its_name_and_touches_captions_or_ids_only() -> None:
    caption, back, ids = "A man; in RED.", "A red, man.", [49406, *range(1000, 1060), 49407, 0]
    special = {"mask": MASK, "first_special": FIRST_SPECIAL}
    options = {"back_translation": 1.0, "deletion": 0.0}
    assert augment_caption("rewrite", caption, back, random.Random(1), options) == "a red, man"
    assert augment_caption("rewrite", caption, None, random.Random(1), options) == "a man in red"
    assert augment_ids("rewrite", ids, random.Random(1), **special) == ids
    assert augment_ids("vary", ids, random.Random(1), **special) == vary_ids(ids, random.Random(1), **special) != ids
    assert augment_caption("delete", caption, back, random.Random(1), {"share": 0.5}) == "man; in"
    assert augment_ids("delete", ids, random.Random(1), **special) == ids
    for name in ("vary", None):
        assert augment_caption(name, caption, back, random.Random(1), {}) == caption
    with pytest.raises(ValueError, match="known: rewrite, delete, vary"):
        augment_caption("mix", caption, back, random.Random(1), {})
