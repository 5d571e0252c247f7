"""Whole runs on several processes: killed together and alone, resumed by another number; evaluation is shared."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.kill_campaign import LOST, campaign, difference
from support.kills import METHODS, Run, write_data, write_recipe
from support.ranks import in_processes
from support.sets import cuhk_records, write_set
from support.training import tiny_recipe

from tbps_cli.data.open import open_dataset
from tbps_cli.engine.evaluation import embedded, share
from tbps_cli.engine.run_writer import RunWriter
from tbps_cli.engine.train import train
from tbps_cli.errors import TbpsError, WeightsError
from tbps_cli.methods import find
from tbps_cli.models.model import Model
from tbps_cli.retrieval.embed import embed_split
from tbps_cli.types import Task
from tbps_cli.weights.weights_file import read_safetensors

SETS = ("train.save_every=1e-6", "train.epochs=2", "optim.kind=sgd")
"""Stochastic gradient descent: Adam with a small eps amplifies rounding."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_two_processes_killed_together_and_alone_end_bit_identical(method, tmp_path) -> None:
    """One of three kills takes both, one each of them alone; the other then ends with a message."""
    records = campaign(method, 3, ranks=2, folder=tmp_path)
    assert records.verdict == "bit-identical" and len(records.kills) == 3


def worst(one, other) -> float:
    """The largest difference, relative to the largest entry of each tensor."""
    assert one.keys() == other.keys()
    return max(
        ((value.double() - other[key].double()).abs().max() / value.double().abs().max().clamp(min=1e-3)).item()
        for key, value in one.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rde", "textreid"])
def test_another_number_of_processes_goes_on(name, tmp_path) -> None:
    """After the first step one process dies; after the third, both; two end the run bit-identical, one and three
    within rounding. These methods have the most to keep: trust labels and running statistics, or queues.
    """
    path, data = write_recipe(tmp_path, name), write_data(tmp_path / "data")

    def run(folder, world=2):
        return Run(path, data, tmp_path / folder, world, SETS)

    assert run("whole").end() == ["done", "done"]
    cut = run("cut")
    cut.wait_for_step(1)
    cut.kill(1)
    assert cut.end()[0] == LOST
    cut = run("cut")
    cut.wait_for_step(3)
    cut.kill()
    for other in ("alone", "three"):
        shutil.copytree(tmp_path / "cut", tmp_path / other)
    assert run("cut").end() == ["done", "done"]
    assert difference(tmp_path / "whole", tmp_path / "cut") is None

    assert run("alone", 1).end() == ["done"]
    assert run("three", 3).end() == ["done"] * 3
    whole, alone, three = (read_safetensors(tmp_path / one / "last.safetensors") for one in ("whole", "alone", "three"))
    assert worst(whole, alone) < 1e-5 and worst(whole, three) < 1e-5
    if name == "rde":
        assert torch.equal(whole["trusted"], alone["trusted"]) and not whole["trusted"].all()


def failing_at_the_end(rank: int):
    """How a training ends in this rank when rank 0 cannot write its last file."""

    def no_room(*_):
        raise WeightsError("no room for the card.")

    RunWriter.finish = no_room  # in this process alone
    recipe = tiny_recipe(own(Path.cwd(), rank), sets=["train.epochs=1"])
    try:
        train(recipe, data_root=Path.cwd() / "data", out=Path.cwd() / "run", device="cpu")
    except TbpsError as error:
        return error.message
    return "done"


def test_no_process_says_that_it_is_done_before_everything_is_written(tmp_path) -> None:
    write_data(tmp_path / "data")
    assert in_processes(failing_at_the_end, tmp_path, group=False) == ["no room for the card.", LOST]


# Evaluation -----------------------------------------------------------------------------------


def own(folder: Path, rank: int) -> Path:
    """A folder for the recipe of each process: a file that two write at once may be read half."""
    path = folder / f"rank{rank}"
    path.mkdir(exist_ok=True)
    return path


def opened(root: Path, rank: int = 0):
    recipe = tiny_recipe(own(root, rank), "clip")
    method = find("clip")(recipe.method, Task((16, 8)))
    method.initialise(torch.Generator().manual_seed(0))
    return Model(method, recipe, root), open_dataset("cuhk-pedes", root).split("train")


def embedded_here(rank: int):
    """The rows of a split whose 24 images and 48 captions do not share evenly, and of fewer than one batch."""
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
