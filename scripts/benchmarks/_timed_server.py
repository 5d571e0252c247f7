"""`tbps serve` whose answers to searches say in `bench` how the server's milliseconds were spent.

python _timed_server.py [what `tbps serve` takes]
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from tbps_cli.cli.app import main
from tbps_cli.searching import ranking
from tbps_cli.serving import service
from tbps_cli.serving.batching import TextBatches
from tbps_cli.trust.judge import Judge

_spent = threading.local()
"""What this thread has spent on its request so far, in milliseconds by part."""


def timed(owner: Any, name: str, part: str) -> None:
    """Have a function add what it takes to a part."""
    usual: Callable[..., Any] = getattr(owner, name)

    @wraps(usual)
    def measured(*words: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return usual(*words, **options)
        finally:
            known = _spent.__dict__.setdefault("parts", {})
            known[part] = known.get(part, 0.0) + 1000 * (time.perf_counter() - began)

    setattr(owner, name, measured)


def tell(usual: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The search, with `bench` in its answer."""

    @wraps(usual)
    def told(*words: Any, **options: Any) -> dict[str, Any]:
        _spent.parts = {}
        found = usual(*words, **options)
        return found | {"bench": {name: round(value, 3) for name, value in _spent.parts.items()}}

    return told


if __name__ == "__main__":
    timed(TextBatches, "__call__", "sentence")
    timed(ranking._Ranker, "rank", "ranking")
    timed(Judge, "figures", "standings")
    timed(service, "document", "document")
    timed(service.Service, "search", "server")
    service.Service.search = tell(service.Service.search)  # type: ignore[method-assign]
    sys.argv.insert(1, "serve")
    main()
