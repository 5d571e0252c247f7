"""Training from the first step to the last: one loop for every method, device count and precision.

Everything random follows from (seed, epoch, place), so a checkpoint holds no generator and a resumed
run repeats nothing and loses nothing. Only rank 0 evaluates, writes and talks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from tbps_cli import distributed, places
from tbps_cli.amounts import amount
from tbps_cli.augment.rng import Draws
from tbps_cli.engine import estimate, optim, run_folder, schedule, state
from tbps_cli.engine.components import to_device
from tbps_cli.engine.deterministic import deterministic_algorithms
from tbps_cli.engine.evaluation import select_scores
from tbps_cli.engine.experiment import Experiment, Options, prepare
from tbps_cli.engine.kept_memory import freed_memory_kept
from tbps_cli.engine.log import Meter
from tbps_cli.engine.loss_reader import LossReader, NotFinite, Seen
from tbps_cli.engine.observe import Evaluated, Observer, Progress, Silent, TrainingSummary
from tbps_cli.engine.plan import make_plan
from tbps_cli.engine.run_writer import RunWriter, restore
from tbps_cli.engine.state import State, TrainingProgress
from tbps_cli.engine.step import Stepper
from tbps_cli.engine.stops import Interrupted, StopRequest, interruptible, memory_advice, stop_on_signal
from tbps_cli.recipe.load import build, drafted
from tbps_cli.recipe.schema import Recipe
from tbps_cli.types import Batch, Features, Step


def train(
    recipe: str | Path | Recipe,
    sets: Sequence[str] = (),
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    init: str | Path | None = None,
    resume: bool = False,
    restart: bool = False,
    device: str = "auto",
    workers: int | None = None,
    observer: Observer | None = None,
) -> Path:
    """Train a recipe into a run folder, and return the folder.

    recipe: a shipped name, a file, or one that was loaded. sets: `KEY=VALUE` settings on top of a name or file.
    out: a new folder; with `resume` that of a run to go on with (a finished one is left alone), with `restart`
    that of a run to train again from the beginning. Left out: the next `runs/NAME-NNNN`, or the newest with `resume`.
    init: a run or official checkpoint whose fitting tensors are the start; the tower follows it, unless `sets`,
    a file of one's own or a loaded recipe states another.
    workers: instead of `train.workers`. Under torchrun every process calls this alike.
    Raises TbpsError for whatever the user can mend; `stops.Interrupted` after Ctrl-C.
    """
    tower_is_set = True
    if not isinstance(recipe, Recipe):
        draft = drafted(recipe, sets)
        recipe, tower_is_set = build(draft), draft.is_stated(("method", "tower"))
    options = Options(
        data_root=places.data_root(Path(data_root) if data_root is not None else None),
        out=run_folder.choose(recipe, Path(out) if out is not None else None, resume=resume),
        init=Path(init) if init is not None else None,
        device=device,
        workers=workers,
        tower_is_set=tower_is_set,
    )
    return train_into(recipe, options, resume=resume, restart=restart, observer=observer)


def train_into(
    recipe: Recipe, options: Options, *, resume: bool, restart: bool, observer: Observer | None = None
) -> Path:
    """Train into the folder of the options, as `train` says."""
    main, out = distributed.environment().main, options.out
    watcher: Observer = (observer or Silent()) if main else Silent()
    with interruptible(), run_folder.held(out) if main else nullcontext():
        saved = run_folder.existing_checkpoint(out, resume=resume, restart=restart)
        if resume and saved is None:
            watcher.note(f"{out} holds no checkpoint: training starts from the beginning.")
        if saved is not None and saved.place.finished:
            state.require_same(saved, recipe, out)
            watcher.note(f"{out} is finished ({amount(saved.place.epoch, 'epoch')}): there is nothing to resume.")
            return out
        with deterministic_algorithms(recipe.train.deterministic):  # before anything is computed
            experiment = prepare(recipe, options, saved, watcher.decoding)
            distributed.start(str(experiment.device))
            try:
                on_cpu = experiment.device.type == "cpu"
                with distributed.readable_errors(), memory_advice(experiment.recipe.train), freed_memory_kept(on_cpu):
                    Training(experiment, saved, watcher).run()
            finally:
                distributed.stop()
    return out


class Training:
    """One run under way: its experiment, its place, and the loop."""

    def __init__(self, experiment: Experiment, saved: State | None, observer: Observer) -> None:
        self.experiment, self.observer = experiment, observer
        self.method, self.loader, self.recipe = experiment.method, experiment.loader, experiment.recipe
        to_device(self.method, experiment.device)
        optimizer = optim.build(self.method, self.recipe.optim)
        self.stepper = Stepper(self.method, optimizer, train=self.recipe.train, clip_norm=self.recipe.optim.clip_norm)
        self.place, self.meter, self.reader, self.clock = TrainingProgress(), Meter(), LossReader(), estimate.Clock()
        if saved is not None:
            self.place = restore(saved, self.stepper, self.meter)
        self.saved = saved
        self.writer: RunWriter | None = None
        """Of rank 0, once training begins."""
        self.evaluation_seconds = 0.0
        self.began = time.monotonic() - self.place.seconds
        if experiment.note:
            observer.note(experiment.note)

    def run(self) -> None:
        """Train to the end, or until somebody or something stops it."""
        try:
            with stop_on_signal() as request:
                self._announce()
                self._begin()
                while self.place.epoch < self.recipe.train.epochs and not self._patience_ended():
                    self._epoch(request)
            self._finish()
        except NotFinite as error:
            error.hint = self.writer.way_out() if self.writer else None
            raise
        finally:
            self.loader.close()
            if self.writer:
                self.writer.close()

    def _begin(self) -> None:
        """Make the run folder a run. Before this, a training that cannot be done leaves nothing behind."""
        distributed.barrier()  # every rank has looked at the folder before rank 0 writes into it
        if distributed.current().main:
            self.writer = RunWriter(self.experiment, self.stepper, self.saved)
            if self.place.steps == 0:
                self._save()  # from here on, whoever kills this run can resume it

    # An epoch -----------------------------------------------------------------------------

    def _epoch(self, request: StopRequest) -> None:
        """Train one epoch, or what is left of it, and close it."""
        place, each = self.place, self.recipe.train.accumulate
        if place.iteration == 0:
            draws = Draws.of(self.recipe.train.seed, place.epoch, -1, "epoch").torch
            self.method.start_epoch(self._pass_over(place.epoch, request), draws)
        self.method.train()
        batches = self.loader.epoch(place.epoch, start=place.iteration * each)
        while micro := list(islice(batches, each)):
            self._step(micro)
            self._stop_or_save(request)
        self._settle()
        self._close_epoch()

    def _step(self, micro: list[Batch]) -> None:
        """One optimiser step at the present place."""
        at = self._at()
        schedule.set_rates(self.stepper.optimizer, self.recipe.optim, at)
        # accuracies are read at once, which on a GPU waits for the step: there only now and then
        every = 1 if self.stepper.device.type == "cpu" else max(1, self.recipe.train.log_every // 10)
        outcome = self.stepper(micro, at, measure=at.iteration % every == 0)
        self.place.iteration += 1
        self.place.steps += 1
        self.reader.put(at, self.place.steps, outcome)
        self._report(self.reader.take())

    def _at(self) -> Step:
        return Step(self.place.epoch, self.place.iteration, self._iterations(), self.recipe.train.epochs)

    def _iterations(self) -> int:
        """Optimiser steps of the present epoch: the loader's micro-batches in groups."""
        return -(-self.loader.iterations(self.place.epoch) // self.recipe.train.accumulate)

    def _pass_over(self, epoch: int, request: StopRequest) -> Iterator[tuple[Features, Batch]]:
        """Every training pair once, embedded as in evaluation and without gradient, the rows of all ranks together.

        Order and augmentation are those of an epoch past the last, so that no batch is what training sees next.
        """
        self.method.eval()
        for batch in self.loader.epoch(epoch + self.recipe.train.epochs):
            yield self.stepper.look(batch)
            self._stop_or_save(request)
        self.clock.pause()

    def _stop_or_save(self, request: StopRequest) -> None:
        """Between two steps: save when it is time, and stop when somebody asked for it."""
        stop = distributed.any_rank(request.stop)
        if stop or (self.writer and self.writer.due):
            self._save()
        if stop:
            options = self.experiment.options
            raise Interrupted(
                f"stopped at epoch {self.place.epoch + 1} after {self.place.iteration} of {self._iterations()} steps; "
                "everything is saved.",
                f"Go on with: {options.command('--out', options.out, '--resume')}",
            )

    def _close_epoch(self) -> None:
        """Evaluate when it is time, save the weights, and move on to the next epoch."""
        place, number = self.place, self.place.epoch + 1
        if self.writer:
            speed = f"Time per batch: {self.clock.step:.3f}[s] Speed: {self.clock.pairs:.1f}[samples/s]"
            self.writer.log.text(f"Epoch {number} done. {speed}")
        if number % self.recipe.train.eval_every == 0 or number == self.recipe.train.epochs:
            self._evaluate(number)
        if self.writer:
            self.writer.last(number)
        place.epoch, place.iteration, self.meter = number, 0, Meter()
        self._save()

    def _evaluate(self, number: int) -> None:
        """Score the `select_on` split, all ranks together; keep the weights when they are the best so far."""
        started, place = time.monotonic(), self.place
        scores, found = select_scores(self.experiment, self.observer.evaluating)
        improved = place.best is None or place.best < scores.R1  # strictly: the earlier of equals stays
        place.stale = 0 if improved else place.stale + 1
        if improved:
            place.best, place.best_epoch, place.best_scores = scores.R1, number, scores._asdict()
        evaluated = Evaluated(number, self.recipe.train.select_on, scores, *self._best(), improved, found)
        if self.writer:
            if improved:
                self.writer.best(evaluated)
            self.writer.log.evaluated(evaluated, place.steps)
        self.observer.evaluated(evaluated)
        self.evaluation_seconds = time.monotonic() - started
        self.clock.pause()

    def _best(self) -> tuple[float, int]:
        """R@1 of the best epoch so far, and its number from 1."""
        assert self.place.best is not None and self.place.best_epoch is not None
        return self.place.best, self.place.best_epoch

    def _patience_ended(self) -> bool:
        patience = self.recipe.train.patience
        return patience is not None and self.place.stale >= patience

    def _save(self) -> None:
        """Write the checkpoint, once every loss and weight in it is known to be a number."""
        self._settle()
        if not state.is_finite(self.method):
            raise NotFinite(self._at(), "a weight", float("nan"), [])
        self.place.seconds = time.monotonic() - self.began
        if self.writer:
            self.writer.checkpoint(self.place, self.meter)

    def _finish(self) -> None:
        """Mark the run as finished, and say how it went."""
        place = self.place
        place.finished, early = True, place.epoch < self.recipe.train.epochs
        place.seconds = time.monotonic() - self.began
        best, best_epoch = self._best()
        if self.writer:
            self.writer.log.text(f"finished: best R1: {best:.3f} at epoch {best_epoch}")
            self.writer.finish(place)
            self.writer.checkpoint(place, self.meter)
        distributed.barrier()  # no process says that it is done before everything is written
        self.observer.finished(TrainingSummary(place.epoch, place.seconds, early))

    # What is said ---------------------------------------------------------------------------

    def _announce(self) -> None:
        """Measure a few pairs, and tell the plan."""
        first = next(self.loader.epoch(self.place.epoch))  # any batch will do, and the first is always there
        self.method.train()
        self.observer.started(make_plan(self.experiment, self.stepper, first, self._at()))

    def _report(self, seen: list[Seen]) -> None:
        """Count arrived figures in, show them, and log every so many."""
        for one in seen:
            self.meter.add(one.figures, one.pairs)
            self.clock.tick(one.pairs)
            progress = self._progress(one)
            self.observer.stepped(progress)
            if self.writer and (one.at.iteration + 1) % self.recipe.train.log_every == 0:
                self.writer.log.stepped(progress)

    def _progress(self, one: Seen) -> Progress:
        at, place = one.at, self.place
        evaluations = -(-(at.epochs - at.epoch) // self.recipe.train.eval_every)
        left = (at.epochs - at.epoch) * at.iterations - at.iteration - 1
        return Progress(
            at=at,
            step=one.step,
            losses=self.meter.means(),
            rate=schedule.rate(self.recipe.optim, self.recipe.optim.lr, at),
            pairs_per_second=self.clock.pairs,
            seconds_left=self.clock.step * left + self.evaluation_seconds * evaluations,
            best=place.best,
            best_epoch=place.best_epoch,
            memory=estimate.highest(self.stepper.device),
        )

    def _settle(self) -> None:
        """Wait for every figure that is still on its way, so that nothing unchecked is saved."""
        self._report(self.reader.take(all_of_them=True))
