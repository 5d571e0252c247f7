"""Whole runs on two processes: one is killed, one dies, another number of them goes on, evaluation is shared."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ranks import PROCESSES, enter, free_port, in_processes
from tiny_sets import cuhk_records, write_set
from tiny_training import Reporter, tiny_recipe

from tbps_cli.data.layouts import open_dataset
from tbps_cli.engine.evaluation import embedded, share
from tbps_cli.engine.train import train
from tbps_cli.errors import TbpsError
from tbps_cli.methods import find
from tbps_cli.models.model import Model
from tbps_cli.retrieval.encode import embed_split
from tbps_cli.types import Task
from tbps_cli.weights.files import read_safetensors

SETS = ["train.save_every=1e-6", "train.epochs=2", "optim.kind=sgd"]
METHODS = {
    "rde": (
        "tse_dim = 16\ntse_bn_train = true",
        ["train.batch=44", "data.noise_rate=0.25", "optim.scale={new=10.0, bias=2.0}"],
    ),
    "textreid": (
        'word_weights = "random"\ngru_input = 6\nhidden = 4\nembed = 8\nqueue = 24\ntemperature = 0.5',
        ["train.batch=12"],
    ),
}
"""They have the most to keep: trust labels and running statistics (47 captions in 44 leave a rest of 3), or queues."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, records = tmp_path_factory.mktemp("data"), cuhk_records(persons=(12, 3, 3))
    records[0]["captions"].pop()
    write_set(root / "CUHK-PEDES", records)
    return root


class Run:
    """One training in `world` processes, of which the first counts its steps."""

    def __init__(self, name: str, data: Path, out: Path, world: int = 2) -> None:
        port, ends = free_port(), [PROCESSES.Pipe(duplex=False) for _ in range(world)]
        self.pipes = [ours for ours, _ in ends]
        self.ranks = [
            PROCESSES.Process(target=train_rank, args=(theirs, rank, world, port, name, data, out))
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process, (_, theirs) in zip(self.ranks, ends, strict=True):
            process.start()
            theirs.close()

    def wait_for(self, step: int) -> None:
        assert any(said == step for said in self.heard(0))

    def heard(self, rank: int):
        """What a process says until it ends."""
        try:
            while True:
                yield self.pipes[rank].recv()
        except EOFError:
            return

    def kill(self, *ranks: int) -> None:
        for rank in ranks:
            self.ranks[rank].kill()

    def end(self) -> list[object]:
        """The last word of each process."""
        words = [list(self.heard(rank)) for rank in range(len(self.ranks))]
        for process in self.ranks:
            process.join(60)
        return [said[-1] if said else None for said in words]


def train_rank(pipe, rank, world, port, name, data, out) -> None:
    """What each process does: train, and say how it ended."""

    def work(_: int) -> None:
        try:
            more, sets = METHODS[name]
            recipe = tiny_recipe(own(out.parent, rank), name, more, [*SETS, *sets])
            train(recipe, data_root=data, out=out, resume=True, device="cpu", observer=Reporter(pipe))
            pipe.send("done")
        except TbpsError as error:
            pipe.send(error.message)

    enter(rank, world, port, work, False, str(out.parent))


def own(folder: Path, rank: int) -> Path:
    """A folder for the recipe of each process: a file that two write at once may be read half."""
    path = folder / f"rank{rank}"
    path.mkdir(exist_ok=True)
    return path


def tensors(folder: Path):
    return {name: read_safetensors(folder / name) for name in ("last.safetensors", "weights.safetensors")}


def worst(one, other) -> float:
    """The largest difference, relative to the largest entry of each tensor."""
    assert one.keys() == other.keys()
    return max(
        ((value.double() - other[key].double()).abs().max() / value.double().abs().max().clamp(min=1e-3)).item()
        for key, value in one.items()
    )


@pytest.mark.parametrize("name", ["rde", pytest.param("textreid", marks=pytest.mark.slow)])
def test_processes_that_die_and_are_killed_end_bit_identical(name, tmp_path, data) -> None:
    """After the first step one process dies; after the third, both; one process alone ends the run too."""
    assert Run(name, data, tmp_path / "whole").end() == ["done", "done"]
    run = Run(name, data, tmp_path / "cut")
    run.wait_for(1)
    run.kill(1)
    assert run.end()[0] == "another process of this training has ended."
    run = Run(name, data, tmp_path / "cut")
    run.wait_for(3)
    run.kill(0, 1)
    run.end()
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    assert Run(name, data, tmp_path / "cut").end() == ["done", "done"]
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    for file in whole:
        assert all(torch.equal(value, cut[file][key]) for key, value in whole[file].items()), file
    rows = [(tmp_path / out / "metrics.jsonl").read_text().count("\n") for out in ("whole", "cut")]
    assert rows[0] == rows[1] > 1

    # another number of processes: equal within rounding
    assert Run(name, data, tmp_path / "alone", 1).end() == ["done"]
    last, alone = whole["last.safetensors"], tensors(tmp_path / "alone")["last.safetensors"]
    assert worst(last, alone) < 1e-5
    if name == "rde":
        assert torch.equal(last["trusted"], alone["trusted"]) and not last["trusted"].all()


# Evaluation -----------------------------------------------------------------------------------


def opened(root: Path, rank: int = 0):
    recipe = tiny_recipe(own(root, rank), "clip")
    method = find("clip")(recipe.method, Task((16, 8)))
    method.initialise(torch.Generator().manual_seed(0))
    return Model(method, recipe, root), open_dataset("cuhk-pedes", root).split("train")


def embedded_here(rank: int):
    """The rows of a split whose 24 pictures and 48 captions do not share evenly, and of fewer than one batch."""
    model, split = opened(Path.cwd(), rank)
    return [*embedded(model, split, 5), *embedded(model, split, 64)]


@pytest.mark.parametrize("world", [2])
def test_a_shared_evaluation_gives_the_rows_of_one_process(tmp_path, world) -> None:
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(12, 3, 3)))
    model, split = opened(tmp_path)
    expected = [embed_split(model, split, batch=batch) for batch in (5, 64)]
    rows = [rows for one in expected for rows in (one.text_QE, one.image_GE)]
    for found in in_processes(embedded_here, tmp_path, world):
        for one, other in zip(rows, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=5e-7)


@pytest.mark.parametrize(("count", "batch", "world"), list(itertools.product((0, 1, 23, 64), (1, 4, 100), (2, 3))))
def test_shares_of_an_evaluation_are_its_rows_in_whole_batches(count, batch, world) -> None:
    shares = [share(count, batch, rank, world) for rank in range(world)]
    assert [row for one in shares for row in one] == list(range(count))
    assert all(one.start % batch == 0 or not one for one in shares)
    batches = [-(-len(one) // batch) for one in shares]
    assert max(batches) - min(batches) <= 1 and batches[0] == max(batches)
