"""`tbps convert` as a function: a foreign checkpoint becomes a run folder.

What costs nothing is checked first: whether the file and the new folder are possible is known before torch is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli import methods, places
from tbps_cli.errors import WeightsError
from tbps_cli.files import check_new_folder, new_folder
from tbps_cli.models.card import card
from tbps_cli.models.located import located
from tbps_cli.models.manifest import is_exported
from tbps_cli.models.run import DOUBTFUL, Run, number, run_of
from tbps_cli.models.settings import check_sets
from tbps_cli.models.source_file import find_file

if TYPE_CHECKING:
    from tbps_cli.models.official import Converted, Official
    from tbps_cli.weights.surplus import Extra

logger = logging.getLogger("tbps")


@dataclass(frozen=True)
class Conversion:
    """The run that was written, and what of the file is not in it."""

    run: Run
    left_out: tuple[Extra, ...]


def convert(
    path: str | Path,
    out: str | Path | None = None,
    *,
    method: str | None = None,
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    data_root: str | Path | None = None,
) -> Run:
    """Turn an official checkpoint (file or folder) into a run folder: `convert_file` without its report."""
    return convert_file(path, out, method=method, sets=sets, words=words, data_root=data_root).run


def convert_file(
    path: str | Path,
    out: str | Path | None = None,
    *,
    method: str | None = None,
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    data_root: str | Path | None = None,
) -> Conversion:
    """Turn an official checkpoint (file or folder) into a run folder.

    out: a new folder; left out, the next `runs/METHOD-NNNN`. method: read it as this one; what this method does not
    read outside the towers is then left out. sets: `KEY=VALUE` for what no file says. words: the word table of a
    method that needs one; data_root: the folder of data sets, where else it may lie.
    Raises WeightsError, RecipeError or UsageError.
    """
    given = path
    if out is not None:
        check_new_folder("--out", Path(out), inside=True)
    check_sets(sets)
    if method is not None:
        methods.check(method)
    place = located(given)
    path = place.path
    if path.is_dir() and (is_exported(path) or run_of(path)):
        kind = "an exported model" if is_exported(path) else "a run already"
        raise WeightsError(f"{path} is {kind}: there is nothing to convert.", f"Use it as it is: --ckpt {path}")
    find_file(path)

    from tbps_cli.models import official

    found = official.find(path, method=method, sets=sets, stated=place.stated)
    converted = found.load(words=Path(words) if words else None, data_root=places.data_root(data_root))
    folder = Path(out) if out is not None else number(Path("runs"), converted.recipe.method.name)
    if out is not None and folder.is_dir():  # it may be a place of its own, such as a mounted disk: it is filled
        _write(found, converted, folder, place.origin)
    else:
        with new_folder(folder, f"--out {folder}", WeightsError) as draft:
            _write(found, converted, draft, place.origin)
    logger.info("convert: %s -> %s: %s", place.shown, folder, converted.coverage)
    return Conversion(Run(folder), converted.coverage.left_out)


def _write(found: Official, converted: Converted, folder: Path, origin: str) -> None:
    """Fill an empty folder with the run that a checkpoint has become. origin: where it was fetched, if it was."""
    recipe, source = converted.recipe, found.source
    run = Run.create(folder, recipe, converted.tokenizer)
    facts: dict[str, object] = {"method": recipe.method.name, "converted_from": origin or source.path.name}
    facts |= found.choices.facts()
    doubtful = sum(extra.role != "training" for extra in converted.coverage.left_out)
    if doubtful:
        facts[DOUBTFUL] = doubtful
    run.save_weights("best", converted.tensors, facts)
    run.write_card(card(recipe, facts, origin=source.origin, left_out=converted.coverage.left_out))
