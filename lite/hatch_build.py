"""Takes the package and the recipes into builds of tbps-lite: from the repository above, or from its own sdist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BesideOrAbove(BuildHookInterface[Any]):
    """In the repository the sources lie above this folder, in an unpacked sdist beside this file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        here = Path(self.root)
        source = here if (here / "tbps_cli").is_dir() else here.parent
        recipes = "tbps_cli/_recipes" if self.target_name == "wheel" else "recipes"
        build_data["force_include"] |= {str(source / "tbps_cli"): "tbps_cli", str(source / "recipes"): recipes}
        if self.target_name == "sdist":
            build_data["force_include"][str(source / "LICENSE")] = "LICENSE"
