"""Counts as people say them: `1 epoch`, `1,200 images`. One place, so that no message says `1 epochs`."""

from __future__ import annotations

import re

from tbps_cli.errors import UsageError


def amount(count: int, one: str, several: str = "") -> str:
    """`1 image`, `0 images`; several: where it is not one with an s (`entries`, `captions are`)."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def seconds(flag: str, text: str) -> float:
    """`1s`, `500ms`, `2m`, `0.5`, `30d` as seconds. Raises UsageError, which names the flag, for anything else."""
    found = _TIME.fullmatch(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or not 0 < float(found[1]) * unit < 1e9:
        raise UsageError(f"{flag} {text}: not a length of time.", f"For example: {flag} 1s, {flag} 500ms or {flag} 2m")
    return float(found[1]) * unit
