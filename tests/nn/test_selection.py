"""Token selection: which tokens, how many, and what pads may touch."""

import pytest
import torch

from tbps_cli.nn.selection import RowNorm, Selection, select_patches, select_words, selected_count

START, END = 58, 59


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def selection(*, spare=False, from_batch=True):
    made = Selection(8, 12, spare=spare, from_batch=from_batch)
    made.initialise(torch.Generator().manual_seed(0))
    return made


def test_the_patches_most_looked_at_come_first_and_the_class_token_never():
    look = torch.tensor([[0.6, 0.1, 0.05, 0.2, 0.05]])
    assert select_patches(look, 2).tolist() == [[3, 1]]


@pytest.mark.parametrize(("tokens", "kept"), [(192, 57), (75, 22), (12, 3), (2, 1)])
def test_the_published_share_is_rounded_down_and_at_least_one(tokens, kept):
    assert selected_count(tokens, 0.3) == kept


def test_words_are_chosen_without_start_end_and_padding():
    ids = torch.tensor([[START, 5, 6, 7, END, 0, 0], [START, 5, END, 0, 0, 0, 0]])
    look = torch.tensor([[0.4, 0.1, 0.2, 0.05, 0.25, 0, 0], [0.6, 0.1, 0.3, 0, 0, 0, 0]])
    place, kept = select_words(look, ids, 2)
    assert place[0].tolist() == [2, 1] and kept[0].tolist() == [True, True]
    assert place[1, 0].item() == 1 and kept[1].tolist() == [True, False]


def test_a_word_that_nothing_looks_at_still_comes_before_a_pad():
    ids = torch.tensor([[START, 5, 6, END, 0, 0, 0, 0]])
    place, kept = select_words(torch.tensor([[0.9, 0.0, 0.0, 0.1, 0, 0, 0, 0]]), ids, 4)
    assert sorted(place[0, :2].tolist()) == [1, 2] and kept[0].tolist() == [True, True, False, False]


def test_the_word_of_id_0_counts_only_where_padding_is_told_by_the_end():
    ids = torch.tensor([[START, 5, 0, END, 0]])
    look = torch.tensor([[0.2, 0.1, 0.6, 0.1, 0]])
    assert select_words(look, ids, 1)[0].tolist() == [[1]]
    assert select_words(look, ids, 1, zero_is_pad=False)[0].tolist() == [[2]]


def test_a_caption_without_words_keeps_its_end_token_and_leaves_others_alone():
    ids = torch.tensor([[START, END, 0, 0], [START, 5, 6, END]])
    look = torch.tensor([[0.3, 0.7, 0, 0], [0.3, 0.2, 0.4, 0.1]])
    place, kept = select_words(look, ids, 2)
    assert place[0, 0].item() == 1 and kept[0].tolist() == [True, False]
    assert place[1].tolist() == [2, 1] and kept[1].all()


@pytest.mark.parametrize("training", [True, False])
def test_rows_that_do_not_count_reach_neither_output_nor_statistics(training):
    token, place = draws(3, 5, 8), torch.tensor([[0, 1, 2], [3, 4, 0], [1, 2, 3]])
    kept = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    noisy = token.clone()
    noisy[1, [0, 4]], noisy[2, 3] = 1e3, -1e3
    one, other = selection().train(training), selection().train(training)
    torch.testing.assert_close(one(token, place, kept), other(noisy, place, kept))
    torch.testing.assert_close(one.mlp.bns[0].running_mean, other.mlp.bns[0].running_mean)
    alone = selection().eval()(token[1:2], torch.tensor([[3]]))
    if not training:
        torch.testing.assert_close(one(token, place, kept)[1:2], alone)


@pytest.mark.parametrize("spare", [True, False])
def test_the_largest_value_of_each_channel_stays(spare):
    made, token = selection(spare=spare).eval(), draws(1, 4, 8)
    place = torch.tensor([[0, 2, 3]])
    rows = torch.cat([made(token, torch.tensor([[index]])) for index in (0, 2, 3)])
    torch.testing.assert_close(made(token, place), rows.amax(0, keepdim=True))
    torch.testing.assert_close(made(7 * token, place), made(token, place))  # tokens are made unit length


def test_a_norm_that_never_uses_the_batch_stays_as_it_is_while_training():
    norm, x = RowNorm(4, from_batch=False).train(), 5 + draws(10, 4)
    torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)
    assert not norm.training and norm.num_batches_tracked == 0 and not norm.running_mean.any()
    norm(x).square().sum().backward()
    assert norm.weight.grad is not None
    assert RowNorm(4, from_batch=True).training and not RowNorm(4, from_batch=True).eval().training


def test_half_rows_are_normalised_in_float32():
    norm = RowNorm(4, from_batch=True)
    assert norm(draws(10, 4).half()).dtype == torch.float16 and norm.running_mean.dtype == torch.float32
