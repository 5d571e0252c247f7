"""Blocks computed again in the backward pass: the same step from less memory."""

import pytest
import torch
from support.training import make_batch, make_stepper, prepared, tiny_recipe, write_data

from tbps_cli import methods
from tbps_cli.engine import estimate
from tbps_cli.engine.components import checkpoint_blocks
from tbps_cli.errors import RecipeError
from tbps_cli.types import Step

METHODS = [name for name in methods.names() if name not in ("textreid", "tbps_clip")]
"""textreid has no transformer blocks, and tbps_clip wants more views than the batch of these tests has."""


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_same_when_blocks_are_computed_again(method, tmp_path):
    plain, frugal = (make_stepper(tmp_path, method) for _ in range(2))
    checkpoint_blocks(frugal.method)
    losses = []
    for stepper in (plain, frugal):
        stepper.method.train()
        losses.append(stepper.backward(make_batch(), Step()).losses)
    assert {name: value.item() for name, value in losses[0].items()} == pytest.approx(
        {name: value.item() for name, value in losses[1].items()}, rel=1e-6
    )
    for (name, one), two in zip(plain.method.named_parameters(), frugal.method.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None:
            assert (one.grad - two.grad).abs().max() <= 1e-6 + 1e-5 * one.grad.abs().max(), name
    for (name, one), two in zip(plain.method.named_buffers(), frugal.method.buffers(), strict=True):
        assert torch.equal(one, two), name


def test_the_key_reaches_every_transformer_and_keeps_less(tmp_path):
    write_data(tmp_path)
    kept = []
    for value in ("false", "true"):
        recipe = tiny_recipe(tmp_path, sets=(f"train.checkpointing={value}", "method.tower.layers=6"))
        stepper = make_stepper(tmp_path, "clip")
        stepper.method = prepared(recipe, tmp_path).method
        kept.append(estimate.kept_bytes(stepper, make_batch(8)))
    assert kept[1] < 0.6 * kept[0]


def test_a_method_without_transformers_refuses_the_key():
    textreid = methods.find("textreid").__new__(methods.find("textreid"))
    torch.nn.Module.__init__(textreid)
    textreid.config = type("Config", (), {"name": "textreid"})()
    with pytest.raises(RecipeError, match="textreid has no transformer blocks"):
        checkpoint_blocks(textreid)
