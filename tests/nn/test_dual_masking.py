"""Both masked views of a caption: drawn from the scores of its words, which are remembered from step to step."""

import pytest
import torch

from tbps_cli.nn.dropout import row_seeds, start_at
from tbps_cli.nn.dual_masking import FIRST, DualMasking

MASK = 57


@pytest.fixture(autouse=True)
def at_the_start():
    start_at(0)
    torch.manual_seed(0)
    yield
    start_at(0)


def made(captions: int = 40) -> DualMasking:
    return DualMasking(captions, 12, mask=MASK, informative_limit=0.3, noise_limit=0.2)


def rows(count: int = 6) -> torch.Tensor:
    token_BT = torch.randint(1, 50, (count, 12), generator=torch.Generator().manual_seed(1))
    token_BT[:, 0], token_BT[:, 9], token_BT[:, 10:] = 58, 59, 0
    return token_BT


def test_at_first_the_noise_view_loses_its_first_word_alone() -> None:
    token_BT = rows(40)
    noise_BT, masked_BT, label_BT = made().draw(token_BT, torch.arange(40))
    assert (noise_BT[:, 1] == MASK).all() and torch.equal(noise_BT[:, 2:], token_BT[:, 2:])
    hidden = label_BT != 0
    assert torch.equal(label_BT[hidden], token_BT[hidden]) and torch.equal(masked_BT[~hidden], token_BT[~hidden])
    assert hidden.sum() / (40 * 8) == pytest.approx(0.3, abs=0.07)


def test_words_of_high_scores_are_told_and_words_of_low_ones_are_noise() -> None:
    masking, token_BT = made(), rows(40)
    scores = torch.zeros(40, 12)
    scores[:, 1:5] = 0.9
    masking.find(torch.arange(40), scores)
    masking.keep()
    told, noise = torch.zeros(12), torch.zeros(12)
    for _ in range(60):
        noise_BT, _, label_BT = masking.draw(token_BT, torch.arange(40))
        told += (label_BT != 0).float().mean(0) / 60
        noise += (noise_BT != token_BT).float().mean(0) / 60
    assert told[2:5].mean() == pytest.approx(0.3, abs=0.02) and told[5:9].mean() == pytest.approx(0.036, abs=0.01)
    # nine tenths of the chosen words look changed; where none was chosen the first word is hidden
    assert noise[2:5].max() < 0.001 and noise[5:9].mean() == pytest.approx(0.9 * 0.176, abs=0.02)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_views_are_the_same_however_the_batch_is_cut(cut: int) -> None:
    masking, token_BT, sample_B = made(), rows(), torch.arange(6)
    whole = masking.draw(token_BT, sample_B)
    parts = []
    for piece in (slice(0, cut), slice(cut, 6)):
        torch.manual_seed(0)
        start_at(piece.start)
        parts.append(masking.draw(token_BT[piece], sample_B[piece]))
    for name in whole._fields:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_rows_and_calls_have_seeds_of_their_own() -> None:
    seeds = row_seeds(1000) + row_seeds(1000)
    assert len(set(seeds)) == 2000 and min(seeds) >= 0


def test_scores_count_from_the_step_on_that_found_them() -> None:
    masking, sample_B = made(), torch.tensor([3, 7])
    score_BT = torch.rand(2, 12)
    masking.find(sample_B, score_BT)
    assert (masking.word_scores == FIRST).all(), "chunks of this step draw their masks again"
    masking.keep()
    assert torch.equal(masking.word_scores[sample_B], score_BT)
    assert (masking.word_scores == FIRST).all(1).sum() == 38
    masking.find(sample_B, torch.zeros(2, 12))
    masking.forget()
    masking.keep()
    assert torch.equal(masking.word_scores[sample_B], score_BT)


def test_scores_travel_in_the_state_and_are_absent_where_nothing_is_trained() -> None:
    masking = made()
    masking.find(torch.arange(40), torch.rand(40, 12))
    masking.keep()
    other = made()
    other.load_state_dict(masking.state_dict())
    assert torch.equal(other.word_scores, masking.word_scores)
    none = made(0)
    assert not none.state_dict()
    none.find(torch.arange(2), torch.zeros(2, 12))
    none.keep()
    assert (none.draw(rows(), torch.arange(6)).noise_BT[:, 1] == MASK).all()
    masking.initialise(torch.Generator())
    assert (masking.word_scores == FIRST).all()
