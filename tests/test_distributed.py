"""Two real processes over gloo: together they are one process with the whole batch."""

import signal
import socket
from pathlib import Path

import pytest
import torch
from support.ranks import in_processes
from support.sets import cuhk_records, write_set
from support.training import tiny_recipe, write_data

from tbps_cli import distributed, methods
from tbps_cli.engine.launch import launch
from tbps_cli.engine.train import train
from tbps_cli.errors import RecipeError, TbpsError
from tbps_cli.types import Task
from tbps_cli.weights.weights_file import read_safetensors


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
    return value, parameter.grad, flags, distributed.broadcast_object({"rank": rank}), distributed.current().rank


def test_ranks_agree_on_values_flags_and_half_used_parameters(tmp_path) -> None:
    for rank, (value, gradient, flags, same, number) in enumerate(in_processes(small_messages, tmp_path)):
        assert value.tolist() == [1.0, 1.0] and gradient.tolist() == [0.5, 0.5]
        assert flags == (True, False) and same == {"rank": 0} and number == rank


def test_one_process_alone_needs_no_group() -> None:
    rows = torch.ones(2, 3)
    assert distributed.start().world == 1 and distributed.current().main
    assert distributed.gather(rows, [2]) is rows and distributed.row_counts(2) == [2]
    assert distributed.any_rank(True) and distributed.broadcast_object("x") == "x"
    distributed.barrier()
    distributed.stop()


def test_large_parameters_are_reduced_in_buckets(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET", 10)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (4, 4, 4, 20, 1)]
    parameters.append(torch.nn.Parameter(torch.zeros(1, dtype=torch.float16)))
    sizes = [[parameter.numel() for parameter in bucket] for bucket in distributed._buckets(parameters)]
    assert sizes == [[4, 4], [4], [20], [1], [1]]


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def torchrun(monkeypatch, **changed) -> None:
    for name, value in {**TORCHRUN, **changed}.items():
        monkeypatch.setenv(name, value)


def test_only_a_complete_environment_of_torchrun_counts(monkeypatch) -> None:
    torchrun(monkeypatch)
    assert (distributed.environment().rank, distributed.environment().world) == (1, 2)
    for name in TORCHRUN:
        with monkeypatch.context() as without:
            without.delenv(name)
            assert distributed.environment() == distributed.Ranks()


@pytest.mark.parametrize("changed", [{"RANK": "first"}, {"RANK": "2"}, {"RANK": "-1"}])
def test_a_broken_environment_is_a_user_error(monkeypatch, changed) -> None:
    torchrun(monkeypatch, **changed)
    with pytest.raises(TbpsError, match="RANK"):
        distributed.environment()


@pytest.mark.parametrize("meet", [distributed.start, lambda: distributed.agreed("folder", str)])
def test_a_port_in_use_is_one_clear_line(monkeypatch, meet) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        torchrun(monkeypatch, RANK="0", MASTER_PORT=str(taken.getsockname()[1]))
        with pytest.raises(TbpsError, match=r"the 2 processes cannot meet at 127\.0\.0\.1:\d+: .* in use") as told:
            meet()
    assert "--master_port" in told.value.hint and "\n" not in told.value.message


def trained(rank: int):
    """A whole tiny training in this rank, in the working folder."""
    folder, world = Path.cwd(), distributed.environment().world
    sets = ["train.epochs=2", "optim.kind=sgd", "optim.lr=1e-3", "train.batch=46", "method.temperature=0.5"]
    own = folder / f"{rank} of {world}"  # its recipe: a file that two write at once may be read half
    own.mkdir()
    train(tiny_recipe(own, "irra", sets=sets), data_root=folder, out=folder / f"run{world}")
    return True


def test_two_processes_train_to_the_weights_of_one(tmp_path, monkeypatch) -> None:
    """Batches of 46 and a rest of 1, stochastic gradient descent: Adam with a small eps amplifies rounding.

    Apart by 1.2e-5 at most of what a bias moved, on a processor with AMX.
    """
    records = cuhk_records(persons=(12, 3, 3))
    records[0]["captions"].pop()
    write_set(tmp_path / "CUHK-PEDES", records)
    monkeypatch.chdir(tmp_path)
    trained(0)
    in_processes(trained, tmp_path, group=False)
    one, two = (read_safetensors(tmp_path / f"run{world}" / "last.safetensors") for world in (1, 2))
    start = build_start(tmp_path)
    for name, value in one.items():
        moved = (value - start[name]).abs().max().item()
        assert (value - two[name]).abs().max().item() <= 3e-5 * max(moved, value.abs().max().item()), name
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
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TBPS_LAUNCHED", raising=False)
    with pytest.raises(TbpsError, match="CUHK-PEDES is not in") as told:
        launch(2, arguments)
    assert told.value.status == 1 and "prepare-data" in told.value.hint
    assert "Traceback" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path, monkeypatch) -> None:
    torchrun(monkeypatch, WORLD_SIZE="5")
    with pytest.raises(RecipeError, match=r"train\.batch = 12 cannot be shared evenly by 5 processes"):
        train(tiny_recipe(tmp_path), data_root=tmp_path, out=tmp_path / "run")
