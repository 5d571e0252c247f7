"""The GRU over words against a loop over words, and against its form for export."""

import pytest
import torch

from tbps_cli.nn.momentum import MomentumHead
from tbps_cli.nn.word_gru import WordGRU

WORDS = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([2, 6, 1])


def drawn(**more) -> WordGRU:
    gru = WordGRU(width=5, inside=4, hidden=3, **more)
    gru.initialise(torch.Generator().manual_seed(0))
    return gru.eval()


def step(x, state, inside, hidden):
    (ri, zi, ni), (rh, zh, nh) = (inside @ x).chunk(3), (hidden @ state).chunk(3)
    reset, update = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
    return (1 - update) * torch.tanh(ni + reset * nh) + update * state


def test_a_caption_is_read_both_ways_from_its_own_ends():
    gru = drawn()
    with torch.no_grad():
        found = gru.sequence(WORDS, LENGTHS)
        assert found.shape == (3, 6, 6)
        for row, length in enumerate(LENGTHS.tolist()):
            x = gru.embed(WORDS[row, :length])
            for way, order in (("", range(length)), ("_reverse", reversed(range(length)))):
                weights = [getattr(gru.gru, f"weight_{kind}_l0{way}") for kind in ("ih", "hh")]
                state, units = torch.zeros(3), slice(0, 3) if not way else slice(3, 6)
                for word in order:
                    state = step(x[word], state, *weights)
                    assert torch.allclose(found[row, word, units], state, atol=1e-6)
            assert (found[row, length:] == 0).all()


@pytest.mark.parametrize(("floor", "depends"), [("always", False), ("batch", True)])
def test_only_the_released_floor_looks_at_companions(floor, depends):
    gru = drawn(floor=floor)
    with torch.no_grad():
        together = gru(WORDS, LENGTHS)
        alone = torch.cat([gru(WORDS[row : row + 1], LENGTHS[row : row + 1]) for row in range(3)])
        turned = gru(WORDS.flip(0), LENGTHS.flip(0)).flip(0)
    assert torch.allclose(together, turned, atol=1e-6)
    assert torch.allclose(together, alone, atol=1e-6) != depends
    assert torch.allclose(together[1], alone[1] if depends else alone[1].clamp(min=0), atol=1e-6)


def test_padding_is_not_read_and_a_caption_without_words_is_no_error():
    gru, other = drawn(), WORDS.clone()
    other[0, 2:] = 9.0
    with torch.no_grad():
        assert torch.equal(gru(WORDS, LENGTHS)[0], gru(other, LENGTHS)[0])
        assert torch.isfinite(gru(WORDS, torch.tensor([0, 1, 0]))).all()


def test_vectors_of_the_right_width_need_no_layer_between():
    gru = WordGRU(width=4, inside=4, hidden=3)
    assert [name for name, _ in gru.named_parameters() if "embed" in name] == []
    assert gru.out == 6


# The queues of the momentum head -----------------------------------------------------------------


def head(queue: int = 4) -> MomentumHead:
    made = MomentumHead(torch.nn.Linear(2, 3), drawn(), image_width=3, text_width=6, embed=2, identities=5, queue=queue)
    made.initialise(torch.nn.Linear(2, 3), drawn(), torch.Generator().manual_seed(0))
    return made


def enqueue(made: MomentumHead, *persons: int) -> None:
    person = torch.tensor(persons)
    made.enqueue(person[:, None].float().expand(-1, 2), -person[:, None].float().expand(-1, 2), person)


def test_keys_take_the_place_of_the_oldest_ones_and_the_pointer_comes_round():
    made = head()
    assert made.id_queue.tolist() == [[-1] * 4]
    assert torch.allclose(made.v_queue.norm(dim=0), torch.ones(4)) and (made.v_queue >= 0).all()
    enqueue(made, 1, 2, 3)
    enqueue(made, 4, 5)
    assert made.id_queue.tolist() == [[5, 2, 3, 4]]
    assert made.v_queue[0].tolist() == [5, 2, 3, 4] and made.t_queue[1].tolist() == [-5, -2, -3, -4]
    assert made.queue_ptr.tolist() == [1]


def test_of_more_keys_than_places_the_last_ones_stay():
    made = head(queue=3)
    enqueue(made, 1, 2, 3, 4, 5)
    assert sorted(made.id_queue[0].tolist()) == [3, 4, 5]


def test_queues_are_replaced_so_that_a_graph_keeps_what_it_saw():
    made = head()
    before = made.v_queue
    enqueue(made, 1, 2)
    assert made.v_queue is not before and "v_queue" in dict(made.named_buffers())
