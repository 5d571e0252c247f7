"""The built wheel, installed into an environment of its own outside the checkout, has its command and its recipes."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment: the wheel itself, and this environment's packages for what it needs.

    A path line lends the packages without the editable install, whose own path file is not followed.
    """
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
    install = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home / "bin"


def run(bin: Path, elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(bin / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=200, check=False)


def test_the_installed_command_lists_every_recipe(bin: Path, tmp_path: Path) -> None:
    where = run(bin, tmp_path, "python", "-c", "import tbps_cli; print(tbps_cli.__file__)").stdout
    assert Path(where.strip()).is_relative_to(bin.parent)
    listed = run(bin, tmp_path, "tbps", "recipes", "--json")
    assert listed.returncode == 0, listed.stderr
    names = [row["name"] for row in json.loads(listed.stdout)]
    assert names == sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))


def test_the_installed_command_trains_a_shipped_recipe_until_it_misses_the_data(bin: Path, tmp_path: Path) -> None:
    done = run(bin, tmp_path, "tbps", "train", "irra", "--data-root", str(tmp_path))
    assert done.returncode == 1
    assert "Error: CUHK-PEDES is not in" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"tbps_cli"}
    assert not [name for name in names if name.endswith(".pyc")]
