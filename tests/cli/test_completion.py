"""Completion in the shells themselves: `tbps --install-completion` in one, Tab in the next one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.screen import Terminal

ROOT = Path(__file__).resolve().parents[2]
STARTED = {"bash": (".bashrc", "PS1='> '"), "zsh": (".zshrc", "PROMPT='> '; unsetopt prompt_sp")}
"""The file that each shell reads first, and a prompt to wait for."""


@pytest.fixture(params=STARTED)
def shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shell of a user with an empty home, who has tbps on the path."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    file, prompt = STARTED[name]
    (home / file).write_text(f"{prompt}\n")
    (programs / "tbps").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tbps_cli "$@"\n')
    (programs / "tbps").chmod(0o755)
    monkeypatch.chdir(home)
    for variable, value in {"HOME": home, "ZDOTDIR": home, "PYTHONPATH": ROOT, "HISTFILE": ""}.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for variable in ("SHELL", "BASH_ENV", "ENV", "PROMPT_COMMAND", "TBPS_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return name


@contextmanager
def opened(shell: str) -> Iterator[Terminal]:
    """The shell in a terminal, at its first prompt."""
    terminal = Terminal([shell, "-i"], 100, keyboard=True)
    try:
        assert terminal.until_line(">")[-1:] == [">"], terminal.shown()
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.communicate()
        os.close(terminal.master)


def test_a_shell_completes_once_it_is_told_to(shell: str) -> None:
    with opened(shell) as terminal:
        terminal.type("tbps --install-completion; echo status $?\r")
        terminal.until_line(">")
        while "status" not in " ".join(terminal.shown()[1:]) or terminal.shown()[-1] != ">":
            assert terminal._read(), terminal.shown()
        assert "status 0" in terminal.shown(), terminal.shown()
        assert f"{shell} completion installed in " in " ".join(terminal.shown())
    with opened(shell) as terminal:
        for typed, completed in (
            ("tbps prep", "tbps prepare-data"),
            ("tbps train irra-i", "tbps train irra-icfg-pedes"),
        ):
            terminal.type(f"{typed}\t")
            assert terminal.until_line(f"> {completed}")[-1] == f"> {completed}"
            terminal.type("\x15")
            terminal.until_line(">")


def test_a_shell_is_shown_its_completion_to_copy(shell: str) -> None:
    with opened(shell) as terminal:
        terminal.type("tbps --show-completion > shown; echo status $?\r")
        while "status 0" not in terminal.shown():
            assert terminal._read(), terminal.shown()
    assert f"_TBPS_COMPLETE=complete_{shell}" in Path("shown").read_text()
