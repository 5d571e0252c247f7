"""The built wheel, installed into an environment of its own outside the checkout, has its command and its recipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.xdist_group("wheel")  # its fixtures take seconds: one worker makes them

SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return built("wheel", ROOT, folder)


def built(what: str, source: Path, folder: Path) -> Path:
    """The wheel or the sdist of a source tree, in a new folder."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment: the wheel itself, and this environment's packages for what it needs.

    A path line lends the packages without the editable install, whose own path file is not followed.
    """
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=120)
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True, timeout=120)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home / "bin"


def run(bin: Path, elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(bin / arguments[0]), *arguments[1:]]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=200, check=False)


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
    assert "tbps_cli/py.typed" in names
    templates = {path.name for path in (ROOT / "tbps_cli" / "searching" / "templates").iterdir()}
    assert templates == {"sheet.html", "parts.html", "sheet.css", "sheet.js"}
    assert {f"tbps_cli/searching/templates/{name}" for name in templates} <= set(names)


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = built("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", **SAFELY)
    (source,) = (tmp_path / "source").iterdir()
    again = built("wheel", source, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        assert all(one.read(name) == other.read(name) for name in one.namelist())
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"} <= {path.name for path in source.iterdir()}


def test_the_citation_and_the_package_state_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert cited["repository-code"] == project["urls"]["Repository"]
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in project["authors"]]


@pytest.mark.parametrize("path", [*sorted(ROOT.glob(".github/**/*.yml")), ROOT / ".pre-commit-config.yaml"], ids=str)
def test_every_file_for_the_host_is_yaml_and_names_what_there_is(path: Path) -> None:
    """Its own schema is the host's to check; what a job runs has to be here."""
    text = path.read_text("utf-8").replace("\\.", ".")
    assert isinstance(yaml.safe_load(text), dict)
    assert all((ROOT / script).is_file() for script in re.findall(r"(?:\./)?(scripts/[\w.]+)", text))
