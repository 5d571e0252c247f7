"""CLIP weights of every form, downloads from a local server, and clear words when there is no network."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.hub import Hub, hub_client
from torch import Tensor, nn

from tbps_cli.errors import WeightsError
from tbps_cli.nn.sizes import read_sizes
from tbps_cli.weights import catalogue
from tbps_cli.weights import pretrained as hub
from tbps_cli.weights.catalogue import CatalogueEntry
from tbps_cli.weights.pretrained import clip_state, download
from tbps_cli.weights.weights_file import write_safetensors


def tiny(half: bool = False) -> dict[str, Tensor]:
    """A CLIP state with OpenAI's names: one block a tower, width 8."""
    shapes = {
        "positional_embedding": (7, 8),
        "text_projection": (8, 4),
        "token_embedding.weight": (11, 8),
        "ln_final.weight": (8,),
        "ln_final.bias": (8,),
        "visual.class_embedding": (8,),
        "visual.positional_embedding": (5, 8),
        "visual.proj": (8, 4),
        "visual.conv1.weight": (8, 3, 2, 2),
        "transformer.resblocks.0.attn.in_proj_weight": (24, 8),
        "visual.transformer.resblocks.0.attn.in_proj_weight": (24, 8),
    }
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if half:
        state = {name: tensor.half() if "proj" in name else tensor for name, tensor in state.items()}
    return state


def same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name].float()), name


# Forms ------------------------------------------------------------------------------------------


class Holder(nn.Module):
    """Modules that TorchScript saves under the dotted names of a state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            head, dot, rest = name.partition(".")
            if dot:
                children.setdefault(head, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(head, nn.Parameter(tensor))
            else:
                self.register_buffer(head, tensor)
        for head, inner in children.items():
            self.add_module(head, Holder(inner))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_openais_torchscript_archive_is_read_without_its_extras(tmp_path: Path) -> None:
    extras = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "logit_scale": torch.ones([])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Holder(tiny(half=True) | extras)), tmp_path / "ViT-tiny.pt")
    state, activation = clip_state(str(tmp_path / "ViT-tiny.pt"), "ViT-B-16")
    same(state, tiny(half=True))
    assert activation == "quickgelu"
    assert read_sizes(state).width == 8


@pytest.mark.parametrize("form", ["plain", "module.", "state_dict", "model", "legacy", "safetensors", "text."])
def test_every_form_of_a_state_dict_gives_the_same_state(tmp_path: Path, form: str) -> None:
    state = tiny() | {"logit_scale": torch.ones([])}
    path = tmp_path / "weights.pt"
    if form == "safetensors":
        write_safetensors(path, state)
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "module.":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif form == "text.":
        kept = "visual.", "logit_scale"
        torch.save({n if n.startswith(kept) else f"text.{n}": tensor for n, tensor in state.items()}, path)
    else:
        torch.save(state if form == "plain" else {form: state, "optimizer": {}}, path)
    read, activation = clip_state(str(path), "ViT-B-16")
    same(read, tiny())
    assert activation == "gelu"


def test_the_activation_follows_openais_marks_and_the_towers_name(tmp_path: Path) -> None:
    torch.save(tiny(half=True), tmp_path / "half.pt")
    torch.save(tiny() | {"input_resolution": torch.tensor(224)}, tmp_path / "extras.pt")
    torch.save(tiny(), tmp_path / "plain.pt")
    torch.save(tiny(), tmp_path / "vit_b_32-quickgelu-laion400m.pt")
    assert clip_state(str(tmp_path / "half.pt"))[1] == "quickgelu"
    assert clip_state(str(tmp_path / "extras.pt"))[1] == "quickgelu"
    assert clip_state(str(tmp_path / "plain.pt"))[1] == "gelu"
    assert clip_state(str(tmp_path / "plain.pt"), "ViT-B-16-quickgelu")[1] == "quickgelu"
    assert clip_state(str(tmp_path / "vit_b_32-quickgelu-laion400m.pt"))[1] == "quickgelu"


def test_a_file_without_clip_and_a_missing_one_are_named(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth holds no CLIP model \(found fc\.weight\)"):
        clip_state(str(tmp_path / "other.pth"))
    with pytest.raises(WeightsError, match=r"gone\.pt: there is no such file"):
        clip_state(str(tmp_path / "gone.pt"))


# The catalogue ----------------------------------------------------------------------------------


def test_the_catalogue_knows_openais_and_laions_weights_and_their_hashes() -> None:
    openai = catalogue.find("openai", "ViT-B/16")
    assert openai.sha256 == "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    assert (openai.file, openai.quick_gelu) == ("ViT-B-16.pt", True)
    laion = catalogue.find("LAION400M-e32", "vit-b-16")
    assert (laion.sha256, laion.quick_gelu) == ("55e67d44", False)
    assert catalogue.find("laion2b_s32b_b79k", "ViT-H-14").hub == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K/"
    assert catalogue.find("laion400m_e32", "ViT-B-16-quickgelu").quick_gelu


def test_every_tower_of_ours_has_weights_in_the_catalogue() -> None:
    from tbps_cli.nn.sizes import TOWERS

    assert [tower for tower in TOWERS if "openai" not in catalogue.entries()[tower]] == ["ViT-H-14"]


def test_an_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="no weights 'opnai' for the tower ViT-B-16") as caught:
        clip_state("opnai", "ViT-B/16")
    assert caught.value.hint is not None
    assert "openai, laion400m_e31" in caught.value.hint


def test_the_catalogues_source_is_read_and_never_run(tmp_path: Path) -> None:
    source = f"""
