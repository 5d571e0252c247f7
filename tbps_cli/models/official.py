"""Foreign checkpoints: found, safely read, recognised and turned into a method of ours.

This is the one place where files of other programs come in. Which method a file belongs to and what
its shapes say is `Method.recognise`. `find` looks at names, shapes and options alone, which takes
milliseconds whatever the size of the file; `Official.load` reads the numbers and accounts for each tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tbps_cli import methods, places
from tbps_cli.errors import RecipeError, WeightsError
from tbps_cli.files import check_new_folder
from tbps_cli.methods.base import Method, TextSources
from tbps_cli.methods.config import MethodConfig
from tbps_cli.models.card import card
from tbps_cli.models.run import Run, number
from tbps_cli.models.settings import check_sets
from tbps_cli.models.states import Coverage, load_into
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.draft import read as read_draft
from tbps_cli.recipe.load import build
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.weights_file import read_tensors, read_yaml, state_of

logger = logging.getLogger("tbps")

_BEST = "best.pth", "checkpoint_best.pth", "best.pt"
_SUFFIXES = {".pth", ".pt", ".bin", ".safetensors", ".ckpt"}
_OPTIONS = "configs.yaml", "config.yaml", "configs.yml", "config.yml"
_SKIPPED = "optimizer", "scheduler", "lr_scheduler", "scaler"
_SAID = {("data", "image_size"): "img_size", ("method", "stride"): "stride_size"}
"""Our keys that recognition needs -> what option files call them."""
_BENCHMARKS = "cuhk-pedes", "icfg-pedes", "rstpreid"


@dataclass(frozen=True)
class Official:
    """A foreign checkpoint that one method knows: everything but its numbers."""

    file: Path
    files: OfficialFiles
    method: type[Method]
    recipe: Recipe
    task: Task

    def load(self, *, words: Path | None = None, data_root: Path | None = None) -> Converted:
        """Read the numbers into the method. Raises WeightsError when the word table or a tensor is missing."""
        sources = TextSources(words=words, data=self.recipe.data.name, data_root=places.data_root(data_root))
        text = self.method.text_input(self.recipe.method, sources)
        recipe = self.recipe.model_copy(update={"method": text.config})
        mapped = self.files.under(self.method.official)
        tensors = mapped.rename(state_of(read_tensors(self.file, skip=_SKIPPED)), str(self.file))
        method = self.method(recipe.method, self.task)
        coverage = load_into(method, {**tensors, **text.tensors}, name=str(self.file), unknown=mapped.unknown)
        return Converted(recipe, method, text.tokenizer, coverage, self.file)


@dataclass(frozen=True)
class Converted:
    """A foreign checkpoint as ours: what it is, its method with weights, and which tensors were used."""

    recipe: Recipe
    method: Method
    tokenizer: Tokenizer
    coverage: Coverage
    source: Path


def convert(
    path: str | Path,
    out: str | Path | None = None,
    *,
    method: str | None = None,
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    data_root: str | Path | None = None,
) -> Run:
    """Turn an official checkpoint (file or folder) into a run folder.

    out: a new folder; left out, the next `runs/METHOD-NNNN`. method: refuse any other.
    sets: `KEY=VALUE` for what no file says. words: the word table of a method that needs one;
    data_root: the folder of data sets, where else it may lie.
    Raises WeightsError, RecipeError or UsageError.
    """
    if out is not None:
        check_new_folder("--out", Path(out), inside=True)
    found = find(Path(path).expanduser(), method=method, sets=sets)
    converted = found.load(words=Path(words) if words else None, data_root=places.data_root(data_root))
    recipe = converted.recipe
    folder = Path(out) if out is not None else number(Path("runs"), recipe.method.name)
    run = Run.create(folder, recipe, converted.tokenizer)
    facts = {"method": recipe.method.name, "converted_from": converted.source.name}
    state = converted.method.state_dict()
    run.save_weights("best", {name: state[name] for name in converted.coverage.loaded}, facts)
    run.write_card(card(recipe, facts))
    logger.info("convert: %s -> %s: %s", path, folder, converted.coverage)
    return run


def find(path: Path, *, method: str | None = None, sets: Sequence[str] = ()) -> Official:
    """What a foreign checkpoint is, without reading its numbers.

    method: refuse any other. sets: `KEY=VALUE` for what no file says. Raises WeightsError when the file
    asks for code, when no method knows it, or several do; RecipeError or UsageError for a wrong setting.
    """
    check_sets(sets)
    said = Draft({}, {}, "")
    for assignment in sets:
        said.set(assignment)
    file = find_file(path)
    files = _with_settings(open_files(file), said)
    config, found = _recognised(files, method)
    task = found.recognise_task(files, config)
    recipe = _recipe(files, config, task, said)
    return Official(file, files, found, recipe, replace(task, image_size=recipe.data.image_size))


# Finding ----------------------------------------------------------------------------------------


def find_file(path: Path) -> Path:
    """The weights file that a path means: itself, or the best one of its folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"{path}: there is no such file or folder.", "Give a checkpoint or a run folder.")
    for name in _BEST:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightsError(
            f"{path} holds several checkpoints: {', '.join(file.name for file in found[:6])}.", "Give one of them."
        )
    raise WeightsError(
        f"{path} holds neither a run (recipe.toml) nor a checkpoint (best.pth or another .pth).",
        "Give the folder or file of one model.",
    )


