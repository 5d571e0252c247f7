"""Two real processes over gloo: together they are one process with the whole batch."""

import os
import socket
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_recipe, write_data
from torch import multiprocessing

from tbps_cli import distributed, methods
from tbps_cli.engine.launch import launch
from tbps_cli.engine.train import train
from tbps_cli.errors import RecipeError, TbpsError
from tbps_cli.types import Task
from tbps_cli.weights.files import read_safetensors


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def enter(rank: int, world: int, port: int, work, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    os.chdir(folder)
    if work is not trained:  # training starts and stops its own group
        distributed.start()
    torch.save(work(rank), f"{folder}/{rank}.pt")
    distributed.stop()


def in_processes(work, folder, world: int = 2) -> list:
    """What `work(rank)` returned in each of `world` processes."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tbps_cli.engine.train"])
    arguments = (world, free_port(), work, str(folder))
    multiprocessing.start_processes(enter, arguments, nprocs=world, start_method="forkserver")
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


def trained(rank: int):
    """A whole tiny training in this rank, in the working folder."""
    folder = Path.cwd()
    sets = ["train.epochs=2", "optim.kind=sgd", "optim.lr=1e-3", "train.batch=10", "method.temperature=0.5"]
    train(
        tiny_recipe(folder, "irra", sets=sets), data_root=folder, out=folder / f"run{distributed.environment().world}"
    )
    return True


def test_two_processes_train_to_the_weights_of_one(tmp_path, monkeypatch) -> None:
    """Batches of 10 and a last one of 8, stochastic gradient descent: Adam with a small eps amplifies rounding."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    trained(0)
    in_processes(trained, tmp_path)
    one, two = (read_safetensors(tmp_path / f"run{world}" / "last.safetensors") for world in (1, 2))
    start = build_start(tmp_path)
    for name, value in one.items():
        moved = (value - start[name]).abs().max().item()
        assert (value - two[name]).abs().max().item() <= 1e-5 * max(moved, value.abs().max().item()), name
    assert any(not torch.equal(value, start[name]) for name, value in one.items())


def build_start(folder):
    """The weights before the first step."""
    recipe = tiny_recipe(folder, "irra")
    method = methods.find("irra")(recipe.method, Task(recipe.data.image_size, 12))
    method.initialise(torch.Generator().manual_seed(recipe.train.seed))
    return method.state_dict()


def test_a_rank_that_fails_ends_the_others_and_is_told_once(tmp_path, monkeypatch, capfd) -> None:
    write_data(tmp_path)
    recipe = tmp_path / "tiny-clip.toml"
    tiny_recipe(tmp_path)
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), "--data-root", str(tmp_path / "nothing")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TBPS_LAUNCHED", raising=False)
    with pytest.raises(TbpsError, match="CUHK-PEDES is not in") as told:
        launch(2, arguments)
    assert told.value.status == 1 and "prepare-data" in told.value.hint
    assert "Traceback" not in capfd.readouterr().err


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(RecipeError, match=r"train\.batch = 12 cannot be shared evenly by 5 processes"):
        train(tiny_recipe(tmp_path), data_root=tmp_path, out=tmp_path / "run")
