"""What a person sees of a training: a live display on a terminal, plain lines anywhere else.

Everything goes to stderr except the results at the end.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbps_cli import distributed
from tbps_cli.amounts import amount
from tbps_cli.cli import render
from tbps_cli.engine.log import step_line
from tbps_cli.engine.observe import Evaluated, MemoryEstimate, Observer, Plan, Progress, Silent, TrainingSummary
from tbps_cli.models.run import Run
from tbps_cli.recipe.schema import Recipe
from tbps_cli.types import Scores

if TYPE_CHECKING:
    from rich.console import RenderableType


GAP = "   "
"""Between two figures of the display."""
WORTH_SAYING = 1.2
"""How many times as fast another precision has to be before it is named."""


@contextmanager
def watching(recipe: Recipe) -> Iterator[Observer]:
    """The observer for this process and this terminal; processes other than the first stay silent."""
    if not distributed.environment().main:
        logging.getLogger("tbps").setLevel(logging.ERROR)
        yield Silent()
    elif render.moving():
        with Live() as view:
            yield view
    else:
        yield Lines(recipe.train.log_every)


class Lines:
    """One line for each thing that happens; steps as often as the log has them."""

    def __init__(self, every: int) -> None:
        self.every = every

    def started(self, plan: Plan) -> None:
        for text in plan_lines(plan):
            render.note(text)

    def stepped(self, progress: Progress) -> None:
        if (progress.at.iteration + 1) % self.every == 0:
            render.note(f"{step_line(progress)}, {speed(progress)}")

    def decoding(self, done: int, total: int) -> None: ...

    def evaluating(self, done: int, total: int) -> None: ...

    def evaluated(self, evaluated: Evaluated) -> None:
        render.note(evaluated_line(evaluated))

    def note(self, text: str) -> None:
        render.note(text)

    def finished(self, summary: TrainingSummary) -> None:
        render.note(finished_line(summary))


class Live(Lines):
    """The same with a display below the lines: losses, rate, speed, time left, best so far.

    Lines are printed above it by the console that draws it; anything else would be written across it.
    """

    def __init__(self) -> None:
        super().__init__(every=1)
        from rich.live import Live as Screen

        console = render.console(stderr=True)
        self.screen = Screen(console=console, refresh_per_second=4, transient=True, vertical_overflow="crop")
        self.progress: Progress | None = None
        self.activity = ""

    def __enter__(self) -> Live:
        self.screen.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        self.screen.__exit__(*what)

    def stepped(self, progress: Progress) -> None:
        self.progress, self.activity = progress, "training"
        self._draw()

    def decoding(self, done: int, total: int) -> None:
        self.screen.update(bar(f"decoding images, {done:,} of {total:,}", done, total))

    def started(self, plan: Plan) -> None:
        self.screen.update("")
        super().started(plan)

    def evaluating(self, done: int, total: int) -> None:
        self.activity = f"evaluating {done:,} of {total:,}"
        self._draw()

    def evaluated(self, evaluated: Evaluated) -> None:
        super().evaluated(evaluated)
        if self.progress is not None:
            self.progress = replace(self.progress, best=evaluated.best, best_epoch=evaluated.best_epoch)
        self.activity = "saving"
        self._draw()

    def _draw(self) -> None:
        if self.progress is not None:
            self.screen.update(panel(self.progress, self.activity, self.screen.console.width))


def panel(progress: Progress, activity: str, width: int) -> RenderableType:
    """The live display: where training is, a bar, and the figures on as many lines as they need."""
    from rich.console import Group
    from rich.text import Text

    at = progress.at
    head = Text.assemble((f"epoch {at.epoch + 1}/{at.epochs}", "bold"), f"  {activity}  {speed(progress)}")
    done = at.epoch * at.iterations + at.iteration + 1
    best = "-" if progress.best is None else f"{progress.best:.2f} (epoch {progress.best_epoch})"
    figures = {name: f"{value:.4f}" for name, value in progress.losses.items()}
    figures |= {"rate": f"{progress.rate:.2e}", "best R1": best}
    lines = [Text()]
    for name, value in figures.items():
        figure = Text.assemble((name, "dim"), f" {value}")
        if lines[-1].plain and lines[-1].cell_len + len(GAP) + figure.cell_len > width:
            lines.append(Text())
        lines[-1].append_text(Text(GAP) + figure if lines[-1] else figure)
    return Group(bar(head, done, at.epochs * at.iterations), *lines)


def bar(head: RenderableType, done: int, total: int) -> RenderableType:
    """A line, and below it how much is done."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar

    # A bar ends without a line break; Padding makes whole lines of it.
    return Group(head, Padding(ProgressBar(total=total, completed=done), 0))


