"""A run is a folder: everything needed to go on with it, evaluate it or search with it.

`recipe.toml` (fully resolved), `weights.safetensors` (best epoch), `last.safetensors`,
`metrics.jsonl`, `log.txt`, `state.pt` (for --resume), `tokenizer.json` when the method has words of
its own, `card.md`. It holds no path of the machine that made it, so it can be moved anywhere.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tbps_cli import files
from tbps_cli.choices import Choices
from tbps_cli.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from tbps_cli.recipe.schema import Recipe
    from tbps_cli.text.tokenizer import Tokenizer

logger = logging.getLogger("tbps")

RECIPE = "recipe.toml"
WEIGHTS: dict[Literal["best", "last"], str] = {"best": "weights.safetensors", "last": "last.safetensors"}
EXPORTED_WEIGHTS = "model.safetensors"
"""What `tbps export --format safetensors` calls the same thing."""
DOUBTFUL = "left_out_that_search_may_use"
"""In the head of converted weights: how many tensors of the file were left out without knowing what they are for."""
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
"""What open_clip calls it, in the folders that it opens."""
TOKENIZER = "tokenizer.json"
CARD = "card.md"
STATE = "state.pt"
"""What --resume goes on from."""
PROTOCOL = "protocol"
"""The key, in the head of the best weights, for what their scores were measured under (`Protocol.document` as JSON)."""
LOCK = ".lock"
"""The file that a training keeps locked as long as it runs."""


@dataclass(frozen=True)
class Run:
    """A run folder. `chosen` is set when somebody named one weights file of it."""

    folder: Path
    chosen: Path | None = None

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, tokenizer: Tokenizer | None = None, *, anew: bool = False) -> Run:
        """Write the recipe (and the tokenizer's own words) into a new or empty folder.

        anew: the folder may hold files already (`--resume` where no checkpoint was written).
        """
        from tbps_cli.recipe.save import dump

        if not anew:
            files.check_new_folder("--out", folder, inside=True)
        with files.explained(folder, WeightsError):
            folder.mkdir(parents=True, exist_ok=True)
        description = tokenizer.describe() if tokenizer else {}
        if description.get("kind", "bpe") != "bpe":
            files.write_text(folder / TOKENIZER, json.dumps(description, ensure_ascii=False) + "\n", WeightsError)
        files.write_text(folder / RECIPE, dump(recipe), WeightsError)
        return cls(folder)

    @cached_property
    def recipe(self) -> Recipe:
        """The run's own recipe."""
        return self.recipe_with(())

    def recipe_with(self, sets: tuple[str, ...]) -> Recipe:
        """The recipe with `KEY=VALUE` settings on top. Raises RecipeError."""
        from tbps_cli.recipe.load import load

        return load(self.folder / RECIPE, sets)

    @property
    def has_weights(self) -> bool:
        """Whether any were saved yet."""
        return any(path.is_file() for path in self._weights_files)

    @property
    def _weights_files(self) -> list[Path]:
        return [self.folder / name for name in (*WEIGHTS.values(), EXPORTED_WEIGHTS)]

    @property
    def weights_file(self) -> Path:
        """The best weights, else the last ones. Raises WeightsError when training saved none yet."""
        if self.chosen is not None:
            return self.chosen
        for path in self._weights_files:
            if path.is_file():
                return path
        raise WeightsError(
            f"{self.folder} holds no weights yet.",
            f"Go on with it: tbps train {self.folder} --out {self.folder} --resume",
        )

    def save_weights(
        self, which: Literal["best", "last"], tensors: Mapping[str, Tensor], facts: Mapping[str, object]
    ) -> Path:
        """Write weights atomically. facts: epoch, scores, `selected_on`: kept as text in the file's head."""
        from tbps_cli.weights.weights_file import write_safetensors

        path = self.folder / WEIGHTS[which]
        write_safetensors(path, tensors, {name: str(value) for name, value in facts.items() if value is not None})
        return path

    def weights(self) -> dict[str, Tensor]:
        """The tensors of `weights_file`."""
        from tbps_cli.weights.weights_file import read_safetensors

        return read_safetensors(self.weights_file)

    def facts(self) -> dict[str, str]:
        """What `save_weights` was told about these weights."""
        from tbps_cli.weights.headers import read_metadata

        return read_metadata(self.weights_file)

    def warn_of_doubts(self) -> None:
        """Log that its weights were converted without tensors that may matter, if they were."""
        doubtful = self.facts().get(DOUBTFUL)
        if doubtful:
            logger.warning(
                "%s: converted without tensors that its authors' search may use (%s, listed in %s), "
                "so its scores may not be theirs.",
                self.folder,
                doubtful,
                CARD,
            )

    @property
    def choices(self) -> Choices:
        """What was chosen by scores on the way to these weights; nothing where unknown (converted files)."""
        return Choices.read(self.facts())

    @property
    def protocol(self) -> dict[str, Any] | None:
        """What the scores of these weights were measured under; None where the file does not say."""
        try:
            known = json.loads(self.facts()[PROTOCOL])
        except (KeyError, ValueError, RecursionError):
            return None
        return known if isinstance(known, dict) and isinstance(known.get("line"), str) else None

    @property
    def selected_on(self) -> str | None:
        """The split that chose these weights; None where unknown."""
        return self.choices.selected_on

    def tokenizer(self) -> Tokenizer | None:
        """The run's own tokenizer, or None when its method needs no words of its own."""
        from tbps_cli.text.tokenizer import from_description

        path = self.folder / TOKENIZER
        if not path.is_file():
            return None
        try:
            return from_description(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, AttributeError) as error:
            raise WeightsError(f"{path} is damaged ({error}).", "Copy it again from the original run.") from None

    def write_card(self, text: str) -> None:
        """Write `card.md`."""
        files.write_text(self.folder / CARD, text, WeightsError)


def run_of(path: Path) -> Run | None:
    """The run that a path means: its folder, or one weights file inside it; None when it is not a run."""
    if path.is_dir():
        run = Run(path) if (path / RECIPE).is_file() else None
        for_open_clip = (path / OPEN_CLIP_WEIGHTS).is_file()  # `tbps export --format hub`: read as any folder for it
        return None if run and for_open_clip and not run.has_weights else run
    known = {*WEIGHTS.values(), EXPORTED_WEIGHTS}
    inside = path.name in known and (path.parent / RECIPE).is_file()
    return Run(path.parent, chosen=path) if inside else None


def list_runs(runs: Path) -> list[Path]:
    """The run folders below `runs`, oldest first by the time of their weights (their recipe, without)."""
    if not runs.is_dir():
        return []
    found = [folder for folder in runs.iterdir() if (folder / RECIPE).is_file()]
    return sorted(found, key=lambda folder: (_time(folder), folder.name))


def newest(runs: Path) -> Path | None:
    """The run whose weights were written last; None when no run below `runs` has any."""
    with_weights = [run for run in list_runs(runs) if any((run / name).is_file() for name in WEIGHTS.values())]
    return with_weights[-1] if with_weights else None


def _time(folder: Path) -> int:
    files = [folder / name for name in WEIGHTS.values() if (folder / name).is_file()] or [folder / RECIPE]
    return max(file.stat().st_mtime_ns for file in files)


def number(runs: Path, name: str) -> Path:
    """Make and return the next folder `runs/NAME-0001`; two who ask at once get two folders."""
    with files.explained(runs, WeightsError, then="Choose a folder with --out."):
        runs.mkdir(parents=True, exist_ok=True)
        taken = [folder.name.removeprefix(f"{name}-") for folder in runs.glob(f"{name}-*")]
        count = max((int(text) for text in taken if text.isdecimal()), default=0)
        while True:
            count += 1
            folder = runs / f"{name}-{count:04d}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
