"""Paths as users write them: `~` behind `=`, names that are too long, folders that may only be read."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.powerless import give_up_rights
from support.runs import tiny_run
from support.sets import cuhk_records, save_image, write_set
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.cli.options import as_typed

runner = CliRunner()
TOO_LONG = "n" * 300


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a run, its data, images and queries; the present folder is another one."""
    folder = tmp_path / "home"
    tiny_run(folder / "run")
    write_set(folder / "data" / "synthetic", cuhk_records(persons=(1, 1, 3)))
    for seed in range(2):
        save_image(folder / "photos" / f"{seed}.jpg", seed)
    (folder / "queries.txt").write_text("a man\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("TBPS_CACHE_DIR", "~/cache")
    monkeypatch.setenv("TBPS_DATA_ROOT", "~/data")
    return folder


def test_a_tilde_that_no_shell_expanded_is_the_home_folder(home: Path) -> None:
    for arguments in (
        ["search", "a man", "--in=~/photos", "--ckpt=~/run", "--copy-to=~/picked", "--html=~/page.html"],
        ["search", "--queries=~/queries.txt", "--in=~/photos", "--ckpt=~/run"],
        ["search", "--image=~/photos/0.jpg", "--in=~/photos", "--ckpt=~/run"],
        ["index", "~/photos", "--ckpt=~/run", "--index=~/photos.h5"],
        ["eval", "--ckpt=~/run", "--data-root=~/data", "--save-ranks=~/ranks.csv", "--save-features=~/features.npz"],
        ["export", "--ckpt=~/run", "--out=~/export", "--format=safetensors"],
        ["prepare-data", "synthetic", "--data-root=~/data"],
        ["runs", "~"],
    ):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
    assert list(Path().iterdir()) == []
    made = {"picked", "page.html", "photos.h5", "ranks.csv", "features.npz", "export", "cache"}
    assert made <= {path.name for path in home.iterdir()}


def test_whatever_path_a_command_takes_it_gets_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(file: Path, out: Path | None = None, text: str = "") -> None:
        seen.append((file, out, text))

    monkeypatch.setenv("HOME", "/home/me")
    seen: list[tuple[Path, Path | None, str]] = []
    wrapped = as_typed(command)
    wrapped(file=Path("~/a"), out=None, text="~/b")
    assert seen == [(Path("/home/me/a"), None, "~/b")]
    assert list(inspect.signature(wrapped).parameters) == ["file", "out", "text"]


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["search", "a man", "--in", "photos", "--copy-to", TOO_LONG], "--copy-to"),
        (["search", "a man", "--in", "photos", "--html", f"{TOO_LONG}.html"], "--html"),
        (["eval", "--html", f"{TOO_LONG}.html"], "--html"),
        (["eval", "--save-features", f"{TOO_LONG}.npz"], "--save-features"),
        (["eval", "--save-ranks", f"{TOO_LONG}.csv"], "--save-ranks"),
        (["export", "--out", TOO_LONG], "--out"),
        (["train", "clip", "--out", TOO_LONG], "--out"),
        (["convert", "run", "--out", TOO_LONG], "--out"),
    ],
)
def test_a_name_too_long_for_the_file_system_is_one_line(home: Path, arguments: list[str], flag: str) -> None:
    os.chdir(home)
    result = runner.invoke(app, arguments)
    error, hint = [line for line in result.stderr.splitlines() if line.startswith(("Error:", "Hint:"))]
    assert result.exit_code == 1
    assert error.startswith(f"Error: {flag} nnn") and error.endswith("the name is too long for the file system.")
    assert hint == "Hint: Choose a shorter name."


# Places that may not be written ---------------------------------------------------------------


def powerless(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that has no rights over files beyond what their modes say."""
    command = [sys.executable, "-m", "tbps_cli", *arguments]
    env = os.environ | {"TBPS_CACHE_DIR": str(place / "cache")}
    return subprocess.run(
        command, cwd=place, env=env, preexec_fn=give_up_rights, capture_output=True, text=True, timeout=120, check=False
    )


def read_only(place: Path) -> None:
    """Nobody may write to this folder or one below it."""
    for folder in [place, *place.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o555)


def test_a_data_root_that_may_only_be_read_still_shows_what_the_audit_found(home: Path) -> None:
    read_only(home / "data")
    done = powerless(home, "prepare-data", "synthetic", "--data-root", "data", "--audit")
    assert done.returncode == 0, done.stderr
    assert "captions" in done.stdout and "ready" in done.stdout
    assert "the list of what to exclude was not written" in done.stderr
    assert "Permission denied" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare-data", "synthetic", "--data-root", "data", "--decode", "32x16"],
        ["prepare-data", "synthetic", "--data-root", "closed", "--identities", "4"],
        ["export", "--ckpt", "run", "--out", "closed/out", "--format", "safetensors"],
        ["index", "photos", "--ckpt", "run", "--index", "closed/photos.h5"],
        ["search", "a man", "--in", "photos", "--ckpt", "run", "--html", "closed/page.html"],
        ["search", "a man", "--in", "photos", "--ckpt", "run", "--copy-to", "closed/picked"],
    ],
)
def test_a_folder_that_may_only_be_read_is_one_line(home: Path, arguments: list[str]) -> None:
    (home / "closed").mkdir()
    read_only(home / "closed")
    read_only(home / "data")
    done = powerless(home, *arguments)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("Error: ") == 1 and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((home / "closed").iterdir()) == []


def test_a_cache_without_permission_lets_one_search_and_is_told_by_the_cache_command(home: Path) -> None:
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache").chmod(0o000)
    found = powerless(home, "search", "a man", "--in", "photos", "--ckpt", "run", "--json")
    assert found.returncode == 0, found.stderr
    assert '"size": 2' in found.stdout
    assert found.stderr.count("Warning: cache: ") == 1 and "Permission denied" in found.stderr
    assert "Traceback" not in found.stderr
    listed = powerless(home, "cache")
    (home / "cache").chmod(0o755)
    assert listed.returncode == 1
    assert listed.stderr.startswith(f"Error: {home / 'cache'}") and "Permission denied" in listed.stderr
