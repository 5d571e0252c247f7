"""Which weights file a path means, found without reading any: cheap, and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tbps_cli.choices import Choice, Choices
from tbps_cli.data.open import find_layout
from tbps_cli.errors import WeightsError
from tbps_cli.weights.which_file import BENCHMARKS, which


@dataclass(frozen=True)
class SourceFile:
    """A weights file, and how it was chosen."""

    path: Path
    why: str = ""
    """A sentence on the choice among several; empty when there was none."""

    @property
    def choices(self) -> Choices:
        """What is known of how the authors chose this file: one of three, by its score on a test split."""
        data = BENCHMARKS.get(self.path.stem)
        if data is None:
            return Choices()
        return Choices({"epoch": Choice("test", data), "file": Choice("test", data, len(BENCHMARKS))})

    @property
    def origin(self) -> str:
        """How the authors chose this file, as a clause; empty where the name does not say."""
        data = BENCHMARKS.get(self.path.stem)
        return f"its epoch was chosen on the test split of {data}" if data else ""


def find_file(path: Path, data: str | None = None) -> SourceFile:
    """The weights file that a path means: itself, or the best one of its folder.

    data: the data set that it is wanted for, by name or path; it chooses among the three of one training.
    Raises WeightsError when there is none, or no telling which.
    """
    if path.is_file():
        return SourceFile(path)
    if not path.is_dir():
        raise WeightsError(f"{path}: there is no such file or folder.", "Give a checkpoint or a run folder.")
    chosen = which(path, [file.name for file in path.iterdir() if file.is_file()], benchmark(data))
    return SourceFile(path / chosen.name, chosen.why)


def benchmark(data: str | None) -> str | None:
    """The name of a data set that is named by its name or by its path."""
    layout = find_layout(data) if data else None
    return layout.name if layout else data
