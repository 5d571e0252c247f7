"""What a browser without the token is shown: a page that asks for it, in the place of a line of JSON."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from importlib.resources import files as resources


def entrance(*, wrong: bool) -> bytes:
    """The page. wrong: a token was given, and is not the right one."""
    said = "The token that was given is not the right one." if wrong else "Only who knows the token may search here."
    return _text().replace("SAID", said).encode()


@cache
def entrance_policy() -> bytes:
    """What that page may do: its own style, and sending the form here."""
    style = _text().partition("<style>")[2].partition("</style>")[0]
    hashed = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = ("default-src 'none'", f"style-src 'sha256-{hashed}'", "form-action 'self'", "base-uri 'none'")
    return "; ".join((*rules, "frame-ancestors 'none'")).encode()


@cache
def _text() -> str:
    return (resources("tbps_cli.serving") / "page" / "token.html").read_text("utf-8")
