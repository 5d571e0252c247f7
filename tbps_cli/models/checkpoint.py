"""What `--ckpt` names: found once, from small files and heads alone, and opened when everything else is right.

A mistake should be answered at once, whatever else is missing. So finding comes first and tells what the
checkpoint is, where it lies and which data set it belongs to; then the data set is looked for; then
`open` reads weights. Finding a run or an exported folder imports no torch, and of what opens them only what is
asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tbps_cli.errors import UsageError, WeightsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.models.export_files import check_as_run
from tbps_cli.models.located import Located, located, unknown_hint
from tbps_cli.models.manifest import MANIFEST, is_exported, read_manifest
from tbps_cli.models.run import RECIPE, TOKENIZER, Run, list_runs, newest, run_of
from tbps_cli.models.settings import check_sets
from tbps_cli.places import data_root as place_of

if TYPE_CHECKING:
    from tbps_cli.data.types import Dataset
    from tbps_cli.models.exported import ExportedModel
    from tbps_cli.models.model import Model
    from tbps_cli.models.official import Official

logger = logging.getLogger("tbps")

RUNS = Path("runs")


class NoCheckpointError(WeightsError):
    """None was named, and there is nothing that could be taken instead."""


@dataclass(frozen=True)
class Checkpoint:
    """A run, an official checkpoint or an exported folder, found but not opened."""

    kind: Literal["run", "official", "exported"]
    path: Path
    """The folder or file; of what was fetched, its address or name."""
    data: str | None = None
    """The data set that it was trained on, by name or path; None where it does not say."""
    exclude: Path | None = None
    """The list of images and captions that its recipe leaves out of that data set."""
    sets: tuple[str, ...] = ()
    run: Run | None = None
    official: Official | None = None
    origin: str = ""
    """Where it was fetched, with commit or URL, and its hash."""

    @classmethod
    def find(
        cls, ckpt: str | Path | None = None, *, sets: Sequence[str] = (), runs: Path = RUNS, wanted: str | None = None
    ) -> Checkpoint:
        """Say what a path is; None means the newest run below `runs`, and a logged line names it.

        What lies on the hub (`hf-hub:OWNER/REPO[@REV][:FILE]`), and weights of open_clip's catalogue
        (`ViT-B-16/openai`), are fetched first.

        sets: `KEY=VALUE` of `[method]` or `[data]` that may change after training. wanted: the data set that it is
        wanted for, by name or path, where a folder holds one checkpoint for each of several.
        Raises WeightsError when nothing usable is there (a file that asks for code is refused here),
        RecipeError or UsageError for a wrong setting. No weights are read.
        """
        check_sets(sets)
        found = located(_newest(runs) if ckpt is None else ckpt, wanted)
        if not found.path.exists():
            hint = " ".join(part for part in (unknown_hint(str(ckpt)), _known_runs(runs)) if part)
            raise WeightsError(f"{found.path}: there is no such file or folder.", hint)
        if is_exported(found.path):
            return cls._exported(found.path, tuple(sets))
        run = run_of(found.path)
        return cls._of_run(run, tuple(sets)) if run else cls._official(found, tuple(sets), wanted)

    @classmethod
    def _exported(cls, path: Path, sets: tuple[str, ...]) -> Checkpoint:
        if sets:
            raise _fixed(path, f"--set {sets[0]}")
        return cls("exported", path, read_manifest(path).get("data"))

    @classmethod
    def _of_run(cls, run: Run, sets: tuple[str, ...]) -> Checkpoint:
        from tbps_cli.models.summary import STOPPED, summarise
        from tbps_cli.recipe.draft import read as read_draft

        table = read_draft(run.folder / RECIPE).values.get("data")
        name, exclude = (table.get("name"), table.get("exclude")) if isinstance(table, dict) else (None, None)
        # what was typed, or damaged since it was written, gets its whole message
        if sets or not isinstance(name, str) or not isinstance(exclude, str | None):
            data = run.recipe_with(sets).data
            name, exclude = data.name, data.exclude
        weights = run.weights_file  # raises where training saved none yet
        if (run.folder / MANIFEST).is_file():
            check_as_run(run.folder, (RECIPE, TOKENIZER, weights.name))
        state = summarise(run.folder).state
        if state.startswith(STOPPED):
            logger.warning(
                "%s: training %s epochs, so this is its best model so far; go on with: tbps train %s --out %s --resume",
                run.folder,
                state,
                run.folder,
                run.folder,
            )
        return cls("run", run.folder, name, Path(exclude) if exclude else None, sets, run=run)

    @classmethod
    def _official(cls, place: Located, sets: tuple[str, ...], wanted: str | None) -> Checkpoint:
        from tbps_cli.models import official

        found = official.find(place.path, sets=sets, data=wanted, stated=place.stated)
        data = found.recipe.data
        exclude = Path(data.exclude) if data.exclude else None
        return cls("official", place.shown, data.name, exclude, sets, official=found, origin=place.origin)

    def open(
        self,
        *,
        device: str = "auto",
        sets: Sequence[str] = (),
        words: str | Path | None = None,
        data_root: str | Path | None = None,
    ) -> Model | ExportedModel:
        """Read the weights. sets: further ones than `find` was given.

        device: auto, cpu, cuda, cuda:N or mps (an exported folder runs on the CPU, without torch).
        words: the word table of a method that needs one; data_root: the folder of data sets, where else it
        may lie. Raises WeightsError, RecipeError or UsageError.
        """
        if sets:
            whole = Checkpoint.find(self.path, sets=(*self.sets, *sets))
            return whole.open(device=device, words=words, data_root=data_root)
        if self.kind == "exported":
            if words is not None:
                raise _fixed(self.path, "--words")
            from tbps_cli.models.exported import ExportedModel

            return ExportedModel(self.path)
        from tbps_cli.models.model import open_official, open_run

        table, root = Path(words) if words is not None else None, place_of(data_root)
        if self.run is not None:
            return open_run(self.run, device=device, sets=self.sets, words=table)
        assert self.official is not None
        return open_official(
            self.official,
            self.path,
            origin=self.origin,
            device=device,
            sets=self.sets,
            words=table,
            data_root=root,
        )


# What library functions take: an encoder, or anything that can be opened ------------------------


def find(
    checkpoint: Encoder | Checkpoint | str | Path | None, sets: Sequence[str] = (), wanted: str | None = None
) -> Encoder | Checkpoint:
    """`Checkpoint.find` for what is neither found nor open yet. Raises UsageError for settings of an open model."""
    if checkpoint is None or isinstance(checkpoint, str | Path):
        return Checkpoint.find(checkpoint, sets=sets, wanted=wanted)
    if sets and isinstance(checkpoint, Checkpoint):
        return Checkpoint.find(checkpoint.path, sets=(*checkpoint.sets, *sets))
    if sets:
        raise UsageError(f"--set {sets[0]}: {checkpoint.path} is open already.", "Give the settings when it is opened.")
    return checkpoint


def open_data(
    owner: Encoder | Checkpoint,
    names: Sequence[str] = (),
    *,
    split: str,
    data_root: str | Path | None = None,
    hint: str = "Name one: --data NAME",
) -> list[Dataset]:
    """The data sets named, else the one that a model was trained on, each with a split that is not empty.

    data_root: the folder of data sets, as in `places.data_root`. hint: what to do where none is known.
    Raises DataError for one that is not there, UsageError when none is known.
    """
    from tbps_cli.data.open import open_dataset  # and with it every layout: a search in an index file needs none

    root = place_of(data_root)
    if names:
        datasets = [open_dataset(name, root) for name in names]
    elif owner.data:
        datasets = [open_dataset(owner.data, root, exclude=_exclude(owner))]
    else:
        raise UsageError(f"{owner.path} does not say which data set it belongs to.", hint)
    for dataset in datasets:
        dataset.split(split)
    return datasets


def _exclude(owner: Encoder | Checkpoint) -> Path | None:
    if isinstance(owner, Checkpoint):
        return owner.exclude
    stated = owner.recipe.data.exclude if owner.recipe else None
    return Path(stated) if stated else None


def open_encoder(
    owner: Encoder | Checkpoint,
    *,
    device: str = "auto",
    words: str | Path | None = None,
    data_root: str | Path | None = None,
) -> Encoder:
    """`Checkpoint.open` for what is not open yet."""
    if isinstance(owner, Checkpoint):
        return owner.open(device=device, words=words, data_root=data_root)
    return owner


def ready_encoder(
    owner: Encoder | Checkpoint,
    *,
    device: str = "auto",
    words: str | Path | None = None,
    data_root: str | Path | None = None,
    by_graph: bool = False,
) -> Encoder:
    """`open_encoder`, but the weights of a run that was opened before wait until something has to be embedded.

    by_graph: sentences of people who search go through a kept graph of the text tower (`models.known_run`).
    """
    if not isinstance(owner, Checkpoint) or owner.run is None or owner.sets or words is not None:
        return open_encoder(owner, device=device, words=words, data_root=data_root)
    from tbps_cli.models.known_run import ready_run

    return ready_run(owner.run, device, by_graph=by_graph)


def opened(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    *,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    data_root: str | Path | None = None,
) -> Encoder:
    """`find` and `open_encoder`, where nothing has to be checked between them."""
    return open_encoder(find(checkpoint, sets), device=device, words=words, data_root=data_root)


# ------------------------------------------------------------------------------------------------


def _newest(runs: Path) -> Path | str:
    path = newest(runs)
    if path is not None:
        logger.info("ckpt: %s (the newest run in %s)", path, runs)
        return path
    from tbps_cli.models.ready_weights import agreed

    ready = agreed()
    if ready is None:
        raise NoCheckpointError(
            f"there is no finished run in {runs}.", "Name one: --ckpt RUN-OR-NAME; or make one: tbps train demo"
        )
    logger.info("ckpt: %s (there is no run in %s, and these weights were agreed to before)", ready, runs)
    return ready


def _fixed(path: Path, flag: str) -> UsageError:
    return UsageError(f"{flag}: {path} is an export, its settings are fixed.", "Give the run it was made from.")


def _known_runs(runs: Path) -> str:
    known = [str(run) for run in list_runs(runs)][:5]
    if not known:
        return "Give a run folder or the file of a checkpoint."
    return f"In {runs}: {', '.join(known)}. List runs with: tbps runs"
