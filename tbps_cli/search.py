"""The earlier address of `tbps_cli.searching`: `from tbps_cli.search.index import index` and the like still work.

`tbps_cli.search` is a function of the library, but importing a sub-module binds its module to that name. So this
module gives its place in `sys.modules` to the function, which Python allows any module. Nothing of ours imports it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

from tbps_cli import searching
from tbps_cli.searching.search import search

_modules: dict[str, Any] = sys.modules
for _found in pkgutil.iter_modules(searching.__path__):
    _module = importlib.import_module(f"{searching.__name__}.{_found.name}")
    _modules[f"{__name__}.{_found.name}"] = _module
    setattr(search, _found.name, _module)  # for `import tbps_cli.search.index as ...`
_modules[__name__] = search
