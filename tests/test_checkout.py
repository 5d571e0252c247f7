"""A checkout in which somebody has worked: what a demo, a training and a build leave there changes no check."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UGLY = "import torch,os\nx = 'a'\nimport data\n"


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A copy of the checkout with the folders and files of README's commands, ugly Python among them."""
    copy = tmp_path / "used"
    copy.mkdir()
    for name in ("tbps_cli", "scripts", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("golden", "__pycache__"))
    for name in ("pyproject.toml", ".gitignore", "README.md"):
        shutil.copy(ROOT / name, copy)
    leave(copy)
    return copy


def leave(folder: Path) -> None:
    for name in ("data/synthetic/imgs", "runs/demo-0001", "dist", "exported", "build"):
        (folder / name).mkdir(parents=True)
        (folder / name / "left.py").write_text(UGLY)
        (folder / name.split("/")[0] / "left.py").write_text(UGLY)
    (folder / "demo.html").write_text("<html>")


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]])
def test_lint_and_format_say_what_they_say_in_a_fresh_clone(used: Path, check: list[str]) -> None:
    ruff = [sys.executable, "-m", "ruff", *check, "--no-cache", "."]
    done = subprocess.run(ruff, cwd=used, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_sees_nothing_of_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    leave(tmp_path)
    git = ["git", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run(
        [*git, "status", "--short"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "?? .gitignore\n"
