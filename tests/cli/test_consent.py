"""Without a run: three choices are named, and weights are fetched only where somebody agreed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub import COMMIT, Hub, hub_client
from support.nam import DATASET, published
from support.runs import tiny_run
from support.sets import save_image
from typer.testing import CliRunner, Result

from tbps_cli.cli import consent
from tbps_cli.cli.app import app
from tbps_cli.models import ready_weights
from tbps_cli.models.ready_weights import CHOICES, ReadyWeights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    content = published()
    made = Hub({DATASET: {"best0.pth": content}})
    hub_client(made, tmp_path / "hub", monkeypatch)
    first = ReadyWeights(
        "NAM (CVPR 2024)",
        f"hf-hub:{DATASET}:best0.pth@{COMMIT}",
        "1.05 GB",
        57.6,
        "none stated",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setattr(ready_weights, "CHOICES", (first, *CHOICES[1:]))
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_image(Path("photos/1.jpg"), 1)
    yield made
    made.close()


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.stderr
    return result


SEARCH = "search", "a man in red", "--in", "photos"


def test_without_a_run_three_choices_are_named_and_nothing_is_fetched(hub: Hub) -> None:
    result = run(*SEARCH, status=1)
    assert (result.stdout, hub.asked) == ("", [])
    said = result.stderr
    assert "There is no finished run in runs. Without any training, choose one of these:" in said
    rows = [line.split() for line in said.splitlines() if line]
    assert [(row[1], row[-1]) for row in rows if row[0] in ("1.", "2.", "3.")][:3] == [
        ("NAM", "stated"), ("HAM", "authors"), ("CLIP", "(OpenAI)"),
    ]  # fmt: skip
    for part in ("57.6", "70.2", "12.7", "1.05 GB", "pan.baidu.com", "bo63", "epoch was chosen there"):
        assert part in said
    assert "1. tbps search 'a man in red' --in photos --download" in said
    assert "--in photos --ckpt best0.pth" in said
    assert "3. tbps search 'a man in red' --in photos --ckpt ViT-B-16/openai" in said
    assert "Error: there are no weights to search with, and none were fetched." in said
    assert all(len(line) <= 80 for line in said.splitlines()[1:5]), "the table fits a terminal"


def test_with_consent_the_first_is_fetched_and_later_taken_without_a_word(hub: Hub, monkeypatch) -> None:
    result = run(*SEARCH, "--download", "--json")
    assert '"rank": 1' in result.stdout and "Fetching NAM (CVPR 2024), 1.05 GB" in result.stderr
    assert f"ckpt: hf-hub:{DATASET}:best0.pth@{COMMIT} (SHA-256 " in result.stderr
    assert "the first of 1 files" not in result.stderr
    got = [line for line in hub.asked if line.startswith("GET")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = run(*SEARCH)
    assert "these weights were agreed to before" in again.stderr and "choose one" not in again.stderr
    assert [line for line in hub.asked if line.startswith("GET")] == got
    assert "these weights were agreed to before" in run("index", "photos").stderr
    tiny_run(Path("runs/mine"))
    assert "the newest run in runs" in run(*SEARCH).stderr


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("Yes\n", 0), ("\n", 1), ("n\n", 1), ("", 1)])
def test_at_a_terminal_a_person_is_asked(hub: Hub, answer: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "_is_asked", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    result = CliRunner().invoke(app, [*SEARCH], input=answer)
    assert result.exit_code == status, result.stderr
    assert "Fetch NAM (CVPR 2024) (1.05 GB) now? [y/N] " in result.stderr
    assert bool(hub.asked) == (status == 0)


def test_other_weights_than_were_published_are_not_opened(hub: Hub) -> None:
    hub.files[DATASET]["best0.pth"] = published() + b"more"
    result = run(*SEARCH, "--download", status=1)
    assert (
        "its SHA-256 begins with" in result.stderr and "These are not the weights that were published" in result.stderr
    )
    assert "choose one of these" in run(*SEARCH, status=1).stderr, "nobody agreed to those"


def test_a_mistake_is_told_before_anybody_is_asked(hub: Hub) -> None:
    result = run("search", "a man", "--in", "gone", "--download", status=1)
    assert "--in gone" in result.stderr and "choose one" not in result.stderr and hub.asked == []


def test_index_names_the_choices_too(hub: Hub) -> None:
    result = run("index", "photos", status=1)
    assert "1. tbps index photos --download" in result.stderr and hub.asked == []


def test_the_first_choice_is_an_address_with_a_commit_and_a_hash() -> None:
    first = CHOICES[0]
    assert first.ckpt.endswith("@ceef4b378deaf094c8276ecb6ed8705421010aab") and len(first.sha256 or "") == 64
    assert [choice.recall_at_1 for choice in CHOICES] == [57.6, 70.2, 12.7]
