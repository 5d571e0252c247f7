"""Counts as people say them: `1 epoch`, `1,200 images`. One place, so that no message says `1 epochs`."""

from __future__ import annotations


def amount(count: int, one: str, several: str = "") -> str:
    """`1 image`, `0 images`; several: where it is not one with an s (`entries`, `captions are`)."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"
