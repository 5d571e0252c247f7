"""Names as databases take them: text that is valid UTF-8 without NUL, from which the very same name comes back.

A file name on Linux is bytes, and databases refuse bytes that are no UTF-8. Such a byte is written as a character of
its own, U+EF00 + byte, as other programs do that keep names as text; a character of that range that was there before
is written byte by byte, so that two names never become one. All other text stays as it is, byte order included.
"""

from __future__ import annotations

import re

from tbps_cli.escape import exact_bytes

_FIRST = 0xEF00
_STRANGE = re.compile("[\0\udc80-\udcff\uef00-\uefff]")
_KEPT = re.compile("[\uef00-\uefff]+")


def kept(text: str) -> str:
    """A text as a database keeps it. Half a character, which only JSON can hold, becomes the replacement character."""
    if text.isascii() and "\0" not in text:
        return text
    whole = exact_bytes(text).decode("utf-8", "surrogateescape")
    return _STRANGE.sub(lambda found: "".join(chr(_FIRST + byte) for byte in exact_bytes(found[0])), whole)


def as_it_was(text: str) -> str:
    """The text that `kept` was given."""
    if text.isascii():
        return text
    return _KEPT.sub(
        lambda found: bytes(ord(letter) - _FIRST for letter in found[0]).decode("utf-8", "surrogateescape"), text
    )
