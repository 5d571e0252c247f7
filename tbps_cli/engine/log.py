"""What a run writes down: `log.txt` in the field's wording, `metrics.jsonl` for programs, and sinks.

Both files are cut back to the checkpoint on `--resume`, so that no line appears twice. TensorBoard
and Weights & Biases are extras, chosen by `train.loggers`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from tbps_cli import files
from tbps_cli.engine.observe import Evaluated, Progress
from tbps_cli.errors import MissingExtra, UsageError, WeightsError
from tbps_cli.types import Scores

FILES = ("log.txt", "metrics.jsonl")
_TENSORBOARD, _WANDB_ID = "tensorboard", "wandb/tbps-id"
MACHINE = ("pairs_per_second", "seconds_left", "memory_mb")
"""Columns of metrics.jsonl that tell of the machine, not of the training; MB of 2^20 bytes, the most so far."""


class Meter:
    """Running means over an epoch, weighted by the pairs of each step."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pairs: dict[str, int] = {}

    def add(self, figures: Mapping[str, float], pairs: int) -> None:
        """Count a step's figures in."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * pairs
            self.pairs[name] = self.pairs.get(name, 0) + pairs

    def means(self) -> dict[str, float]:
        """Name -> mean so far."""
        return {name: total / self.pairs[name] for name, total in self.sums.items()}

    def state(self) -> dict[str, dict[str, float] | dict[str, int]]:
        """What a checkpoint keeps."""
        return {"sums": dict(self.sums), "pairs": dict(self.pairs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The way back from `state()`."""
        self.sums, self.pairs = dict(state["sums"]), dict(state["pairs"])


class Sink(Protocol):
    """Somewhere else that curves go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """The log files of a run folder, and the sinks beside them."""

    def __init__(self, folder: Path, sinks: Sequence[Sink] = ()) -> None:
        self.folder, self.sinks = folder, sinks
        with _told(folder):
            self.files: dict[str, TextIO] = {name: (folder / name).open("a", encoding="utf-8") for name in FILES}

    def text(self, text: str) -> None:
        """One line (or table) of log.txt."""
        self._write("log.txt", text)

    def stepped(self, progress: Progress) -> None:
        """A line in the middle of an epoch."""
        self.text(step_line(progress))
        at = progress.at
        record = {"kind": "step", "epoch": at.epoch + 1, "step": progress.step, **progress.losses, "lr": progress.rate}
        machine = _machine(progress)
        self._write("metrics.jsonl", json.dumps({**record, **machine}))
        self._sink({f"train/{name}": value for name, value in progress.losses.items()}, progress.step)
        self._sink({f"train/{name}": value for name, value in {"lr": progress.rate, **machine}.items()}, progress.step)

    def evaluated(self, evaluated: Evaluated, step: int) -> None:
        """The table after an epoch."""
        scores = evaluated.scores
        self.text(f"Validation Results - Epoch: {evaluated.epoch} ({evaluated.split})\n{score_table(scores)}")
        if evaluated.guard is not None:
            self.text(str(evaluated.guard))
        self.text(f"best R1: {evaluated.best:.3f} at epoch {evaluated.best_epoch}")
        record = {"kind": "eval", "epoch": evaluated.epoch, "step": step, "split": evaluated.split, **scores._asdict()}
        self._write("metrics.jsonl", json.dumps({**record, "best": evaluated.improved}))
        self._sink({f"{evaluated.split}/{name}": value for name, value in scores._asdict().items()}, step)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file that are safely on disk: where `cut` goes back to."""
        for name, file in self.files.items():
            with _told(self.folder / name):
                file.flush()
                os.fsync(file.fileno())
        return {name: os.fstat(file.fileno()).st_size for name, file in self.files.items()}

    def close(self) -> None:
        for file in self.files.values():
            with suppress(OSError):  # every line was flushed: what is left could not be, and was told
                file.close()
        for sink in self.sinks:
            sink.close()

    def _write(self, name: str, text: str) -> None:
        with _told(self.folder / name):
            self.files[name].write(text + "\n")
            self.files[name].flush()

    def _sink(self, values: Mapping[str, float], step: int) -> None:
        for sink in self.sinks:
            sink.scalars(values, step)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """A full disk in one line; the checkpoint is whole, since logs are cut back to it."""
    with files.explained(path, WeightsError, then="Free some space, then go on with --resume."):
        yield


