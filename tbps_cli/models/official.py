"""Foreign checkpoints: found, safely read, recognised and turned into a method of ours.

This is the one place where files of other programs come in. Which file it is says `models.source_file`, which
method it belongs to `models.recognition`. `find` looks at names, shapes and options alone, which takes
milliseconds whatever the size of the file; `Official.load` reads the numbers and accounts for each tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tbps_cli import places
from tbps_cli.choices import Choice, Choices
from tbps_cli.errors import RecipeError, WeightsError
from tbps_cli.methods.base import Method, TextSources
from tbps_cli.methods.config import MethodConfig
from tbps_cli.models.recognition import Reading, recognise
from tbps_cli.models.settings import check_sets
from tbps_cli.models.source_file import SourceFile, find_file
from tbps_cli.models.states import Coverage, method_of, other_context
from tbps_cli.nn.sizes import CONTEXT, Tower, named
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.draft import read as read_draft
from tbps_cli.recipe.load import build
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task
from tbps_cli.weights.architecture import Architecture, architecture_beside
from tbps_cli.weights.foreign import OfficialFiles, named_shapes
from tbps_cli.weights.surplus import check_twins
from tbps_cli.weights.weights_file import SKIPPED, places_of, read_tensors, read_yaml, state_of
from tbps_cli.weights.which_file import BENCHMARKS

logger = logging.getLogger("tbps")

_OPTIONS = "configs.yaml", "config.yaml", "configs.yml", "config.yml"
_SAID = {("data", "image_size"): "img_size", ("method", "stride"): "stride_size"}
"""Our keys that recognition needs -> what option files call them."""


@dataclass(frozen=True)
class Official:
    """A foreign checkpoint that one method knows: everything but its numbers."""

    source: SourceFile
    reading: Reading
    recipe: Recipe
    task: Task

    @property
    def choices(self) -> Choices:
        """What is known of how its authors chose these weights: by the file's name, or by the options beside it.

        The options also say which file the training began with (`finetune`); its name may tell how that was chosen.
        """
        options = self.reading.files.options
        split = str(options.get("val_dataset", "")).lower()
        told = split in ("val", "test") and self.source.path.stem.startswith("best")
        by_options = Choices({"epoch": Choice(split, self.recipe.data.name)}) if told else Choices()
        begun = SourceFile(Path(str(options.get("finetune", "")))).choices.inherited()
        return begun.and_also(by_options).and_also(self.source.choices)

    def load(self, *, words: Path | None = None, data_root: Path | None = None) -> Converted:
        """Read the numbers into the method. Raises WeightsError when the word table or a tensor is missing."""
        kind, files, path = self.reading.method, self.reading.files, self.source.path
        sources = TextSources(words=words, data=self.recipe.data.name, data_root=places.data_root(data_root))
        text = kind.text_input(self.recipe.method, sources)
        recipe = self.recipe.model_copy(update={"method": text.config})
        state = state_of(read_tensors(path, skip=SKIPPED, unread=self._unread()))
        check_twins(self.reading.left_out, state, str(path))
        tensors = files.under(kind.official).rename(state, str(path))
        received = {**kind.received(recipe.method, tensors), **text.tensors}
        method, coverage = method_of(
            lambda: kind(recipe.method, self.task), received, name=str(path), left_out=self.reading.left_out
        )
        return Converted(recipe, method, text.tokenizer, coverage, from_file_alone=not text.tensors)

    def _unread(self) -> set[str]:
        """Where in the file that stands which is left out, and need not be compared with anything."""
        names = [extra.name for extra in self.reading.left_out if extra.twin is None]
        if not names:
            return set()
        places = places_of(read_tensors(self.source.path, skip=SKIPPED, values=False))
        return {places[name] for name in names}


@dataclass(frozen=True)
class Converted:
    """A foreign checkpoint as ours: what it is, its method with weights, and which tensors were used."""

    recipe: Recipe
    method: Method
    tokenizer: Tokenizer
    coverage: Coverage
    from_file_alone: bool
    """Whether every tensor that inference reads is the file's."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the file set, under our names. Heads that it lacks are in the method, but hold nothing."""
        state = self.method.state_dict()
        return {name: state[name] for name in self.coverage.loaded}


def find(
    path: Path,
    *,
    method: str | None = None,
    sets: Sequence[str] = (),
    data: str | None = None,
    stated: Architecture | None = None,
) -> Official:
    """What a foreign checkpoint is, without reading its numbers.

    method: read it as this one; outside its towers, what it has no place for is then left out whatever it is.
    sets: `KEY=VALUE` for what no file says. data: the data set that it is wanted for, by name or path.
    stated: the towers that it has, where its name says so.
    Raises WeightsError when the file asks for code, when no method knows it, or several do; RecipeError or
    UsageError for a wrong setting.
    """
    check_sets(sets)
    said = Draft({}, {}, "")
    for assignment in sets:
        said.set(assignment)
    source = _find_file(path, data or _stated_data(said))
    files = _with_settings(open_files(source.path, stated), said, method)
    reading = recognise(files)
    task = reading.method.recognise_task(reading.files, reading.config)
    recipe = _recipe(reading, task, said, source)
    rows = reading.config.sizes.context
    if recipe.method.sizes.context != rows:
        raise other_context(str(source.path), rows, recipe.method)
    if source.origin:
        logger.info("ckpt: %s: %s; %s", path, source.why or source.path.name, source.origin)
    _warn_of_unknown(files, reading)
    return Official(source, reading, recipe, replace(task, image_size=recipe.data.image_size))


