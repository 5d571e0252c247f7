"""Parameter counts at full size are the specification's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from tbps_cli import methods
from tbps_cli.nn.draw import shapes_alone
from tbps_cli.recipe.listing import count_parameters, entry
from tbps_cli.recipe.load import load
from tbps_cli.types import Task

TOWERS = 149_617_664


@pytest.mark.parametrize(
    ("name", "everything"),
    [
        ("irra", 194_535_419),
        ("irra-icfg-pedes", 190_482_206),
        ("irra-rstpreid", 190_789_493),
        ("clip", TOWERS),
    ],
)
def test_parameter_counts_equal_the_published_models(name: str, everything: int) -> None:
    counts = count_parameters(load(name))
    assert (counts.all, counts.trained, counts.inference) == (everything, everything, TOWERS)


class Operations(TorchDispatchMode):
    """Remembers the names of everything that PyTorch computes inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", methods.names())
def test_parameters_are_counted_without_drawing_any(name: str) -> None:
    """To draw numbers that take no memory PyTorch imports its compiler, for more than a second."""
    recipe = load(name)
    with Operations() as seen, shapes_alone():
        made = methods.find(name)(recipe.method, Task(recipe.data.image_size, 5))
    assert seen.names & {"aten::empty.memory_format"} and all(value.is_meta for value in made.parameters())
    assert not {one for one in seen.names if "normal" in one or "uniform" in one or "rand" in one}


def test_a_row_tells_paper_scores_and_protocol() -> None:
    row = entry("irra").document()
    assert (row["R1"], row["mAP"], row["selected_on"], row["venue"]) == (73.38, 66.13, "test", "CVPR")
    assert entry("own").document()["R1"] is None


def test_chance_is_what_resampled_captions_show() -> None:
    """1,000 draws of 6,156 captions, each right with the published share."""
    found = 100 * np.random.default_rng(0).binomial(6156, 0.7338, 1000) / 6156
    low, high = np.quantile(found, [0.025, 0.975])
    assert load("irra").published.chance(6156) == pytest.approx((high - low) / 2, rel=0.1)
    assert entry("irra").document()["R1_chance"] == 1.1 and entry("own").chance is None


def test_the_sampling_error_is_rounded_once(capsys: pytest.CaptureFixture[str]) -> None:
    """ECCL's is 1.0485: rounded to 1.05 first, it was shown as 1.1."""
    from tbps_cli.cli.app import main

    with pytest.raises(SystemExit):
        main(["recipes"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("eccl "))
    assert "  1.0  " in row and entry("eccl").document()["R1_chance"] == 1.05