import os
open({str(tmp_path / "ran")!r}, "w")
_A = dict(one=_pcfg("https://x/a-0123abcd.pt", quick_gelu=True), two=_pcfg(hf_hub='o/m/'), odd=os.getcwd())
_PRETRAINED = {{"T": _A, "U": {{"three": _mccfg(url=f"{{1}}")}}, "V": unknown}}
_PRETRAINED.update(os.environ)
"""
    read = catalogue.parse(source)
    assert read["T"] == {
        "one": CatalogueEntry("https://x/a-0123abcd.pt", "", True),
        "two": CatalogueEntry("", "o/m/"),
        "odd": CatalogueEntry(),
    }
    assert read["U"] == {"three": CatalogueEntry()}
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An open_clip with an empty catalogue is the one that is found."""
    folder = tmp_path / "open_clip"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    catalogue.entries.cache_clear()
    yield folder / "pretrained.py"
    catalogue.entries.cache_clear()


def test_an_entry_that_is_stated_in_another_way_is_an_error_when_it_is_asked_for(installed: Path) -> None:
    installed.write_text('_PRETRAINED = {"ViT-B-16": dict(good=_pcfg("https://x/a.pt"), bad=_pcfg(url=f"{1}"), odd=2)}')
    assert catalogue.find("good", "ViT-B-16").url == "https://x/a.pt"
    for tag in ("bad", "odd"):
        with pytest.raises(WeightsError, match=f"entry '{tag}' for ViT-B-16 cannot be read"):
            catalogue.find(tag, "ViT-B-16")


@pytest.mark.parametrize("source", ["", "_PRETRAINED = load()", "_PRETRAINED = {'ViT-B-16': {'a': 1}}", "def ("])
def test_a_catalogue_of_which_nothing_can_be_read_is_an_error(installed: Path, source: str) -> None:
    installed.write_text(source)
    with pytest.raises(WeightsError, match=r"pretrained\.py states the catalogue .* cannot be read") as caught:
        catalogue.find("openai", "ViT-B-16")
    assert "open_clip_torch" in str(caught.value.hint)


# Downloads --------------------------------------------------------------------------------------


