"""Keeps the text tower of an opened run as a graph (`models.kept_tower`), or leaves everything as it is.

Made by whoever had to import PyTorch anyway, once a run, after the answer was given. It is compared with the tower
itself on sentences of every length before it is kept. Several processes at once: one makes it, the others go on.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli import files
from tbps_cli.errors import TbpsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.models.code_state import WEIGHTS, code_state
from tbps_cli.models.kept_files import seal
from tbps_cli.models.kept_tower import GRAPH, SWITCH, KeptTower, older, place_of
from tbps_cli.models.known_run import KnownRun
from tbps_cli.remembered import recall, remember

if TYPE_CHECKING:
    from tbps_cli.models.model import Model

try:
    import fcntl
except ImportError:  # Windows: two processes at once both make it
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")

TOLERANCE = 1e-5
"""Largest |difference| of an entry of a unit row."""
SENTENCES = (
    "a",
    "a man in a white shirt",
    "A young woman with long black hair wears a red coat, dark blue jeans and white shoes, and carries a brown bag.",
    "someone " * 90,
)
"""From one word to more than any context holds."""
FAILED = "towers"


@dataclass(frozen=True)
class Kept:
    """What it took."""

    megabytes: float
    seconds: float


def can_be_kept(model: Encoder | None) -> bool:
    """Whether a run was opened to embed a sentence, and its text tower could be kept now."""
    if not isinstance(model, KnownRun) or model.opened is None or model.tower is not None or model.batch_dependent:
        return False
    if os.environ.get(SWITCH) == "0" or any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        return False
    place = place_of(model.run, model.fingerprint)
    above = next(folder for folder in place.parents if folder.exists())
    can_write = above.is_dir() and os.access(above, os.W_OK)
    return can_write and not place.exists() and recall(FAILED, _tried(model)) is None


def keep(known: KnownRun) -> Kept | None:
    """Make the graph of a run for which `can_be_kept`; None where another process does, or it cannot be kept."""
    model, run = known.opened, known.run
    if model is None or model.weights_changed():
        return None
    place = place_of(run, known.fingerprint)
    began = time.monotonic()
    try:
        with files.explained(place, TbpsError):
            place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place) as mine:
            if not mine or place.exists():
                return None
            _make(model, place)
            for folder in older(run, known.fingerprint):
                shutil.rmtree(folder, ignore_errors=True)
            size = sum(file.stat().st_size for file in place.iterdir())
            return Kept(size / 2**20, time.monotonic() - began)
    except (TbpsError, OSError, MemoryError) as error:
        logger.debug("%s: its text tower is not kept as a graph: %s", run.folder, error)
        remember(FAILED, _tried(known), {"why": str(error)})
        return None


def _tried(known: KnownRun) -> list[object]:
    return [known.fingerprint, code_state(WEIGHTS)]


def _make(model: Model, place: Path) -> None:
    """Write the graph and compare it. Raises TbpsError where it cannot be made or differs."""
    import numpy as np

    from tbps_cli.exporting.graphs import write_text_graph
    from tbps_cli.text.bpe import Bpe

    with files.new_folder(place, place) as folder:
        write_text_graph(
            model.method, folder / GRAPH, model.tokenizer(SENTENCES), any_length=isinstance(model.tokenizer, Bpe)
        )
        seal(folder)
        token_BT = model.tokenizer(SENTENCES, query=True)
        expected_BE = model.text_arrays(token_BT)
        tower = KeptTower(folder)
        found_BE = np.concatenate([tower(token_BT[[row]]) for row in range(len(token_BT))] + [tower(token_BT)])
        difference = float(np.abs(found_BE - np.concatenate([expected_BE, expected_BE])).max())
        if not difference <= TOLERANCE:
            raise TbpsError(f"the graph of the text tower differs from it by {difference:.1e}.")


@contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Whether no other process makes the same; it is told so at once."""
    if fcntl is None:
        yield True
        return
    lock = os.open(place.with_name(f".{place.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(OSError):
                place.with_name(f".{place.name}.lock").unlink()
    finally:
        os.close(lock)
