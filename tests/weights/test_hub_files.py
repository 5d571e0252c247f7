"""Weights by their address on the hub, against a hub of the test's own: fetched once, named by commit and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.colours import write_colours
from support.hub import COMMIT, Hub, hub_client
from support.training import Spy

from tbps_cli.choices import Choices
from tbps_cli.engine.train import train
from tbps_cli.errors import WeightsError
from tbps_cli.models.checkpoint import Checkpoint
from tbps_cli.models.conversion import convert_file
from tbps_cli.models.run import Run
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.load import load
from tbps_cli.weights.hub_files import fetch, is_hub_address, parse
from tbps_cli.weights.pretrained import clip_state
from tbps_cli.weights.weights_file import read_safetensors

pytest.importorskip("huggingface_hub")
BYTES = b"some weights " * 1000
SHA256 = hashlib.sha256(BYTES).hexdigest()
MODEL, DATASET = "owner/model", "datasets/TwT-6/MLLM4Text-ReID"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository of each kind, and a client whose cache is empty."""
    made = Hub({MODEL: {"best.pth": BYTES, "deep/er/best.pth": BYTES}, DATASET: {"best0.pth": BYTES}})
    hub_client(made, tmp_path / "hub", monkeypatch)
    yield made
    made.close()


# Addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "repository", "file", "revision", "kind"),
    [
        ("hf-hub:owner/model:best.pth", MODEL, "best.pth", None, None),
        ("hf-hub:owner/model:deep/er/best.pth@v1.0", MODEL, "deep/er/best.pth", "v1.0", None),
        ("hf-hub:datasets/TwT-6/MLLM4Text-ReID:best0.pth", "TwT-6/MLLM4Text-ReID", "best0.pth", None, "dataset"),
        ("hf-hub:models/o/m:a.b@refs/pr/1", "o/m", "a.b", "refs/pr/1", "model"),
        ("hf-hub:o/m@v1:a/b.pth", "o/m", "a/b.pth", "v1", None),
        ("hf-hub:owner/model", MODEL, None, None, None),
        ("hf-hub:datasets/o/m@v1", "o/m", None, "v1", "dataset"),
    ],
)
def test_an_address_has_four_parts(address, repository, file, revision, kind) -> None:
    found = parse(address)
    assert (found.repository, found.file, found.revision, found.kind) == (repository, file, revision, kind)
    assert is_hub_address(address) and not is_hub_address(f"./{address}")


@pytest.mark.parametrize(
    "address",
    ["hf-hub:", "hf-hub:owner", "hf-hub:o/m@v1:f@v2", "hf-hub:o/m@", "hf-hub:model:f",
         "hf-hub:o/m:", "hf-hub:o/m:../f", "hf-hub:o/m:/etc/f",
     "hf-hub:o/m:a/../../f", "hf-hub:o/m:f@", "hf-hub:spaces/o/m:f", "hf-hub:o/m:f@a b", "hf-hub:o/m:a\\b"],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_anybody_is_asked(address: str, hub: Hub) -> None:
    with pytest.raises(WeightsError, match="is not the address of a file on the hub") as caught:
        fetch(address)
    assert "hf-hub:OWNER/REPOSITORY:FILE" in (caught.value.hint or "")
    assert hub.asked == []


# Fetching ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "named"),
    [
        (f"hf-hub:{MODEL}:best.pth", f"hf-hub:{MODEL}:best.pth@{COMMIT}"),
        (f"hf-hub:{MODEL}:deep/er/best.pth@main", f"hf-hub:{MODEL}:deep/er/best.pth@{COMMIT}"),
        (f"hf-hub:{DATASET}:best0.pth", f"hf-hub:{DATASET}:best0.pth@{COMMIT}"),
        ("hf-hub:TwT-6/MLLM4Text-ReID:best0.pth", f"hf-hub:{DATASET}:best0.pth@{COMMIT}"),
    ],
)
def test_a_file_comes_once_with_its_commit_and_hash(hub: Hub, address: str, named: str) -> None:
    first = fetch(address)
    assert first.path.read_bytes() == BYTES
    assert (first.address, first.sha256) == (named, SHA256)
    got = [line for line in hub.asked if line.startswith("GET")]
    assert fetch(address) == first
    assert fetch(named) == first, "what a run remembers is an address too"
    assert [line for line in hub.asked if line.startswith("GET")] == got


