"""One optimiser step: pieces give the whole batch's gradient, whatever they are."""

import pytest
import torch
from support.training import make_batch, make_stepper
from torch import nn

from tbps_cli.engine.step import refuse_cuts
from tbps_cli.errors import RecipeError
from tbps_cli.nn.dropout import dropped
from tbps_cli.nn.norm import BatchNorm1d
from tbps_cli.types import Step


def gradients(stepper):
    return {name: parameter.grad for name, parameter in stepper.method.named_parameters()}


def worst(first, second):
    """The largest difference, relative to the largest entry of each tensor."""
    assert first.keys() == second.keys()
    return max(
        ((first[name] - second[name]).abs().max() / first[name].abs().max().clamp_min(1e-12)).item() for name in first
    )


@pytest.mark.parametrize("method", ["clip", "irra"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_give_the_gradient_of_the_whole_batch(tmp_path, method, chunk) -> None:
    whole = make_stepper(tmp_path, method)
    pieces = make_stepper(tmp_path, method, f"train.chunk={chunk}")
    first, second = whole.backward(make_batch(), Step()), pieces.backward(make_batch(), Step())
    for name, value in first.losses.items():
        assert second.losses[name] == pytest.approx(value.item(), rel=1e-5)
    # measured 3e-5: the gradient of a layer norm behind the sum over 49,408 words is small, its rounding is not
    assert worst(gradients(whole), gradients(pieces)) < 1e-4


def test_chunks_draw_in_both_passes_what_the_whole_batch_draws(tmp_path) -> None:
    stepper = make_stepper(tmp_path, "clip", "train.chunk=2")
    plain = stepper.method.features
    seen = []

    def features(batch):
        found = plain(batch)
        seen.append(dropped(torch.ones(len(batch), 8), 0.5))
        return found

    stepper.method.features = features
    stepper.backward(make_batch(4), Step())
    stepper.chunk = None
    stepper.backward(make_batch(4), Step())
    assert [len(mask) for mask in seen] == [2, 2, 2, 2, 4]
    assert torch.equal(torch.cat(seen[:2]), seen[4]) and torch.equal(torch.cat(seen[2:4]), seen[4])
    assert not torch.equal(seen[0], seen[1])


def test_accumulation_takes_the_mean_of_the_micro_batches(tmp_path) -> None:
    stepper = make_stepper(tmp_path)
    batches = [make_batch(seed=1), make_batch(seed=2)]
    alone = []
    for number, batch in enumerate(batches):
        stepper.backward(batch, Step(), number)
        alone.append({name: value.clone() for name, value in gradients(stepper).items()})
        stepper.optimizer.zero_grad()
    for number, batch in enumerate(batches):
        stepper.backward(batch, Step(), number, of=2)
    mean = {name: (value + alone[1][name]) / 2 for name, value in alone[0].items()}
    assert worst(mean, gradients(stepper)) < 1e-5


def test_a_long_gradient_is_clipped_before_the_step(tmp_path) -> None:
    moved = {}
    for limit in ("1e9", "1e-3"):
        stepper = make_stepper(tmp_path, "irra", f"optim.clip_norm={limit}", "optim.kind=sgd", "optim.momentum=0.0")
        before = {name: value.clone() for name, value in stepper.method.state_dict().items()}
        stepper([make_batch()], Step())
        moved[limit] = sum(
            ((value - before[name]) ** 2).sum().item() for name, value in stepper.method.state_dict().items()
        )
    # the length of the step is at most lr (twice that for biases) times the longest allowed gradient
    assert moved["1e-3"] ** 0.5 <= 2.001e-6 and moved["1e9"] ** 0.5 > 1e-4


def test_a_step_does_not_depend_on_the_global_generator(tmp_path) -> None:
    states = []
    for seed in (0, 1):
        stepper = make_stepper(tmp_path)
        torch.manual_seed(seed)
        stepper([make_batch()], Step(1, 2, 3, 4))
        states.append(stepper.method.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_autocast_keeps_the_weights_and_the_losses_in_float32(tmp_path) -> None:
    stepper = make_stepper(tmp_path, "clip")
    stepper.precision = "bf16"
    reference = make_stepper(tmp_path, "clip").backward(make_batch(), Step())
    outcome = stepper.backward(make_batch(), Step())
    assert outcome.losses["itc"].dtype == torch.float32
    assert {parameter.dtype for parameter in stepper.method.parameters()} == {torch.float32}
    assert outcome.losses["itc"].item() == pytest.approx(reference.losses["itc"].item(), rel=0.1)


def test_a_batch_that_may_not_be_cut_is_refused_with_the_reason(tmp_path) -> None:
    method = make_stepper(tmp_path).method
    method.norm = nn.BatchNorm1d(4)
    with pytest.raises(RecipeError, match=r"train\.chunk = 2.*batch normalisation"):
        refuse_cuts(method, 2, 1)
    with pytest.raises(RecipeError, match="--nproc 2"):
        refuse_cuts(method, None, 2)
    refuse_cuts(method, None, 1)


def test_statistics_of_the_batch_may_be_shared_among_ranks_but_not_among_chunks(tmp_path) -> None:
    method = make_stepper(tmp_path).method
    method.norm = BatchNorm1d(4)
    refuse_cuts(method, None, 2)
    with pytest.raises(RecipeError, match=r"train\.chunk = 2.*batch normalisation") as told:
        refuse_cuts(method, 2, 2)
    assert "--nproc" in told.value.hint
    refuse_cuts(method.eval(), 2, 2)