def _machine(progress: Progress) -> dict[str, float]:
    """What the machine makes of a step; no two runs agree on it."""
    memory = () if progress.memory is None else (round(progress.memory / 2**20),)
    return dict(
        zip(MACHINE, (round(progress.pairs_per_second, 1), round(progress.seconds_left), *memory), strict=False)
    )


def cut(folder: Path, sizes: Mapping[str, int]) -> None:
    """Shorten the log files to what they were when a checkpoint was written."""
    for name in FILES:
        path = folder / name
        if path.exists() and path.stat().st_size > sizes.get(name, 0):
            os.truncate(path, sizes.get(name, 0))


def step_line(progress: Progress) -> str:
    """`Epoch[3] Iteration[100/1064], loss: 4.1234, sdm_loss: 2.0, …, Base Lr: 1.00e-05`."""
    at = progress.at
    figures = ", ".join(f"{_spoken(name)}: {value:.4f}" for name, value in progress.losses.items())
    where = f"Epoch[{at.epoch + 1}] Iteration[{at.iteration + 1}/{at.iterations}]"
    return f"{where}, {figures}, Base Lr: {progress.rate:.2e}"


def score_table(scores: Scores) -> str:
    """The field's table of text to image: task, R1, R5, R10, mAP, mINP, three decimals."""
    from prettytable import PrettyTable

    table = PrettyTable(["task", *Scores._fields])
    table.add_row(["t2i", *(f"{value:.3f}" for value in scores)])
    return table.get_string()


def _spoken(name: str) -> str:
    """The field writes `sdm_loss` for a part, and leaves the sum, accuracies and shares as they are."""
    return name if name == "loss" or name.endswith(("_acc", "_loss", "_share")) else f"{name}_loss"


# Sinks ----------------------------------------------------------------------------------------


class TensorBoard:
    """Event files under the run folder; steps after a resume replace those written before the kill."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard", 'train.loggers = ["tensorboard"]') from None
        self.writer: Any = SummaryWriter(folder / _TENSORBOARD, purge_step=first_step or None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases under the run folder's name; a resumed run goes on in the same one."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise MissingExtra("wandb", "wandb", 'train.loggers = ["wandb"]') from None
        try:
            self.run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "tbps"),
                name=folder.name,
                id=_wandb_id(folder),
                resume="allow",
                dir=str(folder),
                config=dict(config),
            )
        except wandb.Error as error:
            first = str(error).strip().partition("\n")[0]
            raise UsageError(
                f'train.loggers = ["wandb"]: Weights & Biases refused: {first}',
                "Log in with: wandb login. Or keep the curves in the run folder with WANDB_MODE=offline.",
            ) from None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


def _wandb_id(folder: Path) -> str:
    """The run's id there, kept in the run folder: other machines have a runs/irra-0001 too."""
    path = folder / _WANDB_ID
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, f"{folder.name}-{secrets.token_hex(4)}")
    return path.read_text("utf-8").strip()


def forget_curves(folder: Path) -> None:
    """Let the curves of a run that is trained again from the beginning start anew as well."""
    shutil.rmtree(folder / _TENSORBOARD, ignore_errors=True)
    (folder / _WANDB_ID).unlink(missing_ok=True)


def sinks(names: Sequence[str], folder: Path, first_step: int, config: Mapping[str, Any]) -> list[Sink]:
    """The sinks that a recipe asks for. Raises MissingExtra with the line to type."""
    made: list[Sink] = []
    if "tensorboard" in names:
        made.append(TensorBoard(folder, first_step))
    if "wandb" in names:
        made.append(WandB(folder, config))
    return made