def test_offline_the_cache_is_enough_and_the_hub_is_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch(f"hf-hub:{MODEL}:best.pth")
    asked = list(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(f"hf-hub:{MODEL}:best.pth") == first
    with pytest.raises(WeightsError, match=r"best\.pth is not on this machine, and HF_HUB_OFFLINE forbids") as told:
        fetch(f"hf-hub:{MODEL}:deep/er/best.pth")
    assert "give the path of the file" in (told.value.hint or "")
    assert hub.asked == asked


@pytest.mark.parametrize(
    ("address", "said", "hint"),
    [
        ("hf-hub:owner/nothing:f", "there is no repository owner/nothing on http://127.*, or it is private", "hf auth"),
        (f"hf-hub:{MODEL}:best.pht", "owner/model has no file best.pht", "owner/model/tree/main"),
        (f"hf-hub:{MODEL}:best.pth@v9", "owner/model has no revision v9", "owner/model/commits"),
        ("hf-hub:owner/private:f", "there is no repository owner/private on .*, or it is private", "HF_TOKEN"),
        ("hf-hub:owner/gated:f", "the authors give owner/gated to those who ask for it", "Ask on http://127"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line_and_a_hint(hub: Hub, address: str, said: str, hint: str) -> None:
    hub.files |= {"owner/private": {"f": BYTES}, "owner/gated": {"f": BYTES}}
    hub.private, hub.gated = {"owner/private"}, {"owner/gated"}
    with pytest.raises(WeightsError, match=said) as caught:
        fetch(address)
    assert caught.value.message.startswith(f"{address}: ") and "\n" not in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_private_repository_opens_with_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["owner/private"], hub.private = {"f": BYTES}, {"owner/private"}
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert fetch("hf-hub:owner/private:f").sha256 == SHA256


def test_a_hub_that_cannot_be_reached_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for address in (f"hf-hub:{MODEL}:best.pth", f"hf-hub:{MODEL}"):
        with pytest.raises(WeightsError, match=r"is not on this machine, and http://127\.0\.0\.1:9 cannot be") as told:
            fetch(address)
        assert told.value.message.startswith(f"{address} is not") and "\n" not in told.value.message
    assert waited == [1.0, 1.0], "it is asked twice each, where the client would wait 23 seconds"


def test_what_the_cache_has_is_used_while_the_hub_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.files["owner/alone"] = {"best.pth": BYTES, "configs.yaml": b"a: 1"}
    first, second = fetch(f"hf-hub:{MODEL}:best.pth"), fetch("hf-hub:owner/alone")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(f"hf-hub:{MODEL}:best.pth") == first
    assert fetch("hf-hub:owner/alone") == second


# A repository without a file --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["best.pth", "last.pth", "configs.yaml"], "best.pth"),
        (["pytorch_model.bin", "open_clip_pytorch_model.bin", "open_clip_model.safetensors"],
         "open_clip_model.safetensors"),
        (["weights.safetensors", "recipe.toml", "last.safetensors"], "weights.safetensors"),
        (["deep/er/only.pth", "README.md"], "deep/er/only.pth"),
        (["best1.pth", "best0.pth", "captions.json"], "best0.pth"),
    ],
)  # fmt: skip
def test_the_one_checkpoint_of_a_repository_is_found(hub: Hub, names: list[str], taken: str) -> None:
    hub.files["owner/alone"] = {name: BYTES if name == taken else b"other" for name in names}
    found = fetch("hf-hub:owner/alone")
    assert (found.address, found.sha256) == (f"hf-hub:owner/alone:{taken}@{COMMIT}", SHA256)
    beside = {name for name in names if name in ("configs.yaml", "recipe.toml")}
    assert {path.name for path in found.path.parent.iterdir()} == {found.path.name} | beside
    assert fetch(found.address) == found


def test_of_three_files_the_data_set_chooses(hub: Hub) -> None:
    hub.files[DATASET] = {f"best{number}.pth": BYTES for number in range(3)}
    assert fetch(f"hf-hub:{DATASET}", data="rstpreid").path.name == "best2.pth"
    assert fetch("hf-hub:TwT-6/MLLM4Text-ReID@main", data=None).path.name == "best0.pth"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.pth", "b.pth"], "the repository holds several checkpoints: a.pth, b.pth"),
        (["README.md"], "the repository holds neither a run"),
        ([], "the repository holds neither a run"),
    ],
)
def test_a_repository_with_several_checkpoints_or_none_names_what_it_has(hub: Hub, names: list[str], said: str) -> None:
    hub.files["owner/many"] = dict.fromkeys(names, BYTES)
    with pytest.raises(WeightsError, match=said):
        fetch("hf-hub:owner/many")
    assert not [line for line in hub.asked if "/resolve/" in line], "nothing is fetched"


