"""Where the thing lies that `--ckpt` names: a path, an address on the hub, or a name of open_clip's catalogue.

What is not on this machine is fetched, since it was asked for by its name, and a line says commit or source and hash.
A path that exists is never taken for a name. Towers that tbps cannot build are refused before anything is fetched.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps_cli.weights.architecture import Architecture

logger = logging.getLogger("tbps")

HUB = "hf-hub:"
"""How addresses on the hub begin, as `weights.hub_files` has it; that module is imported for them alone."""


@dataclass(frozen=True)
class Located:
    """A file or folder on this machine, and what its name says of it."""

    path: Path
    shown: Path
    """What names it in messages, as a later `--ckpt` may have it."""
    origin: str = ""
    """Where it was fetched, with commit or URL, and its hash."""
    stated: Architecture | None = None
    """The towers of a name in the catalogue, with the activation and the colours that its weights were trained with."""


def located(ckpt: str | Path, data: str | None = None) -> Located:
    """The path that a checkpoint's name means; a path is taken as it is, whether anything is there or not.

    data: the data set that it is wanted for, by name or path. Raises WeightsError for an address or a name whose
    weights cannot be had, or whose towers tbps cannot build.
    """
    if str(ckpt).startswith(HUB):
        from tbps_cli.models.source_file import benchmark
        from tbps_cli.weights.hub_files import fetch

        fetched = fetch(str(ckpt), data=benchmark(data))
        logger.info("ckpt: %s", fetched)
        return Located(fetched.path, Path(fetched.address), str(fetched))
    path = Path(ckpt).expanduser()
    if path.exists():
        return Located(path, path)
    from tbps_cli.weights import catalogue

    name = catalogue.parse_name(str(ckpt))
    return Located(path, path) if name is None else _of_catalogue(*name)


def _of_catalogue(tower: str, tag: str) -> Located:
    from tbps_cli.weights import catalogue
    from tbps_cli.weights.architecture import architecture
    from tbps_cli.weights.hub_files import digest_of
    from tbps_cli.weights.pretrained import fetch as fetch_entry

    built = architecture(tower)
    entry = catalogue.find(tag, tower, asked=f"--ckpt {tower}/{tag}")
    sizes = built.tower.model_copy(update={"activation": "quickgelu" if entry.quick_gelu else built.tower.activation})
    stated = replace(built, tower=sizes, mean=entry.mean or built.mean, std=entry.std or built.std)
    path, origin = fetch_entry(entry)
    known = origin if "SHA-256" in origin else f"{origin} (SHA-256 {digest_of(path)})"
    logger.info("ckpt: %s/%s: %s", tower, tag, known)
    return Located(path, Path(f"{tower}/{tag}"), f"{tower}/{tag}, {known}", stated)


def unknown_hint(ckpt: str | Path) -> str:
    """What a name that is no path may have meant, as a sentence; empty where nothing is near."""
    from tbps_cli.weights import catalogue

    near = catalogue.nearest(str(ckpt)) if "/" in str(ckpt) else None
    return f"Did you mean {near}?" if near else ""
