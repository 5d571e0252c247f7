"""Whole training steps on a device that is not the CPU, on machines that have no other.

PyTorch's meta device computes shapes alone, and refuses what mixes it with tensors of the CPU, as CUDA
does: a constant, an index or a generator that stays behind fails here too. What it cannot know, sizes that
depend on values, is answered for it and counted: on CUDA each of these makes the CPU wait for the device.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from support.ranks import pairs, stepper
from torch.utils._python_dispatch import TorchDispatchMode

from tbps_cli import methods
from tbps_cli.types import Step

WORDS = 5
"""How many masked words a batch is said to have."""
WAITS = 4
"""Most of them in a step's features and losses: where the longest caption ends, and which words are masked."""


class Answers(TorchDispatchMode):
    """Says how many entries of a mask are set, and which value a number has."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten, kwargs = torch.ops.aten, kwargs or {}
        if function is aten.nonzero.default and args[0].is_meta:
            self.waits += 1
            return args[0].new_empty((WORDS, args[0].dim()), dtype=torch.int64)
        if function is aten._local_scalar_dense.default and args[0].is_meta:
            self.waits += 1
            return 0.5 if args[0].dtype.is_floating_point else 6
        if function is aten._to_copy.default and args[0].is_meta and str(kwargs.get("device")) == "cpu":
            self.waits += 1
            return torch.full(args[0].shape, 6, dtype=args[0].dtype)
        if function is aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in self.places(index)])
        return function(*args, **kwargs)

    def places(self, index):
        """A mask as the indices of what is set in it."""
        if index is None or index.dtype != torch.bool or not index.is_meta:
            return [index]
        self.waits += 1
        return [index.new_empty(WORDS, dtype=torch.int64) for _ in range(index.dim())]


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has no mixed precision."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def moved(name: str):
    """A stepper whose method, and so its steps, are on the meta device."""
    made = stepper(name)
    made.method.to("meta")
    made.device = torch.device("meta")
    return made


@pytest.mark.parametrize("name", methods.names())
def test_a_training_step_leaves_nothing_on_the_cpu(name) -> None:
    made = moved(name)
    with Answers():
        for number in range(2):
            outcome = made([pairs(12, number)], Step(1, number, 4, 9))
    assert all(loss.is_meta for loss in outcome.losses.values())
    assert all(value.is_meta for value in made.method.state_dict().values())


@pytest.mark.parametrize("name", methods.names())
def test_embedding_leaves_nothing_on_the_cpu(name) -> None:
    method, batch = moved(name).method.eval(), pairs(12, 0).to("meta")
    with Answers(), torch.no_grad():
        assert method.encode_images(batch.images["image"]).is_meta and method.encode_texts(batch.tokens["text"]).is_meta


@pytest.mark.parametrize("name", methods.names())
def test_features_and_losses_seldom_wait_for_the_device(name) -> None:
    made, batch = moved(name), pairs(12, 0).to("meta")
    with Answers() as asked:
        made.method.losses(made.method.features(batch), batch, Step(1, 0, 4, 9))
    assert asked.waits <= WAITS


def test_a_tensor_that_stays_behind_would_be_noticed() -> None:
    made = moved("clip")
    made.method.clip.positional_embedding = torch.nn.Parameter(torch.zeros(20, 32))
    with Answers(), pytest.raises(RuntimeError, match="device"):
        made([pairs(12, 0)], Step(1, 0, 4, 9))