def test_offline_a_repository_is_what_the_cache_has_of_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["owner/alone"] = {"best.pth": BYTES}
    first = fetch("hf-hub:owner/alone")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = list(hub.asked)
    assert fetch("hf-hub:owner/alone") == first
    with pytest.raises(WeightsError, match="hf-hub:owner/other is not on this machine, and HF_HUB_OFFLINE forbids"):
        fetch("hf-hub:owner/other")
    assert hub.asked == asked


@pytest.mark.parametrize(
    ("repository", "said"),
    [("owner/nothing", "there is no repository"), ("owner/private", "or it is private"), ("owner/gated", "ask for it")],
)
def test_a_repository_that_is_not_given_is_one_line(hub: Hub, repository: str, said: str) -> None:
    hub.files |= {"owner/private": {"f.pth": BYTES}, "owner/gated": {"f.pth": BYTES}}
    hub.private, hub.gated = {"owner/private"}, {"owner/gated"}
    with pytest.raises(WeightsError, match=said) as caught:
        fetch(f"hf-hub:{repository}")
    assert caught.value.message.startswith(f"hf-hub:{repository}: ") and caught.value.hint


def test_a_download_that_broke_off_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cut = 5000
    found = fetch(f"hf-hub:{MODEL}:best.pth")
    assert found.path.read_bytes() == BYTES
    assert len([line for line in hub.asked if line.startswith("GET")]) == 2


def test_a_file_that_is_not_what_the_hub_has_is_never_used(hub: Hub) -> None:
    hub.lies = True
    with pytest.raises(WeightsError, match="the copy in the cache is damaged: its SHA-256 begins with") as caught:
        fetch(f"hf-hub:{MODEL}:best.pth")
    assert (caught.value.hint or "").startswith("Delete ")


# As a start -------------------------------------------------------------------------------------

TOWER = Tower(width=32, layers=2, patch=8, embed=32, text_width=32, text_layers=2, context=24, heads=2, text_heads=2)


def towers(seed: int = 4) -> dict[str, torch.Tensor]:
    clip = Clip(TOWER, (48, 16))
    clip.initialise(torch.Generator().manual_seed(seed))
    return clip.state_dict()


def family_file(path: Path, *, half: bool = True) -> bytes:
    """As the authors of NAM and HAM publish them: one process's wrapper, IRRA's names, towers alone, half precision."""
    state = {f"module.base_model.{name}": value for name, value in towers().items()}
    if half:
        state = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]}
    torch.save({"model": state, "optimizer": optimizer, "epoch": 3}, path)
    return path.read_bytes()


@pytest.mark.parametrize("half", [True, False])
def test_towers_are_read_out_of_a_checkpoint_of_irras_family(tmp_path: Path, half: bool) -> None:
    family_file(tmp_path / "best0.pth", half=half)
    state, activation = clip_state(str(tmp_path / "best0.pth"))
    assert activation == "quickgelu"
    assert state.keys() == towers().keys()
    assert max((state[name] - value).abs().max() for name, value in towers().items()) < 1e-3
    assert all(value.dtype == torch.float32 for value in state.values())


