"""Which of several files is the checkpoint, from their names alone: of a folder here, or of a repository on the hub.

open_clip's own pair comes first, then the best weights of a run, then `best.pth` as IRRA's family writes it, then a
file that is the only one. One training of NAM, HAM or GA-DMS leaves three, the epochs with the best R@1 on the *test*
sets of CUHK-PEDES, ICFG-PEDES and RSTPReid: the data set chooses, and who reads a score must know that its test set
did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from tbps_cli.errors import WeightsError

BENCHMARKS = {"best0": "cuhk-pedes", "best1": "icfg-pedes", "best2": "rstpreid"}
"""Name of a file without its ending -> the data set on whose test split its epoch was chosen."""
SUFFIXES = {".pth", ".pt", ".bin", ".safetensors", ".ckpt"}
_FIRST = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "weights.safetensors",
    "best.pth",
    "checkpoint_best.pth",
    "best.pt",
)


class Which(NamedTuple):
    """The name of the chosen file, and a sentence on the choice where there was one."""

    name: str
    why: str = ""


def which(place: object, names: Sequence[str], data: str | None = None) -> Which:
    """The checkpoint among the names of files.

    place: the folder or repository, for messages; data: the name of the data set that it is wanted for.
    Raises WeightsError when none is a checkpoint, or there is no telling which.
    """
    for name in _FIRST:
        if name in names:
            return Which(name)
    found = sorted(name for name in names if PurePath(name).suffix in SUFFIXES)
    if len(found) == 1:
        return Which(found[0])
    three = [name for name in found if name.rpartition(".")[0] in BENCHMARKS]
    if three:
        return _of_three(three, data)
    if found:
        more = f" and {len(found) - 6} more" if len(found) > 6 else ""
        raise WeightsError(f"{place} holds several checkpoints: {', '.join(found[:6])}{more}.", "Give one of them.")
    raise WeightsError(
        f"{place} holds neither a run (recipe.toml) nor a checkpoint (best.pth or another .pth).",
        "Give the folder or file of one model.",
    )


def _of_three(names: list[str], data: str | None) -> Which:
    for name in names:
        if BENCHMARKS[name.rpartition(".")[0]] == data:
            return Which(name, f"{name} is taken, the one of {len(names)} files for {data}")
    reason = f"none is for {data}" if data else "no data set is named (--set data.name=NAME)"
    return Which(names[0], f"{names[0]} is taken, the first of {len(names)} files, since {reason}")
