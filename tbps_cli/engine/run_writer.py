"""The run folder while a run is under way: weights, logs and the checkpoint. Only rank 0 has one."""

from __future__ import annotations

import json
import time
from typing import Any

from torch import Tensor

from tbps_cli.choices import SELECTED_ON, Choice, Choices
from tbps_cli.engine import run_folder, state
from tbps_cli.engine.experiment import Experiment
from tbps_cli.engine.log import Meter, RunLog, cut, forget_curves, sinks
from tbps_cli.engine.observe import Evaluated
from tbps_cli.engine.state import State, TrainingProgress
from tbps_cli.engine.step import Stepper
from tbps_cli.models.card import card
from tbps_cli.models.model import Model
from tbps_cli.models.run import PROTOCOL, WEIGHTS, Run
from tbps_cli.retrieval.guard import Guard
from tbps_cli.retrieval.protocol import Protocol


class RunWriter:
    """Writes what a run leaves behind, each file whole or not at all."""

    def __init__(self, experiment: Experiment, stepper: Stepper, saved: State | None) -> None:
        self.experiment, self.stepper = experiment, stepper
        self.out, self.recipe = experiment.options.out, experiment.recipe
        state.sweep(self.out)
        steps = saved.place.steps if saved else 0
        if saved is None:
            forget_curves(self.out)
        # refused where an extra is missing, before anything else is written or removed
        curves = sinks(self.recipe.train.loggers, self.out, steps, state.settings(self.recipe))
        if saved is None:
            run_folder.clear(self.out)
            self.run = Run.create(self.out, self.recipe, experiment.tokenizer, anew=True)
        else:
            self.run = Run(self.out)
        cut(self.out, saved.logs if saved else {})
        self.log = RunLog(self.out, curves)
        self.saved_at = time.monotonic()

    def best(self, evaluated: Evaluated) -> None:
        """The present weights as the best ones, with the scores and the split that chose them."""
        choices = Choices({"epoch": Choice(evaluated.split, self.experiment.dataset.name)})
        choices = choices.and_also(self.experiment.start_choices)
        facts: dict[str, object] = {**choices.facts(), "epoch": evaluated.epoch, **self._start}
        facts |= evaluated.scores._asdict()
        if evaluated.guard is not None:
            facts[PROTOCOL] = json.dumps(self._protocol(evaluated.split, choices, evaluated.guard).document())
        self.run.save_weights("best", self._weights(), facts)

    def _protocol(self, split: str, choices: Choices, guard: Guard) -> Protocol:
        """What the scores of an epoch were measured under."""
        method = self.stepper.method
        declared = method.batch_dependent(method.config)
        return Protocol(self.experiment.dataset.name, split, Model.precision, choices, guard, declared=declared)

    def last(self, epoch: int) -> None:
        """The weights after an epoch (from 1), which no split has chosen."""
        self.run.save_weights("last", self._weights(), {"epoch": epoch, **self._start})

    def _weights(self) -> dict[str, Tensor]:
        """The method's tensors without what only `--resume` needs."""
        state, left_out = self.stepper.method.state_dict(), self.stepper.method.checkpoint_only
        return {name: value for name, value in state.items() if not name.startswith(left_out)}

    @property
    def _start(self) -> dict[str, str]:
        """Where the first weights came from, when it is known: a fact about all later ones."""
        return {"started_from": self.experiment.origin} if self.experiment.origin else {}

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is older than the recipe allows."""
        return time.monotonic() - self.saved_at >= self.recipe.train.save_every

    def checkpoint(self, place: TrainingProgress, meter: Meter) -> None:
        """What `--resume` needs; a finished run keeps its place alone."""
        parts: dict[str, Any] = {}
        if not place.finished:
            parts = {
                "method": self.stepper.method.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
                "meter": meter.state(),
            }
        recipe, given = (state.settings(one) for one in (self.recipe, self.experiment.given))
        data = dict(self.experiment.data_facts)
        start = self.experiment.start_choices.document()
        state.save(self.out, State(place, recipe, self.log.sizes(), parts, given, data, self.experiment.origin, start))
        self.saved_at = time.monotonic()

    def finish(self, place: TrainingProgress) -> None:
        """The protocol of the best epoch at the end of log.txt, and `card.md`, for whoever is handed the folder."""
        protocol = self.run.protocol
        if protocol is not None:
            self.log.text(protocol["line"])
        facts = {SELECTED_ON: self.recipe.train.select_on, "epoch": place.best_epoch, **self._start}
        self.run.write_card(card(self.recipe, facts, place.best_scores, protocol=protocol["line"] if protocol else ""))

    def way_out(self) -> str:
        """After a loss that is not a number: the command that starts again with a lower rate."""
        lower = ("--set", f"optim.lr={self.recipe.optim.lr / 10:g}")
        halves = " (or with train.precision=fp32)" if self.recipe.train.precision != "fp32" else ""
        options = self.experiment.options
        if any((self.out / name).is_file() for name in WEIGHTS.values()):
            command = options.command("--init", self.out, *lower)
            return f"Start from its last good weights with a lower learning rate{halves}: {command}"
        begun = ("--init", options.init) if options.init is not None else ()
        command = options.command("--out", self.out, "--restart", *begun, *lower)
        return f"No weights were saved yet. Start again with a lower learning rate{halves}: {command}"

    def close(self) -> None:
        self.log.close()


def restore(saved: State, stepper: Stepper, meter: Meter) -> TrainingProgress:
    """Put a checkpoint's values back where they came from; returns the place."""
    stepper.method.load_state_dict(saved.parts["method"])
    stepper.optimizer.load_state_dict(saved.parts["optimizer"])
    if saved.parts["scaler"]:
        stepper.scaler.load_state_dict(saved.parts["scaler"])
    meter.restore(saved.parts["meter"])
    return saved.place
