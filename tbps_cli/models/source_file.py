"""Which weights file a path means, found without reading any: cheap, and without torch.

A folder of IRRA's family holds `best.pth`. One training of NAM, HAM or GA-DMS leaves three files instead, the
epochs with the best R@1 on the *test* sets of CUHK-PEDES, ICFG-PEDES and RSTPReid: the data set chooses, and who
reads a score must know that its test set did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tbps_cli.choices import Choice, Choices
from tbps_cli.data.open import find_layout
from tbps_cli.errors import WeightsError

BENCHMARKS = {"best0": "cuhk-pedes", "best1": "icfg-pedes", "best2": "rstpreid"}
"""Name of a file without its ending -> the data set on whose test split its epoch was chosen."""
SUFFIXES = {".pth", ".pt", ".bin", ".safetensors", ".ckpt"}

_BEST = "best.pth", "checkpoint_best.pth", "best.pt"


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
    for name in _BEST:
        if (path / name).is_file():
            return SourceFile(path / name)
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(found) == 1:
        return SourceFile(found[0])
    three = [file for file in found if file.stem in BENCHMARKS]
    if three:
        return _of_three(three, data)
    if found:
        raise WeightsError(
            f"{path} holds several checkpoints: {', '.join(file.name for file in found[:6])}.", "Give one of them."
        )
    raise WeightsError(
        f"{path} holds neither a run (recipe.toml) nor a checkpoint (best.pth or another .pth).",
        "Give the folder or file of one model.",
    )


def _of_three(files: list[Path], data: str | None) -> SourceFile:
    layout = find_layout(data) if data else None
    name = layout.name if layout else data
    for file in files:
        if BENCHMARKS[file.stem] == name:
            return SourceFile(file, f"{file.name} is taken, the one of {len(files)} files for {name}")
    reason = f"none is for {name}" if name else "no data set is named (--set data.name=NAME)"
    return SourceFile(files[0], f"{files[0].name} is taken, the first of {len(files)} files, since {reason}")
