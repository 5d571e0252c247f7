"""What a search does after its answer, once a run, so that the next ones begin sooner: a line says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps_cli.features.encoder import Encoder


def keep_tower(model: Encoder | None) -> None:
    """Keep the text tower of a run that had to be opened for a sentence, where it can be kept."""
    if getattr(model, "opened", None) is None:  # only a run is opened later than it is known
        return
    from tbps_cli.cli import output, render
    from tbps_cli.exporting.keep_tower import can_be_kept, keep
    from tbps_cli.models.kept_tower import SWITCH
    from tbps_cli.models.known_run import KnownRun

    if not isinstance(model, KnownRun) or not can_be_kept(model):
        return
    output.stdout.flush()  # whoever reads the answer has it already
    render.note(
        f"Keeping the text tower of {model.path} as a graph, so that searches with it begin sooner (some seconds, "
        f"once; Ctrl-C leaves it out, {SWITCH}=0 always)"
    )
    try:
        kept = keep(model)
    except KeyboardInterrupt:
        render.note("Not kept.")
        return
    if kept is not None:
        render.note(f"Kept: {kept.megabytes:.0f} MB in the cache, in {kept.seconds:.0f} s")
