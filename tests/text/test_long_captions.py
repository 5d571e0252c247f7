"""Captions longer than the context: their pieces, and the vectors of pieces averaged."""

import numpy as np
import pytest

from tbps_cli.text.bpe import Bpe
from tbps_cli.text.long_captions import embed_pieces

WORDS = "a man in a red coat with a black bag walks past the shop and looks at his phone"


def hashed(token_BT):
    """Unit rows that depend on every id."""
    draws = [np.random.default_rng(row.astype(np.uint64)).normal(size=8) for row in token_BT]
    return np.stack([draw / np.linalg.norm(draw) for draw in draws]).astype(np.float32)


def test_pieces_hold_every_id_once_in_order_and_fit():
    bpe = Bpe(12)
    pieces = bpe.pieces(WORDS)
    assert [id for piece in pieces for id in piece] == bpe.encode(WORDS)
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 10


def test_places_that_a_method_takes_make_pieces_smaller():
    bpe = Bpe(12)
    assert max(map(len, bpe.pieces(WORDS, taken=4))) <= 6
    assert bpe.cut_count([WORDS[:30]]) == 0
    assert bpe.cut_count([WORDS[:30]], taken=4) == 1


def test_one_word_longer_than_the_context_is_cut_inside():
    pieces = Bpe(8).pieces("1234567890" * 3)
    assert sum(map(len, pieces)) == 30
    assert max(map(len, pieces)) == 6


@pytest.mark.parametrize("text", ["", "a man", "two words more"])
def test_a_caption_that_fits_is_embedded_as_ever(text):
    bpe = Bpe(12)
    assert np.array_equal(embed_pieces(hashed, bpe, [text]), hashed(bpe([text])))


def test_a_long_caption_is_the_mean_of_its_pieces_by_their_lengths():
    bpe = Bpe(12)
    rows = [(len(piece), hashed(bpe.row(piece)[None])[0].astype(np.float64)) for piece in bpe.pieces(WORDS)]
    mean = sum(weight * row for weight, row in rows)
    found = embed_pieces(hashed, bpe, ["a man", WORDS])
    assert np.abs(found[1] - mean / np.linalg.norm(mean)).max() < 1e-6
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