class Server:
    """Serves one body; `cut` ends each answer early, `ranges` says whether it can continue."""

    def __init__(self) -> None:
        self.body = b""
        self.cut: int | None = None
        self.ranges = True
        self.asked: list[str | None] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                owner.asked.append(wanted)
                if "missing" in self.path:
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and owner.ranges else 0
                if start >= len(owner.body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(owner.body) - start))
                self.end_headers()
                self.wfile.write(owner.body[start:][: owner.cut])

            def log_message(self, *_: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's caches nor their settings matter here."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(("quick", "expected"), [(True, "quickgelu"), (False, "gelu")])
def test_weights_of_the_catalogue_are_fetched_once_checked_and_read(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, quick: bool, expected: str
) -> None:
    torch.save(tiny(), tmp_path / "made.pt")
    server.body = (tmp_path / "made.pt").read_bytes()
    entry = CatalogueEntry(server.url(f"tiny-{digest(server.body)[:8]}.pt"), "laion/not-asked/", quick)
    monkeypatch.setattr(catalogue, "entries", lambda: {"ViT-B-16": {"laion_tiny": entry}})
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        state, activation = clip_state(
            "laion-tiny", "ViT-B/16", progress=lambda done, total: seen.append((done, total))
        )
        same(state, tiny())
        assert activation == expected
    assert len(server.asked) == 1
    assert seen[-1] == (len(server.body), len(server.body))
    assert (tmp_path / "cache" / "weights" / entry.file).read_bytes() == server.body


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.body = bytes(range(256)) * 64
    target = tmp_path / "cache" / "a.pt"
    server.cut = 5000
    with pytest.raises(WeightsError, match=r"a\.pt cannot be fetched"):
        download(server.url("a.pt"), target, sha256=digest(server.body))
    assert not target.exists()
    server.cut = None
    download(server.url("a.pt"), target, sha256=digest(server.body))
    assert target.read_bytes() == server.body
    assert server.asked == [None, "bytes=5000-"]


def test_a_server_that_cannot_continue_sends_everything_anew(tmp_path: Path, server: Server) -> None:
    server.body, server.ranges = b"new content" * 99, False
    (tmp_path / "a.pt.part").write_bytes(b"old")
    assert download(server.url("a.pt"), tmp_path / "a.pt", sha256=digest(server.body)).read_bytes() == server.body


def test_a_part_that_is_whole_already_is_used_and_a_wrong_one_deleted(tmp_path: Path, server: Server) -> None:
    server.body = b"content" * 99
    (tmp_path / "a.pt.part").write_bytes(server.body)
    assert download(server.url("a.pt"), tmp_path / "a.pt", sha256=digest(server.body)).read_bytes() == server.body
    (tmp_path / "b.pt.part").write_bytes(b"x" * 9999)
    with pytest.raises(WeightsError, match="SHA-256"):
        download(server.url("b.pt"), tmp_path / "b.pt", sha256=digest(server.body))
    assert not (tmp_path / "b.pt.part").exists()


def test_a_file_with_the_wrong_hash_is_deleted_and_never_used(tmp_path: Path, server: Server) -> None:
    server.body = b"something else"
    with pytest.raises(WeightsError, match="SHA-256 begins with"):
        download(server.url("a.pt"), tmp_path / "a.pt", sha256="0" * 64)
    assert not (tmp_path / "a.pt").exists()
    assert not (tmp_path / "a.pt.part").exists()


def test_several_who_ask_at_once_cause_one_download(tmp_path: Path, server: Server) -> None:
    server.body = b"content" * 9999
    threads = [
        threading.Thread(target=download, args=(server.url("a.pt"), tmp_path / "a.pt"), kwargs={"sha256": None})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert (tmp_path / "a.pt").read_bytes() == server.body


def test_the_copy_of_openais_own_package_is_used_when_its_hash_is_right(tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".cache" / "clip"
    folder.mkdir(parents=True)
    (folder / "a.pt").write_bytes(b"the file")
    nowhere = "http://127.0.0.1:9/a.pt"
    assert download(nowhere, tmp_path / "a.pt", sha256=digest(b"the file")) == folder / "a.pt"
    with pytest.raises(WeightsError, match="cannot be fetched"):
        download(nowhere, tmp_path / "a.pt", sha256=digest(b"another"))


def test_offline_the_message_names_the_file_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"ViT-B-16\.pt is not on this machine, and HF_HUB_OFFLINE") as caught:
        clip_state("openai", "ViT-B-16")
    assert caught.value.hint is not None
    assert str(tmp_path / "cache" / "weights" / "ViT-B-16.pt") in caught.value.hint
    assert "method.weights" in caught.value.hint


@pytest.mark.parametrize("name", ["missing.pt", "closed"])
def test_an_answer_that_is_no_file_is_one_clear_line(tmp_path: Path, server: Server, name: str) -> None:
    url = server.url(name) if name != "closed" else "http://127.0.0.1:9/a.pt"
    with pytest.raises(WeightsError, match=r"a\.pt cannot be fetched from http") as caught:
        download(url, tmp_path / "a.pt", sha256=None)
    assert "\n" not in caught.value.message


def test_a_tag_whose_weights_lie_on_the_hub_is_fetched_there_and_its_failure_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_safetensors(tmp_path / "w.safetensors", tiny())
    content = (tmp_path / "w.safetensors").read_bytes()
    served = Hub({"laion/there": {"open_clip_pytorch_model.bin": b"", "open_clip_model.safetensors": content}})
    hub_client(served, tmp_path / "hub", monkeypatch)
    entries = {
        "ViT-B-16": {"laion": CatalogueEntry(hub="laion/there/"), "gone": CatalogueEntry(hub="laion/gone/file.bin")}
    }
    monkeypatch.setattr(catalogue, "entries", lambda: entries)
    same(clip_state("laion", "ViT-B-16")[0], tiny())
    with pytest.raises(WeightsError, match="there is no repository laion/gone on http://127"):
        hub.clip_state("gone", "ViT-B-16")
    served.close()
