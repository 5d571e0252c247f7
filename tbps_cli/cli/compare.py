"""`tbps compare`: whether two runs differ by more than sampling error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import BatchSize, DataRoot, Device, Json, Ranked, Sets, SplitName, Words, Workers

RUN = "A run folder or an official checkpoint (file or folder)."


def command(
    first: Annotated[Path, typer.Argument(metavar="RUN", help=RUN)],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The run it is compared with.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="The data set, by name or path. Default: the runs' own."),
    ] = None,
    data_root: DataRoot = None,
    split: Ranked = SplitName.test,
    worst: Annotated[
        int,
        typer.Option(
            "--worst", metavar="N", min=0, help="How many captions to list that gained most, and that lost most."
        ),
    ] = 5,
    across_protocols: Annotated[
        bool,
        typer.Option(
            "--across-protocols",
            help="Judge the difference even where the runs were not chosen or scored under the same conditions.",
        ),
    ] = False,
    batch: BatchSize = None,
    as_json: Json = False,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    workers: Workers = None,
) -> None:
    """Test whether two runs differ (paired bootstrap over persons), and list the captions that gained or lost most."""
    from tbps_cli.cli import render, scores_view
    from tbps_cli.errors import UsageError
    from tbps_cli.places import cache_dir
    from tbps_cli.retrieval.compare import compare_checkpoints

    if data is not None and "," in data:
        raise UsageError(f"--data {data}: runs are compared on one data set.", "Compare once for each.")
    comparison = compare_checkpoints(
        first,
        second,
        data,
        split.value,
        shown=worst,
        across_protocols=across_protocols,
        data_root=data_root,
        device=device,
        sets=sets or (),
        words=words,
        batch=batch,
        cache_dir=cache_dir(),
        workers=workers,
        watch=lambda run: render.progress(f"Embedding the {split} split by {run}"),
    )
    if as_json:
        render.document(comparison.document())
    else:
        scores_view.comparison(comparison.document())
    for evaluation in (comparison.first, comparison.second):
        if evaluation.warning:
            render.note(f"Warning: {evaluation.run}: {evaluation.warning}")
