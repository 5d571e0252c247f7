"""Text from outside (file names, captions, queries) in a form that can be shown, stored and read back.

A file name on Linux is bytes: Python keeps those that are not UTF-8 as lone surrogates, which no encoder takes. A
caption from JSON may hold half an emoji. And a name may hold line breaks or terminal commands, which could fake a
message of ours. Everything else (accents, no-break spaces, joiners) is ordinary text and stays as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

# Control characters (C0, DEL, C1), line and paragraph separators, bidirectional overrides, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# The same without what JSON escapes by itself, and the line breaks between its entries.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_A_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def printable(text: str) -> str:
    """One line that a terminal shows: with `\\n`, `\\x1b`, `\\xff` (a byte that is not UTF-8), `\\ud83d` spelt out."""
    return _UNSAFE.sub(lambda found: escaped(found[0]), text)


def escaped(char: str) -> str:
    """A character as an ASCII escape; one that stands for a byte of a file name as that byte."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii") if code < 0xD800 or code > 0xDFFF else f"\\u{code:04x}"


def json_text(value: object, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """A JSON document that is valid UTF-8 and safe to print; whoever reads it finds every name as it was.

    A number that is none (NaN, infinite) is null: JSON has no word for it.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, default=str, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only, default=str)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # they occur inside strings only


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def exact_bytes(text: str, encoding: str = "utf-8") -> bytes:
    """The bytes of a text that programs read: file names as the system spells them, half characters replaced.

    Raises UnicodeEncodeError where the encoding lacks a character.
    """
    return _NOT_A_BYTE.sub("\ufffd", text).encode(encoding, "surrogateescape")
