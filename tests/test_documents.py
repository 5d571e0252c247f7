"""Commands in README.md and docs/ are ones that the program takes: each goes through its parser, nothing runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import commands

from tbps_cli.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "lite" / "README.md"),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "cli.md"),
]
"""All but docs/cli.md, which is written from the parser itself."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_command_in_a_block_is_taken_by_the_parser(path: Path) -> None:
    wrong = []
    for number, words in commands.in_document(path.read_text("utf-8")):
        try:
            commands.parse(words)
        except Exception as error:
            wrong.append(f"{named(path)}:{number}: {' '.join(words)}: {error or type(error).__name__}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_options_in_running_text_are_those_of_their_command(path: Path) -> None:
    wrong = []
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    for name, rest in re.findall(r"`tbps ([a-z][a-z-]*)((?: [^`]*)?)`", text):
        if name not in COMMANDS:
            wrong.append(f"tbps {name}")
        else:
            given = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest))
            wrong += [f"tbps {name} {option}" for option in sorted(given - commands.options(name))]
    assert not wrong, f"{named(path)}: {wrong}"


def test_commands_stand_in_blocks_whose_lines_are_typed() -> None:
    """In `sh` all, in `console` those behind a dollar; see test_documents_typed.py."""
    lost = []
    for path in DOCUMENTS:
        language: str | None = None
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.startswith("```"):
                language = line[3:] if language is None else None
            elif re.match(r"( {4})?(\$ )?(\.venv/bin/)?(tbps(-lite)?|torchrun|scripts/\w+) ", line):
                begins = line.startswith("$ ") if language == "console" else language == "sh"
                if not begins and (language is not None or line.startswith("    ")):
                    lost.append(f"{named(path)}:{number}: {line}")
    assert lost == []


def test_the_documents_that_show_commands_are_found_with_theirs() -> None:
    count = {named(path): len(list(commands.in_document(path.read_text("utf-8")))) for path in DOCUMENTS}
    for name in ("README.md", "docs/search.md", "docs/serving.md", "docs/databases.md", "docs/scale.md"):
        assert count[name] >= 3, name
    assert sum(count.values()) > 120


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("$ ls", []),
        (
            "tbps search 'a man' --in x --paths | xargs -d '\\n' cp -t y/",
            [["tbps", "search", "a man", "--in", "x", "--paths"]],
        ),
        ("A=1 tbps doctor; .venv/bin/tbps runs  # all", [["tbps", "doctor"], [".venv/bin/tbps", "runs"]]),
        ("torchrun --nproc-per-node 2 -m tbps_cli index photos", [["tbps", "index", "photos"]]),
        (
            "tbps index p --gallery postgresql://u@h/d?gallery=x",
            [["tbps", "index", "p", "--gallery", "postgresql://u@h/d?gallery=x"]],
        ),
    ],
)
def test_commands_are_told_from_what_stands_around_them(line: str, found: list[list[str]]) -> None:
    assert list(commands.in_shell(line)) == found


@pytest.mark.parametrize(
    "line", ["tbps serach x", "tbps search x --topp 3", "tbps search x --top many", "tbps --verson"]
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    (words,) = commands.in_shell(line)
    with pytest.raises(Exception, match=r"--topp|serach|integer|--verson"):
        commands.parse(words)
