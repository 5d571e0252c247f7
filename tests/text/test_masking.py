from __future__ import annotations

import random
from typing import Any

import numpy as np

from tbps_cli.text.masking import Corruption, corrupt_words, mask_words

MASK, FIRST_SPECIAL = 49405, 49405
SPECIAL = {0, 49405, 49406, 49407}


def test_masking_equals_the_published_draws(irra_masking: Any) -> None:
    for case in irra_masking["cases"]:
        found = mask_words(case["tokens"], random.Random(case["seed"]), mask=MASK, first_special=FIRST_SPECIAL)
        assert found == (case["masked"], case["labels"]), case["seed"]


def test_the_shares_of_masked_replaced_and_kept_words_are_those_of_bert() -> None:
    ids = [49406, *range(1000, 21000), 49407]
    masked, labels = mask_words(ids, random.Random(5), mask=MASK, first_special=FIRST_SPECIAL)
    chosen = [place for place, label in enumerate(labels) if label]
    hidden = sum(masked[place] == MASK for place in chosen) / len(chosen)
    kept = sum(masked[place] == ids[place] for place in chosen) / len(chosen)
    assert abs(len(chosen) / 20000 - 0.15) < 0.01
    assert abs(hidden - 0.8) < 0.03 and abs(kept - 0.1) < 0.02


def test_special_tokens_and_padding_are_never_masked_while_words_are_there() -> None:
    ids = [49406, 320, 49405, 786, 49407, 0, 0]
    for seed in range(200):
        masked, labels = mask_words(ids, random.Random(seed), mask=MASK, first_special=FIRST_SPECIAL)
        assert [masked[place] for place in (0, 2, 4, 5, 6)] == [49406, 49405, 49407, 0, 0]
        assert any(labels) and not any(labels[place] for place in (0, 2, 4, 5, 6))


def test_an_empty_caption_hides_its_end_as_released() -> None:
    masked, labels = mask_words([49406, 49407, 0], random.Random(0), mask=MASK, first_special=FIRST_SPECIAL)
    assert (masked, labels) == ([49406, MASK, 0], [0, 49407, 0])


def test_tbps_clips_corruption_equals_the_published_draws(tbps_clip_text: Any) -> None:
    for case in tbps_clip_text["mlm_corruption"]:
        draws = Corruption(
            np.array(case["draw_mask_15"], bool),
            np.array(case["draw_replace_80"], bool),
            np.array(case["draw_random_50"], bool),
            np.array(case["random_ids"]),
        )
        corrupted, labels = corrupt_words(np.array(case["ids"]), draws, mask=MASK, first_special=FIRST_SPECIAL)
        assert corrupted.tolist() == case["output"]
        assert labels.tolist() == case["labels"]


def test_fresh_corruption_draws_have_their_shares_and_no_special_word() -> None:
    draws = Corruption.draw((200, 100), np.random.default_rng(3), FIRST_SPECIAL)
    shares = [float(part.mean()) for part in (draws.chosen, draws.masked, draws.randomised)]
    assert np.allclose(shares, [0.15, 0.8, 0.5], atol=0.02)
    assert draws.words.min() >= 1 and draws.words.max() < FIRST_SPECIAL


def test_corruption_leaves_special_tokens_and_padding_alone() -> None:
    ids = np.array([[49406, 320, 49405, 49407, 0]])
    everywhere = np.ones_like(ids, bool)
    draws = Corruption(everywhere, everywhere, everywhere, np.full_like(ids, 7))
    corrupted, labels = corrupt_words(ids, draws, mask=MASK, first_special=FIRST_SPECIAL)
    assert corrupted.tolist() == [[49406, MASK, 49405, 49407, 0]]
    assert labels.tolist() == [[-100, 320, -100, -100, -100]]
