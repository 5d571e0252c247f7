"""What an exported folder says of itself: `tbps.json`, read and checked before any graph is opened."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tbps_cli.errors import WeightsError

MANIFEST = "tbps.json"
NEEDED: dict[str, type] = {"method": str, "fingerprint": str, "tokenizer": dict, "transform": dict, "embed": int}
FINGERPRINT = re.compile(r"[0-9a-f]{16}(-[a-z0-9]+)?")


def is_exported(folder: Path) -> bool:
    """Whether a folder was written by `tbps export` with its graphs."""
    return (folder / MANIFEST).is_file() and (folder / "image.onnx").is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's own description. Raises WeightsError when it is broken."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        for key, kind in NEEDED.items():
            if not isinstance(manifest[key], kind):
                raise ValueError(f"{key} is {manifest[key]!r}")
        if not FINGERPRINT.fullmatch(manifest["fingerprint"]):  # it becomes part of a file name
            raise ValueError(f"fingerprint is {manifest['fingerprint']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise WeightsError(f"{path}: not a description written by tbps export ({reason}).", "Export again.") from error
    return dict(manifest)
