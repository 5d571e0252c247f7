"""What is told before a run: memory counted as the graph keeps it, time from a probe and then the steps."""

import time

import pytest
import torch
from support.training import make_batch, make_stepper

from tbps_cli.engine import estimate


@pytest.fixture(autouse=True)
def short_plans() -> None:
    """Passes are measured as for a person, not as for tests of something else."""


def test_memory_is_counted_from_the_parameters_and_the_probe(tmp_path) -> None:
    stepper = make_stepper(tmp_path, "irra")
    found = estimate.probe(stepper, make_batch())
    weights = sum(parameter.numel() * 4 for parameter in stepper.method.parameters())
    adam = estimate.memory(stepper.method, "adam", found, 10)
    assert (adam.gradients, adam.optimizer) == (weights, 2 * weights)
    assert adam.activations == round(found.bytes(10))
    assert estimate.memory(stepper.method, "sgd", found, 10).optimizer == weights


def test_memory_on_a_cpu_includes_what_the_program_holds(tmp_path) -> None:
    stepper = make_stepper(tmp_path, "clip")
    told = estimate.memory(stepper.method, "adam", estimate.probe(stepper, make_batch()), 10)
    assert told.program > 100 << 20, "PyTorch alone takes more"
    assert abs(told.program + told.weights - estimate.resident()) < 16 << 20
    assert told.total == told.program + told.weights + told.gradients + told.optimizer + told.activations


def test_activations_grow_with_the_pairs(tmp_path) -> None:
    kept = {rows: estimate.kept_bytes(make_stepper(tmp_path, "clip"), make_batch(rows)) for rows in (2, 4, 8)}
    # twice the pairs keep twice as much, the copies of the weights' own shapes aside
    assert kept[8] - kept[4] == pytest.approx(2 * (kept[4] - kept[2]), rel=0.05)


def test_the_probe_leaves_gradients_and_buffers_as_they_were(tmp_path) -> None:
    stepper = make_stepper(tmp_path, "clip")
    stepper.method.register_buffer("count", torch.zeros(1))
    plain = stepper.method.losses
    stepper.method.losses = lambda *given: (stepper.method.count.add_(1), plain(*given))[1]
    estimate.probe(stepper, make_batch())
    assert stepper.method.count.item() == 0
    assert all(parameter.grad is None for parameter in stepper.method.parameters())


def test_what_another_program_computes_meanwhile_is_not_taken_for_ours(tmp_path, monkeypatch) -> None:
    stepper = make_stepper(tmp_path, "clip")
    alone = estimate.probe(stepper, make_batch()).seconds(10)
    backward = stepper.backward

    def interrupted(*given):
        time.sleep(0.1)  # as if the processor were given to others
        return backward(*given)

    monkeypatch.setattr(stepper, "backward", interrupted)
    assert estimate.probe(stepper, make_batch()).seconds(10) < alone + 0.08


def test_the_clock_counts_neither_the_warm_up_nor_a_pause(monkeypatch) -> None:
    times = iter([9.0, 9.5, 10.0, 100.0, 100.25])  # the first step is not even asked for
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(times))
    clock = estimate.Clock()
    assert clock.step == clock.pairs == 0
    for pairs in (70, 10, 10, 20):
        clock.tick(pairs)
    assert clock.step == 0.5 and clock.pairs == 30
    clock.pause()
    clock.tick(10)
    assert clock.step == clock.pairs == 0
    clock.tick(10)
    assert clock.step == 0.25 and clock.pairs == 40


def test_the_machine_says_how_much_is_free() -> None:
    free = estimate.available(torch.device("cpu"))
    assert free is None or free > 1 << 20
