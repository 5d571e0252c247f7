"""Text-based person search as a library: describe a pedestrian, get the images that fit, ranked.

    import tbps_cli
    model = tbps_cli.load("runs/irra-0001")
    text_BE = model.encode_texts(["a man in a white shirt"])

Names are found when they are first used, so that importing the package imports no torch. Two of them
(`search`, `export`) are sub-packages as well: those modules can be called like the function.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_WHERE = {
    "load": ("tbps_cli.models", "open_model"),
    "train": ("tbps_cli.engine.train", "train"),
    "evaluate": ("tbps_cli.retrieval.evaluate", "evaluate"),
    "index": ("tbps_cli.search.index", "index"),
    "search": ("tbps_cli.search.query", "search"),
    "export": ("tbps_cli.export.exporter", "export"),
    "convert": ("tbps_cli.models.official", "convert"),
}
"""Public name -> module and function."""

__all__ = ["convert", "evaluate", "export", "index", "load", "search", "train"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _WHERE[name]
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


class _Callable(ModuleType):
    """A sub-package that is also the function of its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*args, **options)


class _House(ModuleType):
    """This module: importing a sub-package would otherwise hide the function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _WHERE and type(value) is ModuleType:
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _House