# Sentences ------------------------------------------------------------------------------------


def plan_lines(plan: Plan) -> list[str]:
    """What will happen, and why it was chosen so."""
    each = f" on {plan.processes} processes" if plan.processes > 1 else ""
    lines = [
        f"run: {plan.run}",
        *plan.choices,
        f"data: {plan.data}, {amount(plan.pairs, 'training pair')} of {amount(plan.identities, 'person')}; "
        f"the best epoch is chosen on {plan.select_on}",
        f"method: {plan.method}, {render.millions(plan.parameters)} parameters, "
        f"{render.millions(plan.trained)} of them trained",
        f"steps: {amount(plan.epochs, 'epoch')} of {plan.iterations:,}, {amount(plan.batch, 'pair')} each{each}",
    ]
    if plan.start.overall:
        lines.append(
            f"resumed: epoch {plan.start.epoch + 1}, after step {plan.start.iteration} of {plan.start.iterations}"
        )
    if plan.memory is not None:
        free = f" of {render.bytes_text(plan.available)} free" if plan.available else ""
        lines.append(
            f"memory: about {render.bytes_text(plan.memory.total)}{free} on {plan.device} "
            f"({', '.join(_memory_parts(plan.memory))})"
        )
    if plan.seconds is not None:
        apart = " and communication" if plan.processes > 1 else ""
        lines.append(
            f"time: about {duration(plan.seconds)}, excluding evaluation{apart} (estimated from a short probe)"
        )
    if plan.bf16_speed is not None and plan.bf16_speed >= WORTH_SAYING:
        lines.append(
            f"precision: bf16 would be {plan.bf16_speed:.1f} times as fast here "
            "(--set train.precision=bf16; the weights stay fp32)"
        )
    return lines


def _memory_parts(memory: MemoryEstimate) -> Iterator[str]:
    """What takes how much of it, in words."""
    if memory.program:
        yield f"Python, PyTorch and data {render.bytes_text(memory.program)}"
    yield f"weights and gradients {render.bytes_text(memory.weights + memory.gradients)}"
    yield f"optimiser {render.bytes_text(memory.optimizer)}"
    yield f"activations {render.bytes_text(memory.activations)}"


def speed(progress: Progress) -> str:
    """`128.4 pairs/s, 12 min left`, as soon as it is known."""
    if not progress.pairs_per_second:
        return "measuring the speed"
    text = f"{progress.pairs_per_second:.1f} pairs/s, {duration(progress.seconds_left)} left"
    return text + (f", peak memory {render.bytes_text(progress.memory)}" if progress.memory else "")


def evaluated_line(evaluated: Evaluated) -> str:
    """One evaluation in one line."""
    scores = ", ".join(f"{name} {value:.2f}" for name, value in evaluated.scores._asdict().items())
    best = "the best so far" if evaluated.improved else f"best R1: {evaluated.best:.2f} at epoch {evaluated.best_epoch}"
    line = f"epoch {evaluated.epoch} on {evaluated.split}: {scores} ({best})"
    return "; ".join([line, *(evaluated.guard.troubles if evaluated.guard else [])])


def finished_line(summary: TrainingSummary) -> str:
    """How it ended."""
    early = ", stopped early" if summary.stopped_early else ""
    return f"finished after {amount(summary.epochs, 'epoch')}{early}, {duration(summary.seconds)}"


def duration(seconds: float) -> str:
    """8000 -> "2 h 13 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def results(runs: Sequence[Path]) -> None:
    """The scores of the best epoch of each run on stdout; with several also their mean and deviation."""
    if not distributed.environment().main:
        return
    rows, found = [], []
    for folder in runs:
        facts = Run(folder).facts()
        scores = Scores(*(float(facts[name]) for name in Scores._fields))
        found.append(scores)
        rows.append([str(folder), facts["epoch"], facts["selected_on"], *(f"{value:.2f}" for value in scores)])
    if len(found) > 1:
        columns = list(zip(*found, strict=True))
        spread = [f"{statistics.mean(column):.2f} ± {statistics.stdev(column):.2f}" for column in columns]
        rows.append([f"mean ± sd of {len(found)} seeds", "", "", *spread])
    headings = ["run", "epoch", "chosen on", *Scores._fields]
    render.table(
        headings, rows, right=Scores._fields, title="Text to image, by the best epoch on the split that chose it"
    )
    protocols = {folder: protocol["line"] for folder in runs if (protocol := Run(folder).protocol)}
    if len(protocols) == len(runs) and len(set(protocols.values())) == 1:
        render.line(protocols[runs[0]])
    else:
        for folder, text in protocols.items():
            render.line(f"{folder}: {text}")
