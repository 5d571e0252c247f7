"""Every method of the field, one file each. The module's name is its registration.

`base` and `config` hold what all methods share, a module that begins with an underscore what some of them do.
Importing this package imports no torch: the names are read from the folder, and a method's file is imported
when it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from tbps_cli.errors import RecipeError

if TYPE_CHECKING:
    from tbps_cli.methods.base import Method

_SHARED = "base", "config"


def names() -> list[str]:
    """All methods, in alphabetical order; reads the folder, imports nothing."""
    return list(_modules(tuple(__path__)))


@cache
def _modules(folders: tuple[str, ...]) -> tuple[str, ...]:
    found = (module.name for module in pkgutil.iter_modules(folders))
    return tuple(sorted(name for name in found if name not in _SHARED and not name.startswith("_")))


def check(name: str) -> None:
    """Raises RecipeError with all names when there is no such method; imports nothing."""
    if name not in names():
        raise RecipeError(f"method.name: there is no method {name!r}.", f"Methods: {', '.join(names())}")


def find(name: str) -> type[Method]:
    """The class of a method. Raises RecipeError with all names when there is none."""
    check(name)
    return _class_of(name)


@cache
def _class_of(name: str) -> type[Method]:
    from tbps_cli.methods.base import Method

    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    )
