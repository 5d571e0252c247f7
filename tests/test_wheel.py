"""The built wheel, away from the checkout, finds the recipes that it carries."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the contents of the wheel, as site-packages would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(site: Path, program: str, elsewhere: Path) -> str:
    """A program that sees the wheel's contents first, run away from the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def test_the_wheel_carries_every_recipe_and_loads_them(installed: Path, tmp_path: Path) -> None:
    program = (
        "import tbps_cli\n"
        "from tbps_cli.recipe.load import load\n"
        "from tbps_cli.recipe.names import folder, list_recipes\n"
        "assert load('irra-rstpreid').optim.lr == 1e-5\n"
        "print(tbps_cli.__file__, folder(), *list_recipes(), sep='\\n')\n"
    )
    where, recipes, *names = run(installed, program, tmp_path).splitlines()
    assert Path(where).is_relative_to(installed)
    assert Path(recipes) == installed / "tbps_cli" / "_recipes"
    assert names == sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))


def test_the_wheel_holds_the_package_and_nothing_else(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"tbps_cli"}
    assert not list(installed.rglob("*.pyc"))
