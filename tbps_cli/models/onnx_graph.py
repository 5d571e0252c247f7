"""One ONNX graph, run by onnxruntime: opened at its first use, for a few rows in the way that is ready soonest.

What onnxruntime does to a graph before its first run pays for itself after some dozens of rows. A search asks for one
sentence and ends: there the weights are used where the file is mapped, without being rearranged or copied.
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import MissingExtra, WeightsError

OLDEST = (1, 32)
"""The version of onnxruntime that is needed, as `pyproject.toml` says too."""
FEW = 16
"""Rows up to which a graph is not made ready for many. Measured with CLIP's text tower: 0.03 s instead of 0.21 s to
open, then 0.09 s instead of 0.05 s a sentence."""


class Graph:
    """One graph file; in a process that was forked off, opened again.

    few: whether it may be asked for few rows alone. purpose: what needs onnxruntime, for the message where that is
    missing. check: called with the path before it is opened.
    Raises MissingExtra, and WeightsError when the file is not there; whether it is whole shows later.
    """

    opened: ClassVar[weakref.WeakSet[Graph]] = weakref.WeakSet()
    spins = True
    """Whether its threads go on looking for work for some milliseconds when they have none. That pays where one batch
    follows the other; after a sentence it takes the processors from the search (a third of what an answer cost)."""

    def __init__(
        self, path: Path, *, few: bool = False, purpose: str = "", check: Callable[[Path], None] = lambda _: None
    ) -> None:
        self.path, self.few, self.check = path, few, check
        self.purpose = purpose or f"searching with {path.parent}"
        if find_spec("onnxruntime") is None:
            raise MissingExtra("onnxruntime", None, self.purpose)
        check_name(path)
        if not path.is_file():
            raise _broken(path, "there is no such file")
        self.session: Any = None
        self.settled = False
        """Whether the session has run: from then on it lays out its memory as the first run has shown."""
        self.rows = 0
        self.opened.add(self)

    def open(self) -> None:
        if self.session is None:
            self.check(self.path)
            self.session, self.settled = _session(self.path, self.purpose, few=self.few, spins=self.spins), False

    def close(self) -> None:
        """Let go of its memory; it is opened again when it is used."""
        self.session = None

    def __call__(self, given: NDArray[Any]) -> NDArray[Any]:
        self.rows += len(given)
        if self.few and self.rows > FEW:
            self.few, self.session = False, None
        self.open()
        options = None if self.settled else _giving_back(self.purpose)
        found: NDArray[Any] = self.session.run(None, {self.session.get_inputs()[0].name: given}, options)[0]
        self.settled = True
        return found

    @classmethod
    def forget_all(cls) -> None:
        """Let go of every session after a fork, without closing it: closing waits for threads that are not here."""
        for graph in cls.opened:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph.session))
            graph.session = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Graph.forget_all)


class TextGraph(Graph):
    """The graph of a text tower: token ids [B, T] -> unit rows [B, E]."""

    spins = False

    def __call__(self, token_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """Where the graph takes rows of any length, without the columns past the longest caption."""
        self.open()
        if not isinstance(self.session.get_inputs()[0].shape[1], int):
            # only causal towers have such graphs: what follows a caption's end cannot be seen from there
            token_BT = np.ascontiguousarray(token_BT[:, : int(token_BT.argmax(axis=1).max()) + 1])
        return super().__call__(token_BT)


def check_name(path: Path, what: str = "") -> None:
    """Raise WeightsError for a path that onnxruntime, whose paths are UTF-8, cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise WeightsError(
            f"{what}{path}: the name is not valid UTF-8, which onnxruntime cannot open.", "Rename the folder."
        ) from None


def import_onnxruntime(purpose: str) -> Any:
    """The library. Its official builds report to their maker how they are used, unless this variable is set."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    oldest = ".".join(map(str, OLDEST))
    newer = f"Type: pip install 'onnxruntime>={oldest}'"
    try:
        import onnxruntime
    except ImportError as error:
        if find_spec("onnxruntime") is None:
            raise MissingExtra("onnxruntime", None, purpose) from None
        # one that was built for an older numpy has its explanation printed, and an error without words
        said = str(error).strip().partition("\n")[0] or "it was built for other versions of its packages"
        raise WeightsError(
            f"{purpose} needs onnxruntime {oldest} or newer, and the installed one cannot be imported: {said:.200}.",
            newer,
        ) from None
    found = tuple(int(part) for part in re.findall(r"\d+", onnxruntime.__version__)[:2])
    if found < OLDEST:
        raise WeightsError(
            f"{purpose} needs onnxruntime {oldest} or newer, and {onnxruntime.__version__} is installed: "
            "older ones read weights from outside the folder of a graph.",
            newer,
        )
    return onnxruntime


def _session(path: Path, purpose: str, *, few: bool, spins: bool) -> Any:
    onnxruntime = import_onnxruntime(purpose)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said below, once
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if few:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.intra_op_num_threads = 1  # reading the weights takes the time: threads would wait for memory
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for every kind of broken file
        raise _broken(path, str(error)) from error


def _giving_back(purpose: str) -> Any:
    """Options of a first run: what it took goes, since later runs lay out their memory anew, beside it."""
    options = import_onnxruntime(purpose).RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _broken(path: Path, reason: str) -> WeightsError:
    """Large weights lie beside their graph in a file of their own, and are forgotten when files are copied."""
    weights = path.with_name(path.name + ".data")
    if weights.name in reason or "xternal initializer" in reason:
        what = "is damaged" if weights.is_file() else "is missing"
        return WeightsError(
            f"{weights}, which holds the weights of {path.name}, {what}.", "Copy it again, or export again."
        )
    said = reason.splitlines()[0] if reason else "no reason given"
    return WeightsError(f"{path}: onnxruntime cannot open it: {said:.300}", "Copy it again, or export again.")
