"""Checked fields of a tokenizer's description, which comes from a file and may be damaged."""

from __future__ import annotations

from collections.abc import Mapping

from tbps_cli.errors import TbpsError


def whole_number(description: Mapping[str, object], key: str, default: int | None = None) -> int:
    """A whole number of a description, its type checked. Raises TbpsError naming the key."""
    value = description.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TbpsError(f"tokenizer: {key} must be a whole number, found {value!r}.", "The description is damaged.")
    return value
