"""The run folder while a run is under way: weights, logs and the checkpoint. Only rank 0 has one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tbps_cli import files
from tbps_cli.engine import state
from tbps_cli.engine.log import Meter, RunLog, cut, sinks
from tbps_cli.engine.observe import Evaluated
from tbps_cli.engine.state import Place, State
from tbps_cli.engine.step import Stepper
from tbps_cli.errors import UsageError, WeightsError
from tbps_cli.models.card import card
from tbps_cli.models.run import Run
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer


def existing_checkpoint(out: Path, init: Path | None, resume: bool) -> State | None:
    """The checkpoint to go on from, after checking that the folder is what the flags say."""
    if init is not None and not init.exists():
        raise WeightsError(f"--init {init}: there is no such file or folder.")
    files.check_place("--out", out, inside=True)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file.", "Name a folder.")
    if not resume and any((out / name).exists() for name in (state.FILE, "recipe.toml", "weights.safetensors")):
        raise UsageError(f"--out {out} holds a run already.", "Add --resume to go on with it, or name another folder.")
    return state.load(out) if resume else None


class RunWriter:
    """Writes what a run leaves behind, each file whole or not at all."""

    def __init__(self, out: Path, recipe: Recipe, stepper: Stepper, tokenizer: Tokenizer, saved: State | None) -> None:
        self.out, self.recipe, self.stepper = out, recipe, stepper
        state.sweep(out)
        steps = saved.place.steps if saved else 0
        curves = sinks(recipe.train.loggers, out, steps, state.settings(recipe))  # refused: the folder is no run yet
        self.run = Run.create(out, recipe, tokenizer, anew=True) if saved is None else Run(out)
        cut(out, saved.logs if saved else {})
        self.log = RunLog(out, curves)
        self.saved_at = time.monotonic()

    def best(self, evaluated: Evaluated) -> None:
        """The present weights as the best ones, with the scores and the split that chose them."""
        facts = {"selected_on": evaluated.split, "epoch": evaluated.epoch, **evaluated.scores._asdict()}
        if evaluated.guard is not None:
            facts["guard"] = str(evaluated.guard)
        self.run.save_weights("best", self.stepper.method.state_dict(), facts)

    def last(self, epoch: int) -> None:
        """The weights after an epoch (from 1), which no split has chosen."""
        self.run.save_weights("last", self.stepper.method.state_dict(), {"epoch": epoch})

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is older than the recipe allows."""
        return time.monotonic() - self.saved_at >= self.recipe.train.save_every

    def checkpoint(self, place: Place, meter: Meter) -> None:
        """What `--resume` needs; a finished run keeps its place alone."""
        parts: dict[str, Any] = {}
        if not place.finished:
            parts = {
                "method": self.stepper.method.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
                "meter": meter.state(),
            }
        state.save(self.out, State(place, state.settings(self.recipe), self.log.sizes(), parts))
        self.saved_at = time.monotonic()

    def card(self, place: Place) -> None:
        """`card.md`: what this run is, for whoever is handed the folder."""
        facts = {"selected_on": self.recipe.train.select_on, "epoch": place.best_epoch}
        self.run.write_card(card(self.recipe, facts, place.best_scores))

    def last_good(self) -> str:
        """A hint that names the newest checkpoint."""
        saved = state.load(self.out)
        if saved is None:
            return "Nothing was saved yet: lower optim.lr, or set train.precision=fp32."
        place = saved.place
        return (
            f"The last good checkpoint is {self.out / state.FILE} (epoch {place.epoch + 1}, after {place.iteration} of "
            f"its steps). Start anew with a lower optim.lr or train.precision=fp32, for example with --init {self.out}."
        )

    def close(self) -> None:
        self.log.close()


def restore(saved: State, stepper: Stepper, meter: Meter) -> Place:
    """Put a checkpoint's values back where they came from; returns the place."""
    stepper.method.load_state_dict(saved.parts["method"])
    stepper.optimizer.load_state_dict(saved.parts["optimizer"])
    if saved.parts["scaler"]:
        stepper.scaler.load_state_dict(saved.parts["scaler"])
    meter.restore(saved.parts["meter"])
    return saved.place
