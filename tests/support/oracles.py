"""Other people's code that tests compare with; the package itself imports none of it.

Both packages below may be installed beside a torch that they were not built for (a CPU build with a
torchvision for CUDA). The functions load as much of them as works without compiled operators.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tbps_cli.footage import operators


@cache
def open_clip_tokenizer() -> ModuleType:
    """open_clip's tokenizer module, loaded by its path: the package would import torchvision."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        pytest.skip("open_clip_torch is not installed")
    path = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("oracle_open_clip_tokenizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def torchvision() -> Any:
    """torchvision with its transforms, whether its compiled operators load or not."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    package = operators.torchvision()
    importlib.import_module("torchvision.transforms")
    return package


@cache
def open_clip_model() -> Any:
    """open_clip's module of towers; it imports torchvision, which must have been made importable first."""
    torchvision()
    return importlib.import_module("open_clip.model")
