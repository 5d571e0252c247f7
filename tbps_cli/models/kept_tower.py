"""The text tower of a run as an ONNX graph in the cache, so that a search with a sentence needs no PyTorch.

It is made once, by whoever had to open the run anyway (`exporting.keep_tower`), and belongs to the fingerprint of the
run's embeddings: a run that was trained on has another one. One is kept for each file of weights.
"""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import TbpsError
from tbps_cli.models.kept_files import check
from tbps_cli.models.onnx_graph import TextGraph
from tbps_cli.models.run import Run
from tbps_cli.places import cache_dir

FOLDER = "towers"
GRAPH = "text.onnx"
TOGETHER = 64
"""Sentences that go through the graph at a time."""


SWITCH = "TBPS_KEEP_TOWERS"
"""Set to 0, nothing is kept."""
IMAGES = "-images"
"""How the names of folders with an image tower end (`kept_images`)."""


def towers() -> Path:
    """The folder of all kept towers. Raises CacheError where there can be no cache."""
    return cache_dir() / FOLDER


def name_of(weights: Path) -> str:
    """How the names of a file's towers begin."""
    return hashlib.sha256(bytes(weights.resolve())).hexdigest()[:16]


def place_of(run: Run, fingerprint: str) -> Path:
    """The folder of a run's graph, whether it is there or not. Raises CacheError where there can be no cache."""
    return towers() / f"{name_of(run.weights_file)}-{fingerprint}"


def older(run: Run, fingerprint: str) -> list[Path]:
    """Graphs of what the same file of weights held before."""
    kept = place_of(run, fingerprint)
    found = kept.parent.glob(f"{name_of(run.weights_file)}-*")
    return [folder for folder in found if folder.name.removesuffix(IMAGES) != kept.name]


class KeptTower:
    """Token ids -> unit rows, with onnxruntime. The folder appears when it is whole (`files.new_folder`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.graph = TextGraph(folder / GRAPH, few=True, check=check)

    @classmethod
    def find(cls, run: Run, fingerprint: str) -> KeptTower | None:
        """The graph of a run's text tower, where one was kept and onnxruntime is there."""
        try:
            folder = place_of(run, fingerprint)
            return cls(folder) if (folder / GRAPH).is_file() and find_spec("onnxruntime") else None
        except (OSError, TbpsError):
            return None

    def __call__(self, token_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, E]. Raises WeightsError when the graph is damaged."""
        parts = [self.graph(token_BT[start : start + TOGETHER]) for start in range(0, len(token_BT), TOGETHER)]
        return np.concatenate(parts)

    def discard(self) -> None:
        """Take a damaged one away."""
        shutil.rmtree(self.folder, ignore_errors=True)