def _stated_data(said: Draft) -> str | None:
    """The data set that settings name."""
    table = said.values.get("data")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else None


def _find_file(path: Path, data: str | None) -> SourceFile:
    """The weights file, chosen by the options beside it where there is a choice and nothing else says."""
    source = find_file(path, data)
    beside = _options_beside(path) if source.why and data is None else None
    return source if beside is None else find_file(path, _benchmark(read_yaml(beside)))


def _warn_of_unknown(files: OfficialFiles, reading: Reading) -> None:
    """One line where something is left out that a code unknown here could have used."""
    doubtful = [extra.name for extra in reading.left_out if extra.role != "training"]
    if doubtful:
        logger.warning(
            "%s: read as %s without %s. If its authors' search uses %s, its scores are not theirs.",
            files.name,
            reading.config.name,
            named_shapes(doubtful, files.tensors),
            "it" if len(doubtful) == 1 else "them",
        )


# Finding ----------------------------------------------------------------------------------------


def open_files(file: Path, stated: Architecture | None = None) -> OfficialFiles:
    """The file's names and shapes, and its options: those inside the file, then those beside it.

    stated: its towers, where its name says more than a configuration beside it.
    """
    foreign = read_tensors(file, skip=SKIPPED, values=False)
    tensors = state_of(foreign)
    if not tensors:
        raise WeightsError(f"{file} holds no tensors.", "A checkpoint holds the model's state_dict.")
    options: dict[str, Any] = {}
    if isinstance(foreign.content, dict):
        for key in ("config", "args", "cfg"):
            inner = foreign.content.get(key)
            options |= inner if isinstance(inner, dict) else {}
    beside = _options_beside(file.parent)
    if beside is not None:
        options |= read_yaml(beside)
    return OfficialFiles(tensors, options, str(file), stated or architecture_beside(file))


def _options_beside(folder: Path) -> Path | None:
    for name in _OPTIONS:
        if (folder / name).is_file():
            return folder / name
    others = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    return others[0] if len(others) == 1 else None


def _with_settings(files: OfficialFiles, said: Draft, method: str | None) -> OfficialFiles:
    """What the user says of sizes counts from the start, as if the options had said it; and so does the method."""
    options = dict(files.options)
    for (section, key), option in _SAID.items():
        table = said.values.get(section)
        if isinstance(table, dict) and key in table:
            options[option] = table[key]
    return replace(files, options=options, wish=method)


# Becoming ours ----------------------------------------------------------------------------------


def _recipe(reading: Reading, task: Task, said: Draft, source: SourceFile) -> Recipe:
    """The method's published recipe with what the checkpoint says in its place, then what the user says."""
    config, options = reading.config, reading.files.options
    base = _published(config.name)
    data = base.values.get("data")
    chosen = BENCHMARKS.get(source.path.stem)
    base.values["data"] = {
        **(data if isinstance(data, dict) else {}),
        # of a folder of three, the file decides; a training set that is no benchmark could be a path of the author's
        "name": (chosen if source.why else None) or _benchmark(options) or chosen or next(iter(BENCHMARKS.values())),
        "image_size": list(task.image_size),
    }
    base.values["method"] = _with_named_tower(config).model_dump(mode="json", exclude_none=True)
    base.origins.clear()
    draft = said.over(base)  # which leaves out name, note and the published scores
    draft.values["name"] = config.name
    draft.label = reading.files.name
    return build(draft)


def _with_named_tower(config: MethodConfig) -> MethodConfig:
    """A tower that differs from a named one in its context alone, as that name and `context`."""
    if not isinstance(config.tower, Tower):
        return config
    name = named(config.tower.model_copy(update={"context": CONTEXT}))
    if isinstance(name, Tower):
        return config
    return config.model_copy(update={"tower": name, "context": config.tower.context})


def _published(method: str) -> Draft:
    """The shipped recipe of a method's name, so that a converted run can be trained further as published."""
    if method in list_recipes():
        try:
            return read_draft(method)
        except RecipeError:
            logger.debug("recipe %s cannot be read", method)
    return Draft({}, {}, method)


def _benchmark(options: Mapping[str, Any]) -> str | None:
    """The benchmark that options name. Anything else could be a path of the author's machine."""
    name = str(options.get("dataset_name", "")).lower()
    return name if name in BENCHMARKS.values() else None
