"""Two real processes over gloo: together they are one process with the whole batch."""

import os
import socket

import pytest
import torch
from torch import multiprocessing

from tbps_cli import distributed
from tbps_cli.errors import TbpsError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def enter(rank: int, world: int, port: int, work, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.start()
    try:
        torch.save(work(rank), f"{folder}/{rank}.pt")
    finally:
        distributed.stop()


def in_processes(work, folder, world: int = 2) -> list:
    """What `work(rank)` returned in each of `world` processes."""
    multiprocessing.spawn(enter, (world, free_port(), work, str(folder)), nprocs=world)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(world)]


def pieces_and_weight():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, generator=draw), torch.randn(3, 3, generator=draw), torch.randn(3, generator=draw)


def loss_of(rows, inner, head):
    """A loss over all pairs of rows, with a parameter inside the features and one inside the losses."""
    return torch.logsumexp(rows @ rows.T, 1).mean() + (rows @ head).square().sum()


def gathered_gradients(rank: int):
    x, inner, head = pieces_and_weight()
    inner, head, unused = (torch.nn.Parameter(value) for value in (inner, head, head.clone()))
    mine = x[:3] if rank == 0 else x[3:]
    counts = distributed.row_counts(len(mine))
    rows = distributed.gather(mine @ inner, counts)
    loss_of(rows, inner, head).backward()
    distributed.average_gradients([inner, head, unused])
    return counts, rows.detach(), inner.grad, head.grad, unused.grad


def test_gathered_rows_give_every_parameter_the_gradient_of_one_process(tmp_path) -> None:
    x, inner, head = pieces_and_weight()
    inner, head = torch.nn.Parameter(inner), torch.nn.Parameter(head)
    loss_of(x @ inner, inner, head).backward()
    for counts, rows, inner_gradient, head_gradient, unused in in_processes(gathered_gradients, tmp_path):
        assert counts == [3, 2] and unused is None
        torch.testing.assert_close(rows, (x @ inner).detach())
        torch.testing.assert_close(inner_gradient, inner.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head_gradient, head.grad, rtol=1e-5, atol=1e-6)


def small_messages(rank: int):
    value = torch.full((2,), float(rank + 1))
    distributed.broadcast([value])
    parameter = torch.nn.Parameter(torch.zeros(2))
    if rank == 0:  # an expert that only one rank's tokens reached
        parameter.grad = torch.ones(2)
    distributed.average_gradients([parameter])
    distributed.barrier()
    flags = distributed.any_rank(rank == 1), distributed.any_rank(False)
    return value, parameter.grad, flags, distributed.same({"rank": rank}), distributed.current().rank


def test_ranks_agree_on_values_flags_and_half_used_parameters(tmp_path) -> None:
    for rank, (value, gradient, flags, same, number) in enumerate(in_processes(small_messages, tmp_path)):
        assert value.tolist() == [1.0, 1.0] and gradient.tolist() == [0.5, 0.5]
        assert flags == (True, False) and same == {"rank": 0} and number == rank


def test_one_process_alone_needs_no_group() -> None:
    rows = torch.ones(2, 3)
    assert distributed.start().world == 1 and distributed.current().main
    assert distributed.gather(rows, [2]) is rows and distributed.row_counts(2) == [2]
    assert distributed.any_rank(True) and distributed.same("x") == "x"
    distributed.barrier()
    distributed.stop()


def test_large_parameters_are_reduced_in_buckets(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET", 10)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (4, 4, 4, 20, 1)]
    parameters.append(torch.nn.Parameter(torch.zeros(1, dtype=torch.float16)))
    sizes = [[parameter.numel() for parameter in bucket] for bucket in distributed._buckets(parameters)]
    assert sizes == [[4, 4], [4], [20], [1], [1]]


def test_a_broken_environment_is_a_user_error(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(TbpsError, match="RANK"):
        distributed.environment()
