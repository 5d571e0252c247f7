"""The plan of a run: what will happen, how long it may take, and what it needs."""

from __future__ import annotations

from tbps_cli import distributed
from tbps_cli.engine import estimate
from tbps_cli.engine.experiment import Experiment
from tbps_cli.engine.observe import Plan
from tbps_cli.engine.step import Stepper
from tbps_cli.features.image_ways import has_bf16
from tbps_cli.types import Batch, Step


def make_plan(experiment: Experiment, stepper: Stepper, first: Batch, at: Step) -> Plan:
    """Measure a few pairs of the first batch, and put the plan together.

    at: the step that comes next. Every rank must call this, since the probe gathers.
    """
    recipe, train, world = experiment.recipe, experiment.recipe.train, distributed.current().world
    found = estimate.probe(stepper, first)
    local = max(1, min(train.batch // train.accumulate, len(experiment.train)) // world)  # a set may be smaller
    may_be_half = train.precision == "fp32" and experiment.device.type == "cpu" and has_bf16()
    ask = may_be_half and world == 1 and at.overall == 0  # a run that goes on keeps its precision
    left = (at.epochs - at.epoch) * at.iterations - at.iteration
    return Plan(
        run=experiment.options.out,
        recipe=recipe.name,
        method=recipe.method.name,
        data=experiment.dataset.name,
        pairs=len(experiment.train),
        identities=experiment.train.identities,
        device=str(experiment.device),
        choices=experiment.choices,
        parameters=sum(parameter.numel() for parameter in stepper.method.parameters()),
        trained=sum(parameter.numel() for parameter in stepper.parameters),
        batch=train.batch,
        iterations=at.iterations,
        epochs=at.epochs,
        processes=world,
        select_on=train.select_on,
        start=at,
        memory=estimate.memory(stepper.method, recipe.optim.kind, found, max(1, min(train.chunk or local, local))),
        available=estimate.available(experiment.device),
        seconds=found.seconds(local) * train.accumulate * left,
        bf16_speed=estimate.bf16_speed(stepper, first, found) if ask else None,
    )
