"""Whether a graph that is kept in the cache is the one that was written: sizes and SHA-256 lie beside it.

A graph in which a byte of the weights has changed opens without a word and gives other embeddings. Hashed once a file,
which is remembered, as for an export (`export_files`).
"""

from __future__ import annotations

import json
from pathlib import Path

from tbps_cli import files
from tbps_cli.errors import CacheError, WeightsError
from tbps_cli.models.export_files import FILES, check_description, check_file, described, sealed

SEAL = "files.json"


def seal(folder: Path) -> None:
    """Say beside the files of a new folder what they are. Raises CacheError."""
    facts = sealed({FILES: described(folder, sorted(path.name for path in folder.iterdir()))})
    files.write_text(folder / SEAL, json.dumps(facts, indent=1) + "\n", CacheError)


def check(graph: Path) -> None:
    """Raise WeightsError where a graph, or a file beside it, is not what was sealed, or nothing was."""
    place = graph.with_name(SEAL)
    try:
        facts = json.loads(place.read_text("utf-8"))
        named = dict(facts[FILES])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{place} is missing or damaged.") from error
    check_description(facts, place)
    for name in named:
        check_file(facts, place.with_name(name))
    if graph.name not in named:
        raise WeightsError(f"{graph} is not a file that was kept.")
