"""Which method a foreign checkpoint belongs to, from names, shapes and options alone.

Every method is asked for its reading of the file (`Method.recognise`), first without the tensors that it has no
place for and can do without (`weights.surplus`). One reading is the answer; none or several is an error that says what
is nearest and what stands in the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from tbps_cli import methods
from tbps_cli.errors import WeightsError
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.weights.foreign import Mismatch, OfficialFiles, named_shapes
from tbps_cli.weights.surplus import SCALARS, TOWERS, Extra, judge


@dataclass(frozen=True)
class Reading:
    """A foreign checkpoint as one method reads it."""

    method: type[Method]
    config: MethodConfig
    files: OfficialFiles
    """The file without what is left out."""
    left_out: tuple[Extra, ...]


def recognise(files: OfficialFiles) -> Reading:
    """The reading of the one method that the file belongs to; `files.wish` allows no other.

    A wish also leaves out, outside the towers, what another method's inference would read. Raises WeightsError
    when no method reads the file, or several do; RecipeError when the wish is no method.
    """
    if files.wish is not None:
        methods.check(files.wish)
    found: list[Reading] = []
    complaints: list[WeightsError] = []
    for name in methods.names():
        extras = _extras(name, files)
        if any(_blocks(extra, forced=name == files.wish) for extra in extras):
            continue
        try:
            reading = _read(name, files, extras)
        except WeightsError as complaint:
            complaints.append(complaint)
            continue
        if reading is not None:
            found.append(reading)
    wished = [reading for reading in found if reading.config.name == files.wish]
    if wished:
        return wished[0]
    if len(found) == 1 and files.wish is None:
        return found[0]
    raise _unrecognised(files, [reading.config.name for reading in found], complaints)


def _extras(name: str, files: OfficialFiles) -> list[Extra]:
    """The tensors that a method has no place for, as far as their names tell."""
    official = methods.find(name).official
    unknown = files.under(official).unknown
    scalars = [f"{TOWERS}{scalar}" for scalar in SCALARS if f"{TOWERS}{scalar}" in files.tensors]
    return [
        judge(extra, files.tensors[extra], files.options, _readers(extra, files))
        for extra in dict.fromkeys([*unknown, *scalars])
    ]


def _readers(tensor: str, files: OfficialFiles) -> dict[str, bool]:
    """The methods whose key table knows a name -> whether their inference reads the tensor."""
    known: dict[str, bool] = {}
    for name in methods.names():
        kind = methods.find(name)
        ours = kind.official.ours(tensor)
        if ours is not None:
            known[name] = not ours.startswith(kind.training_only)
    return known


def _blocks(extra: Extra, *, forced: bool) -> bool:
    """Whether a file with this tensor is no file of the method."""
    return extra.role == "inference" and not (forced and not extra.name.startswith(TOWERS))


def _read(name: str, files: OfficialFiles, extras: list[Extra]) -> Reading | None:
    """A method's reading of the file without `extras`. Raises WeightsError saying what keeps it from one."""
    kind = methods.find(name)
    rest = files.without([extra.name for extra in extras]) if extras else files
    if not rest.tensors:
        return None
    known = len(rest.refusals)
    try:
        config = kind.recognise(rest)
    except ValidationError as refused:
        why = "; ".join(error["msg"].removeprefix("Value error, ") for error in refused.errors())
        placed = len(rest.under(kind.official).ours)  # every name is this method's: none is nearer
        raise Mismatch(f"{files.name}: its shapes and options do not fit {name}: {why}.", placed=placed) from None
    except WeightsError as complaint:
        if complaint.message.startswith(files.name):
            raise
        incomplete = "The file is incomplete: copy it again, or save the whole model."
        raise WeightsError(
            f"{files.name} is nearest to {name}, but {complaint.message}", complaint.hint or incomplete
        ) from None
    if len(rest.refusals) > known:
        raise rest.refusals[-1]
    return None if config is None else Reading(kind, config, rest, tuple(extras))


# Saying what stands in the way ------------------------------------------------------------------


def _unrecognised(files: OfficialFiles, found: list[str], complaints: list[WeightsError]) -> WeightsError:
    if found and files.wish is not None:
        names = " or ".join(found)
        return WeightsError(
            f"{files.name} is a checkpoint of {names}, not of {files.wish}.", f"Use --method {found[0]}."
        )
    if found:
        return WeightsError(
            f"{files.name} could be of {' or '.join(found)}.",
            f"Say which: tbps convert {files.name} --method {found[0]}",
        )
    complaints = [*complaints, *_blocked(files)]
    if complaints:
        return max(complaints, key=lambda error: error.placed if isinstance(error, Mismatch) else 0)
    some = ", ".join(list(files.tensors)[:4])
    return WeightsError(
        f"{files.name} belongs to no method that tbps knows: it holds {len(files.tensors)} tensors ({some}, ...).",
        _nearest(files) or f"Methods: {', '.join(methods.names())}.",
    )


def _blocked(files: OfficialFiles) -> list[Mismatch]:
    """For each method that would read the file, were it not for tensors that may take part in inference: which."""
    made = []
    for name in methods.names():
        extras = _extras(name, files)
        if any(extra.name.startswith(TOWERS) for extra in extras if extra.role == "inference"):
            continue
        try:
            reading = _read(name, files, extras)
        except WeightsError:
            continue
        if reading is not None:
            made.append(_mismatch(reading, files))
    return made


def _mismatch(reading: Reading, files: OfficialFiles) -> Mismatch:
    name = reading.config.name
    blocking = [extra for extra in reading.left_out if extra.role == "inference"]
    names = named_shapes(sorted(extra.name for extra in blocking), files.tensors)
    reasons = "; ".join(dict.fromkeys(extra.why for extra in blocking))
    return Mismatch(
        f"{files.name} belongs to no method that tbps knows: {name} is nearest, but has no {names}: {reasons}.",
        f"To read it as {name} all the same, without {'it' if len(blocking) == 1 else 'them'}: "
        f"tbps convert {files.name} --method {name}",
        placed=len(reading.files.tensors),
    )


def _nearest(files: OfficialFiles) -> str | None:
    """A sentence on the methods that know most names of the file, and what they do not know or the file lacks.

    Relatives share their towers' names, so there may be several.
    """
    mapped = {name: files.under(methods.find(name).official) for name in methods.names()}
    most = max(len(one.ours) for one in mapped.values())
    near = [name for name, one in mapped.items() if len(one.ours) == most]
    if not most:
        return None
    first, names = mapped[near[0]], " or ".join(near)
    if first.unknown:
        return f"Nearest is {names}, which has no {', '.join(first.unknown[:3])}."
    anchor = methods.find(near[0]).official.foreign("clip.visual.conv1.weight")
    if anchor is not None and anchor not in files.tensors:
        return f"Its names are those of {names}, but {anchor} is missing: the file is incomplete."
    return f"Its names look like those of {names}, but none of them has all of these."
