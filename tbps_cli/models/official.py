"""Foreign checkpoints: found, safely read, recognised and turned into a method of ours.

This is the one place where files of other programs come in. Which method a file belongs to and what
its shapes say is `Method.recognise`; here the file is found with the options beside it, every
method is asked, names are mapped through its key table, and each tensor is accounted for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from tbps_cli import methods, places
from tbps_cli.errors import RecipeError, WeightsError
from tbps_cli.methods.base import Method, MethodConfig, TextSources
from tbps_cli.models.card import card
from tbps_cli.models.run import Run, check_new, number
from tbps_cli.models.settings import check_sets
from tbps_cli.models.states import Coverage, load_into
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.draft import read as read_draft
from tbps_cli.recipe.load import build
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task
from tbps_cli.weights.files import read_tensors, read_yaml, state_of
from tbps_cli.weights.foreign import OfficialFiles

logger = logging.getLogger("tbps")

_BEST = "best.pth", "checkpoint_best.pth", "best.pt"
_SUFFIXES = {".pth", ".pt", ".bin", ".safetensors", ".ckpt"}
_OPTIONS = "configs.yaml", "config.yaml", "configs.yml", "config.yml"
_SKIPPED = "optimizer", "scheduler", "lr_scheduler", "scaler"
_SAID = {("data", "image_size"): "img_size", ("method", "stride"): "stride_size"}
"""Our keys that recognition needs -> what option files call them."""
_BENCHMARKS = "cuhk-pedes", "icfg-pedes", "rstpreid"


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
    words: Path | None = None,
) -> Run:
    """Turn an official checkpoint (file or folder) into a run folder.

    out: a new folder; left out, the next `runs/METHOD-NNNN`. method: refuse any other.
    sets: `KEY=VALUE` for what no file says. Raises WeightsError, RecipeError or UsageError.
    """
    if out is not None:
        check_new(Path(out))
    converted = read(Path(path).expanduser(), method=method, sets=sets, words=words)
    recipe = converted.recipe
    folder = Path(out) if out is not None else number(Path("runs"), recipe.method.name)
    run = Run.create(folder, recipe, converted.tokenizer)
    facts = {"method": recipe.method.name, "converted_from": converted.source.name}
    state = converted.method.state_dict()
    run.save_weights("best", {name: state[name] for name in converted.coverage.loaded}, facts)
    run.write_card(card(recipe, facts))
    logger.info("convert: %s -> %s: %s", path, folder, converted.coverage)
    return run


def read(
    path: Path,
    *,
    method: str | None = None,
    sets: Sequence[str] = (),
    words: Path | None = None,
    data_root: Path | None = None,
) -> Converted:
    """Read a foreign checkpoint. Raises WeightsError when no method knows it, or several do."""
    check_sets(sets)
    file = find_file(path)
    files = _told(open_files(file), sets)
    config, found = _recognised(files, method)
    recipe = _recipe(files, config, found, sets)
    sources = TextSources(words=words, data=recipe.data.name, data_root=places.data_root(data_root))
    text = found.text_input(recipe.method, sources)
    recipe = recipe.model_copy(update={"method": text.config})
    task = Task(recipe.data.image_size, found.recognise_task(files, recipe.method).identities)
    ours, unknown = _renamed(found, files)
    built = found(recipe.method, task)
    coverage = load_into(built, {**ours, **text.tensors}, name=str(file), unknown=unknown)
    return Converted(recipe, built, text.tokenizer, coverage, file)


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
    """The file's tensors in float32, and its options: those inside the file, then those beside it."""
    foreign = read_tensors(file, skip=_SKIPPED)
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
    return OfficialFiles(
        {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()},
        options,
        str(file),
    )


def _options_beside(file: Path) -> Path | None:
    for name in _OPTIONS:
        if (file.parent / name).is_file():
            return file.parent / name
    others = sorted([*file.parent.glob("*.yaml"), *file.parent.glob("*.yml")])
    return others[0] if len(others) == 1 else None


def _told(files: OfficialFiles, sets: Sequence[str]) -> OfficialFiles:
    """What the user says of sizes counts from the start, as if the options had said it."""
    said = Draft({}, {}, "")
    for assignment in sets:
        said.set(assignment)
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
        f"{files.name} is of no method known here: it holds {len(files.tensors)} tensors ({some}, ...).",
        near or f"Methods: {', '.join(methods.names())}.",
    )


def nearest_method(files: OfficialFiles) -> str | None:
    """A sentence on the methods that know most names of the file, and what they do not know.

    Relatives share their towers' names, so there may be several.
    """
    known: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for name in methods.names():
        ours, unknown[name] = methods.find(name).official.to_ours(files.tensors)
        known[name] = list(ours)
    most = max(map(len, known.values()))
    near = [name for name in known if len(known[name]) == most]
    if not most:
        return None
    if unknown[near[0]]:
        return f"Nearest is {' or '.join(near)}, which has no {', '.join(unknown[near[0]][:3])}."
    return f"Its names look like those of {' or '.join(near)}, but none of them has all of these."


# Becoming ours ----------------------------------------------------------------------------------


def _recipe(files: OfficialFiles, config: MethodConfig, method: type[Method], sets: Sequence[str]) -> Recipe:
    """The method's published recipe with what the checkpoint says in its place, then `--set`."""
    task = method.recognise_task(files, config)
    draft = _published(config.name)
    draft.label = files.name
    draft.origins.clear()
    data = draft.values.get("data")
    draft.values["data"] = {
        **(data if isinstance(data, dict) else {}),
        "name": _data_name(files.options),
        "image_size": list(task.image_size),
    }
    draft.values["method"] = config.model_dump(mode="json", exclude_none=True)
    for key in ("published", "note"):
        draft.values.pop(key, None)
    draft.values["name"] = config.name
    for assignment in sets:
        draft.set(assignment)
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


def _renamed(method: type[Method], files: OfficialFiles) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under our names, and the names that nobody knows. Twins under two names must agree."""
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    for foreign, tensor in files.tensors.items():
        if method.official.drops(foreign):
            continue
        name = method.official.ours(foreign)
        if name is None:
            unknown.append(foreign)
        elif name in ours and not _equal(ours[name], tensor):
            raise WeightsError(f"{files.name}: {foreign} differs from its twin.", "The file is damaged or edited.")
        else:
            ours[name] = tensor
    return ours, tuple(unknown)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
