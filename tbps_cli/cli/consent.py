"""Weights for somebody who has trained nothing: which there are, and fetching them once they are agreed to."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tbps_cli.models.checkpoint import NoCheckpointError
    from tbps_cli.models.ready_weights import ReadyWeights


Result = TypeVar("Result")


def with_weights(
    run: Callable[[Path | str | None], Result], ckpt: Path | None, command: Sequence[str], *, download: bool
) -> Result:
    """What a command gives with the checkpoint that was named; where there is none, with weights agreed to now."""
    from tbps_cli.models.checkpoint import NoCheckpointError

    try:
        return run(ckpt)
    except NoCheckpointError as missing:
        agreed = _weights(missing, command, download=download)
    return run(agreed)


def _weights(missing: NoCheckpointError, command: Sequence[str], *, download: bool) -> str:
    """What `--ckpt` takes instead of a run, fetched now. Says which choices there are.

    command: what was typed, for the commands to copy; download: fetching was agreed to on the command line, else a
    person at a terminal is asked. Raises WeightsError when nobody agrees.
    """
    from tbps_cli.cli import render
    from tbps_cli.errors import WeightsError
    from tbps_cli.models.ready_weights import CHOICES, agree

    _show(missing.message, CHOICES, command)
    first = CHOICES[0]
    if not download and not (_is_asked() and _says_yes(f"Fetch {first.name} ({first.size}) now? [y/N] ")):
        hint = "Choose one of those above; or train one: tbps train demo"
        raise WeightsError("there are no weights to search with, and none were fetched.", hint)
    render.note(f"Fetching {first.name}, {first.size}: {first.ckpt}")
    return agree(first)


def _show(message: str, choices: Sequence[ReadyWeights], command: Sequence[str]) -> None:
    from tbps_cli.cli import render

    render.note(f"{message[:1].upper()}{message[1:]} Without any training, choose one of these:")
    rows = [("", "weights", "size", "R@1", "terms")]
    rows += [
        (f"{number}.", choice.name, choice.size, f"{choice.recall_at_1:.1f}", choice.terms)
        for number, choice in enumerate(choices, 1)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        cells[3] = row[3].rjust(widths[3])
        render.note("  ".join(cells).rstrip())
    render.note("R@1: % on CUHK-PEDES without its training images; NAM's and HAM's epoch was chosen there.")
    render.note("")
    for number, choice in enumerate(choices, 1):
        if choice.by_hand:
            render.note(f"{number}. Fetch {choice.by_hand}, then:")
        ending = ["--download"] if number == 1 else ["--ckpt", choice.ckpt]
        lead = "   " if choice.by_hand else f"{number}. "
        render.note(lead + shlex.join([*command, *ending]))
    render.note("")


def _is_asked() -> bool:
    """Whether a person can answer, and would see the question."""
    from tbps_cli.cli import output

    return sys.stdin is not None and sys.stdin.isatty() and output.stderr.isatty()


def _says_yes(question: str) -> bool:
    from tbps_cli.cli import output

    output.stderr.write(question)
    output.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
