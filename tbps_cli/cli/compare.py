"""`tbps compare`: whether two runs differ, or whether chance alone explains it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.evaluate import SplitName
from tbps_cli.cli.options import BatchSize, DataRoot, Device, Json, Sets, Words, Workers

RUN = "A run folder or an official checkpoint (file or folder)."


def command(
    first: Annotated[Path, typer.Argument(metavar="RUN", help=RUN)],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The one it is compared with.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="The data set, by name or path. Default: the runs' own."),
    ] = None,
    data_root: DataRoot = None,
    split: Annotated[SplitName, typer.Option("--split", help="Which split is ranked.")] = SplitName.test,
    worst: Annotated[
        int,
        typer.Option("--worst", metavar="N", min=0, help="Captions listed among the gains and among the losses."),
    ] = 5,
    batch: BatchSize = None,
    as_json: Json = False,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    workers: Workers = None,
) -> None:
    """Say whether two runs differ: paired bootstrap over persons, gains and losses of single captions."""
    from tbps_cli.cli import render, scores_view
    from tbps_cli.cli.evaluate import open_evaluated
    from tbps_cli.models import open_model
    from tbps_cli.places import cache_dir
    from tbps_cli.places import data_root as place_of
    from tbps_cli.retrieval.compare import compare
    from tbps_cli.retrieval.evaluate import evaluate

    _check(first, second, data)
    one, datasets = open_evaluated(first, data, data_root, split.value, device, sets or [], words)
    two = open_model(second, device=device, sets=sets or [], words=words, data_root=place_of(data_root))
    evaluations = []
    for model in (one, two):
        with render.progress(f"Embedding {datasets[0].name} {split} by {model.path}") as progress:
            evaluations.append(
                evaluate(
                    model,
                    datasets[0],
                    split.value,
                    batch=batch,
                    cache_dir=cache_dir(),
                    workers=workers,
                    progress=progress,
                )
            )
    document = compare(*evaluations, shown=worst).document()
    if as_json:
        render.document(document)
    else:
        scores_view.comparison(document)
    for evaluation in evaluations:
        if evaluation.warning:
            render.note(f"Warning: {evaluation.run}: {evaluation.warning}")


def _check(first: Path, second: Path, data: str | None) -> None:
    """Refuse what cannot be compared before anything heavy is read."""
    from tbps_cli.cli.evaluate import run_at
    from tbps_cli.errors import UsageError, WeightsError

    for path in (first, second):
        if not path.expanduser().exists():
            raise WeightsError(f"{path}: there is no such file or folder.", "Runs here: tbps runs")
    if data is not None:
        if "," in data:
            raise UsageError(f"--data {data}: runs are compared on one data set.", "Compare once for each.")
        return
    own = {str(path): run.recipe.data.name for path in (first, second) if (run := run_at(path))}
    if len(set(own.values())) > 1:
        raise UsageError(
            f"the runs belong to different data sets ({', '.join(f'{path}: {name}' for path, name in own.items())}).",
            "Name the one to compare them on: --data NAME",
        )