def open_files(file: Path) -> OfficialFiles:
    """The file's names and shapes, and its options: those inside the file, then those beside it."""
    foreign = read_tensors(file, skip=_SKIPPED, values=False)
    tensors = state_of(foreign)
    if not tensors:
        raise WeightsError(f"{file} holds no tensors.", "A checkpoint holds the model's state_dict.")
    options: dict[str, Any] = {}
    if isinstance(foreign.content, dict):
        for key in ("config", "args", "cfg"):
            inner = foreign.content.get(key)
            options |= inner if isinstance(inner, dict) else {}
    beside = _options_beside(file)
    if beside is not None:
        options |= read_yaml(beside)
    return OfficialFiles(tensors, options, str(file))


def _options_beside(file: Path) -> Path | None:
    for name in _OPTIONS:
        if (file.parent / name).is_file():
            return file.parent / name
    others = sorted([*file.parent.glob("*.yaml"), *file.parent.glob("*.yml")])
    return others[0] if len(others) == 1 else None


def _with_settings(files: OfficialFiles, said: Draft) -> OfficialFiles:
    """What the user says of sizes counts from the start, as if the options had said it."""
    options = dict(files.options)
    for (section, key), option in _SAID.items():
        table = said.values.get(section)
        if isinstance(table, dict) and key in table:
            options[option] = table[key]
    return replace(files, options=options)


# Recognising ------------------------------------------------------------------------------------


def _recognised(files: OfficialFiles, wish: str | None) -> tuple[MethodConfig, type[Method]]:
    """The one method that knows the file. A method that knows its names but misses tensors says so."""
    if wish is not None:
        methods.find(wish)
    found: dict[str, MethodConfig] = {}
    complaints: list[WeightsError] = []
    for name in methods.names():
        try:
            config = methods.find(name).recognise(files)
        except WeightsError as complaint:
            complaints.append(complaint)
            continue
        except ValidationError as refused:
            why = "; ".join(error["msg"].removeprefix("Value error, ") for error in refused.errors())
            complaints.append(WeightsError(f"{files.name}: its shapes and options do not fit {name}: {why}."))
            continue
        if config is not None:
            found[name] = config
    if wish in found:
        return found[wish], methods.find(wish)
    if len(found) == 1 and wish is None:
        name, config = found.popitem()
        return config, methods.find(name)
    raise _unrecognised(files, wish, list(found), complaints)


def _unrecognised(
    files: OfficialFiles, wish: str | None, found: list[str], complaints: list[WeightsError]
) -> WeightsError:
    if wish is not None and found:
        names = " or ".join(found)
        return WeightsError(f"{files.name} is a checkpoint of {names}, not of {wish}.", f"Use --method {found[0]}.")
    if found:
        return WeightsError(f"{files.name} could be of {' or '.join(found)}.", "Say which: --method NAME")
    if complaints:
        return complaints[0]
    some = ", ".join(list(files.tensors)[:4])
    near = nearest_method(files)
    return WeightsError(
        f"{files.name} belongs to no method that tbps knows: it holds {len(files.tensors)} tensors ({some}, ...).",
        near or f"Methods: {', '.join(methods.names())}.",
    )


def nearest_method(files: OfficialFiles) -> str | None:
    """A sentence on the methods that know most names of the file, and what they do not know.

    Relatives share their towers' names, so there may be several.
    """
    known: dict[str, int] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    for name in methods.names():
        mapped = files.under(methods.find(name).official)
        known[name], unknown[name] = len(mapped.ours), mapped.unknown
    most = max(known.values())
    near = [name for name in known if known[name] == most]
    if not most:
        return None
    if unknown[near[0]]:
        return f"Nearest is {' or '.join(near)}, which has no {', '.join(unknown[near[0]][:3])}."
    return f"Its names look like those of {' or '.join(near)}, but none of them has all of these."


# Becoming ours ----------------------------------------------------------------------------------


def _recipe(files: OfficialFiles, config: MethodConfig, task: Task, said: Draft) -> Recipe:
    """The method's published recipe with what the checkpoint says in its place, then what the user says."""
    base = _published(config.name)
    data = base.values.get("data")
    base.values["data"] = {
        **(data if isinstance(data, dict) else {}),
        "name": _data_name(files.options),
        "image_size": list(task.image_size),
    }
    base.values["method"] = config.model_dump(mode="json", exclude_none=True)
    base.origins.clear()
    draft = said.over(base)  # which leaves out name, note and the published scores
    draft.values["name"] = config.name
    draft.label = files.name
    return build(draft)


def _published(method: str) -> Draft:
    """The shipped recipe of a method's name, so that a converted run can be trained further as published."""
    if method in list_recipes():
        try:
            return read_draft(method)
        except RecipeError:
            logger.debug("recipe %s cannot be read", method)
    return Draft({}, {}, method)


def _data_name(options: Mapping[str, Any]) -> str:
    """The benchmark that the options name. Anything else could be a path of the author's machine."""
    name = str(options.get("dataset_name", "")).lower()
    return name if name in _BENCHMARKS else _BENCHMARKS[0]
