"""`tbps export --push`, against a hub of the test's own: what is sent, to whom it can be seen, and what is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from support.hub import Hub, hub_client
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.exporting.push import Destination
from tbps_cli.models.model import Model
from tbps_cli.weights.hub_files import fetch

pytest.importorskip("huggingface_hub")
NAME = "owner/street"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, and a user who is logged in there."""
    made = Hub()
    hub_client(made, tmp_path / "hub", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield made
    made.close()


def export(model: Model, *words: str, formats: tuple[str, ...] = ("safetensors",)) -> Result:
    named = [part for name in formats for part in ("--format", name)]
    return CliRunner().invoke(app, ["export", "--ckpt", str(model.path), "--out", "sent", *named, *words])


@pytest.mark.slow
def test_a_pushed_export_is_private_whole_and_found_again_by_its_name(model: Model, hub: Hub) -> None:
    done = export(model, "--push", NAME, formats=("onnx",))
    assert done.exit_code == 0, done.output
    assert hub.private == {NAME}
    sent = {path.name: path.read_bytes() for path in Path("sent").iterdir()}
    assert hub.files[NAME] == {".gitattributes": b""} | sent
    assert f"Sent to {hub.url}/{NAME} (only you and who you invite can see it)" in " ".join(done.output.split())
    assert "secret" not in done.output
    card = sent["README.md"].decode()
    assert card.startswith("---\nlicense: other\nlicense_name: terms-of-the-training-data\n")
    assert "The terms of the training data bind whoever uses these weights" in card
    fetched = fetch(f"hf-hub:{NAME}")
    needed = {"tbps.json", "image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data", "clip_tokenizer.json"}
    assert {path.name: path.read_bytes() for path in fetched.path.iterdir()} == {name: sent[name] for name in needed}


def test_public_is_asked_for_by_name_and_the_files_of_an_earlier_export_go(model: Model, hub: Hub) -> None:
    hub.files[NAME] = {"image.onnx": b"older", "notes.txt": b"mine"}
    refused = export(model, "--push", NAME)
    assert refused.exit_code == 1 and "everybody can see this repository" in refused.output
    assert "--public" in refused.output and not Path("sent").exists()
    assert hub.files[NAME] == {"image.onnx": b"older", "notes.txt": b"mine"}
    done = export(model, "--push", NAME, "--public")
    assert done.exit_code == 0, done.output
    assert "everybody can see it" in done.output
    assert set(hub.files[NAME]) == {"notes.txt", *(path.name for path in Path("sent").iterdir())}


@pytest.mark.slow
def test_nothing_is_sent_when_the_export_fails_its_check(model: Model, hub: Hub) -> None:
    done = export(model, "--push", NAME, "--tolerance", "0", formats=("onnx",))
    assert done.exit_code == 1 and "Nothing was kept" in done.output
    assert hub.files == {} and not [line for line in hub.asked if line.startswith("POST")]


@pytest.fixture
def lfs(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub for which weights are large files; the client speaks LFS with it, and does not wait between two tries."""
    hub.large = 50_000
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    return hub


@pytest.mark.parametrize("part", [None, 40_000])
def test_large_files_go_by_the_batch_api_whole_or_in_parts(part: int | None, model: Model, lfs: Hub) -> None:
    lfs.part, lfs.breaks = part, 1  # the client heals one break by itself
    done = export(model, "--push", NAME)
    assert done.exit_code == 0, done.output
    sent = {path.name: path.read_bytes() for path in Path("sent").iterdir()}
    assert lfs.files[NAME] == {".gitattributes": b""} | sent
    assert set(lfs.stored.values()) == {content for content in sent.values() if len(content) >= 50_000} != set()
    puts = [line for line in lfs.asked if line.startswith("PUT")]
    size = len(sent["model.safetensors"])
    assert len(puts) == 1 + (1 if part is None else -(-size // part))
    assert lfs.tokens == {""}, "where a file lies is another address, which learns no token"
    assert "secret" not in done.output


def test_an_upload_that_breaks_off_is_said_and_can_be_repeated(
    model: Model, lfs: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    lfs.breaks = 1000
    done = export(model, "--push", NAME, "--public")
    words = " ".join(done.output.split())
    assert done.exit_code == 1 and "Traceback" not in done.output and "secret" not in done.output
    assert f"--push {NAME}: sending to {lfs.url} broke off (" in words
    assert f"The export is complete. To send it again: hf upload {NAME} sent" in words
    assert "/lfs/" not in done.output + caplog.text, "an address may hold a signature"
    assert lfs.files[NAME] == {".gitattributes": b""}, "nothing is committed by halves"
    lfs.breaks = 0
    Destination(NAME, public=True).push(Path("sent"))
    assert {*lfs.files[NAME]} == {".gitattributes", *(path.name for path in Path("sent").iterdir())}


@pytest.mark.slow
def test_the_command_of_the_message_sends_it_again(model: Model, lfs: Hub, tmp_path: Path) -> None:
    lfs.breaks = 1000
    assert export(model, "--push", NAME).exit_code == 1
    lfs.breaks = 0
    env = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    again = [str(Path(sys.executable).with_name("hf")), "upload", NAME, "sent"]
    done = subprocess.run(again, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert lfs.files[NAME]["model.safetensors"] == Path("sent/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("token", "read_only", "said"),
    [
        (None, False, "nobody is logged in"),
        ("wrong-one", False, "does not accept the token"),
        ("secret", True, "does not let you write there"),
    ],
)
def test_a_hub_that_refuses_is_one_line(
    token: str | None, read_only: bool, said: str, model: Model, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.read_only = read_only
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    done = export(model, "--push", NAME)
    assert done.exit_code == 1 and said in done.output, done.output
    assert "Traceback" not in done.output and not (token and token in done.output)
    assert hub.files == {}
    assert Path("sent").exists() == read_only  # that is only known at the end; the export is kept
    assert ("hf upload owner/street sent" in " ".join(done.output.split())) == read_only


def test_a_hub_that_cannot_be_reached_is_one_line_before_anything_is_made(
    model: Model, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        done = export(model, "--push", NAME)
    assert done.exit_code == 1 and "cannot be reached" in done.output and "Traceback" not in done.output
    assert not Path("sent").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--push", "street"), "is not the name of a repository"),
        (("--push", "../../etc/x"), "is not the name of a repository"),
        (("--push", "https://hub/owner/x"), "is not the name of a repository"),
        (("--public",), "--public needs --push"),
    ],
)
def test_a_wrong_name_is_refused_before_anybody_is_asked(
    words: tuple[str, ...], said: str, model: Model, hub: Hub
) -> None:
    done = export(model, *words)
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert hub.asked == []


def test_offline_forbids_to_send(model: Model, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = export(model, "--push", NAME)
    assert done.exit_code == 1 and "HF_HUB_OFFLINE forbids" in done.output and hub.asked == []