RECIPE = """
extends = "irra"
[data]
name = "synthetic"
image_size = [48, 16]
[method]
cross_layers = 1
weights = "hf-hub:TwT-6/MLLM4Text-ReID:best0.pth"
[method.tower]
width = 32
layers = 2
patch = 8
embed = 32
text_width = 32
text_layers = 2
context = 24
heads = 2
text_heads = 2
[train]
epochs = 1
batch = 20
workers = 0
select_on = "val"
"""


def trained(folder: Path, name: str, sets: tuple[str, ...] = (), **options: object) -> Path:
    root = folder / "data"
    if not root.exists():
        write_colours(root, persons=(10, 2, 2), images=2)
    (folder / "tiny.toml").write_text(RECIPE)
    return train(load(folder / "tiny.toml", sets), data_root=root, out=folder / name, device="cpu", **options)


def test_a_run_remembers_the_commit_and_the_hash_of_its_start_and_repeats_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = hub.files[DATASET]["best0.pth"] = family_file(tmp_path / "best0.pth")
    run = trained(tmp_path, "run")
    named = f"hf-hub:{DATASET}:best0.pth@{COMMIT}"
    assert f'weights = "{named}"' in (run / "recipe.toml").read_text()
    known = f"{named} (SHA-256 {hashlib.sha256(content).hexdigest()})"
    assert Run(run).facts()["started_from"] == known
    start = Choices.read(Run(run).facts()).made["start"]
    assert (start.on, start.data, start.of) == ("test", "cuhk-pedes", 3), "best0 of three was chosen there"
    assert f"- Trained from: {known}" in (run / "card.md").read_text()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = train(load(str(run / "recipe.toml")), data_root=tmp_path / "data", out=tmp_path / "again", device="cpu")
    first, second = (read_safetensors(folder / "last.safetensors") for folder in (run, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_init_takes_an_address_and_a_resumed_run_still_knows_it(hub: Hub, tmp_path: Path) -> None:
    content = hub.files[DATASET]["best0.pth"] = family_file(tmp_path / "best0.pth")
    address = f"hf-hub:{DATASET}:best0.pth"
    known = f"{address}@{COMMIT} (SHA-256 {hashlib.sha256(content).hexdigest()})"
    sets = ("method.weights=random", "train.epochs=2", "train.save_every=0.001", "optim.lr=1e-30")
    stopper = Stopper()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "run", sets, init=address, observer=stopper)
    assert stopper.notes[0].startswith(f"init: {len(towers())} of ") and f"tensors from {known}" in stopper.notes[0]
    hub.close()
    run = trained(tmp_path, "run", sets, resume=True)
    assert Run(run).facts()["started_from"] == known
    end, start = read_safetensors(run / "last.safetensors")["clip.visual.proj"], towers()["visual.proj"]
    assert (end - start).abs().max() < 1e-3


def test_a_checkpoint_on_the_hub_is_found_and_converted_by_its_address(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = hub.files[DATASET]["best0.pth"] = family_file(tmp_path / "best0.pth")
    address, sets = f"hf-hub:{DATASET}:best0.pth", ("data.image_size=[48,16]",)
    with caplog.at_level("INFO", "tbps"):
        found = Checkpoint.find(address, sets=sets)
    assert f"ckpt: {address}@{COMMIT} (SHA-256 {hashlib.sha256(content).hexdigest()})" in caplog.text
    assert (found.kind, found.data) == ("official", "cuhk-pedes")
    there, here = (
        read_safetensors(convert_file(source, tmp_path / name, sets=sets).run.weights_file)
        for source, name in ((address, "there"), (tmp_path / "best0.pth", "here"))
    )
    assert there.keys() == here.keys() and all(torch.equal(value, here[name]) for name, value in there.items())
    with pytest.raises(WeightsError, match=r"has no file best9\.pth"):
        Checkpoint.find(f"hf-hub:{DATASET}:best9.pth")


class Stopper(Spy):
    """Stops a training in its second step."""

    def stepped(self, progress: object) -> None:
        super().stepped(progress)
        if len(self.steps) == 2:
            raise KeyboardInterrupt
