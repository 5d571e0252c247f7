"""Reading every kind of weights file, and writing our own so that a full disk costs nothing."""

from __future__ import annotations

import collections
import errno
import os
import random
import sys
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import Tensor, nn

from tbps_cli.errors import WeightsError
from tbps_cli.weights import weights_file
from tbps_cli.weights.weights_file import read_state, read_tensors, read_yaml, state_of, write_safetensors, write_state

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
ZIP_AND_STREAM = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])


def saved(path: Path, value: object, as_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return path


@ZIP_AND_STREAM
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_number_type_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, as_zip: bool) -> None:
    value = (torch.randn(3, 5) * 9).to(dtype)
    read = read_tensors(saved(tmp_path / "a.pth", {"model": {"w": value}}, as_zip)).content["model"]["w"]
    assert read.dtype == dtype
    assert torch.equal(read, value)


@ZIP_AND_STREAM
def test_views_strides_and_shared_storages_survive(tmp_path: Path, as_zip: bool) -> None:
    base = torch.arange(24.0)
    state = {"whole": base, "tail": base[20:], "turned": base.view(4, 6).T, "none": torch.zeros(0, 3), "one": base[7]}
    read = read_tensors(saved(tmp_path / "a.pth", state, as_zip)).content
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].shape == tensor.shape
    assert read["turned"].stride() == (1, 6)
    read["whole"][20] = -1.0
    assert read["tail"][0] == -1.0, "tensors that shared a storage share it still"


@ZIP_AND_STREAM
def test_a_training_checkpoint_with_all_its_odd_classes_is_plain_python(tmp_path: Path, as_zip: bool) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam([{"params": [p], "lr": np.float64(1e-5)} for p in layer.parameters()])
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {
        "model": layer.state_dict(),
        "parameter": layer.weight,
        "optimizer": optimizer.state_dict(),
        "config": EasyDict({"device": "cuda:0", "model": {"ratio": 0.5, "sizes": [384, 128]}}),
        "args": Namespace(lr=0.1, steps=(20, 50)),
        "milestones": collections.Counter({20: 1, 50: 1}),
        "state": collections.defaultdict(dict, {3: {"a": 1}}),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtype": torch.float16,
        "numpy": np.float32(0.25),
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "many": {1, 2},
    }
    read = read_tensors(saved(tmp_path / "a.pth", value, as_zip)).content
    assert read["config"] == {"device": "cuda:0", "model": {"ratio": 0.5, "sizes": [384, 128]}}
    assert type(read["config"]) is type(read["config"]["model"]) is dict
    assert read["args"] == {"lr": 0.1, "steps": (20, 50)}
    assert (read["milestones"], read["state"], read["many"]) == ({20: 1, 50: 1}, {3: {"a": 1}}, {1, 2})
    assert (read["size"], read["device"], read["dtype"], read["numpy"]) == ((2, 3), "cuda:1", torch.float16, 0.25)
    assert np.array_equal(read["array"], value["array"])
    assert torch.equal(read["parameter"], layer.weight)
    assert list(read["model"]) == ["weight", "bias"]
    assert read["optimizer"]["param_groups"][0]["lr"] == 1e-5
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_the_optimizer_is_not_even_read_when_it_is_skipped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"model": {"w": torch.ones(2)}, "optimizer": {"m": torch.ones(9)}})
    read = read_tensors(path, skip=("optimizer",)).content
    assert list(read) == ["model"]


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(3, 4).half())
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm((x.half() @ self.proj).float())


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Part()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.register_buffer("context_length", torch.tensor(77))
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.visual(x))


def test_a_torchscript_archive_gives_the_tensors_of_its_modules(tmp_path: Path) -> None:
    model = Whole()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), tmp_path / "m.pt")
    read = read_tensors(tmp_path / "m.pt")
    assert read.kind == "torchscript"
    assert torch.equal(read.content["visual"]["proj"], model.visual.proj)
    assert torch.equal(read.content["layers"]["1"]["weight"], model.layers[1].weight)
    assert torch.equal(read.content["visual"]["norm"]["running_var"], model.visual.norm.running_var)
    assert int(read.content["context_length"]) == 77


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"hello, these are no weights\n", "is not a weights file"),
        (b"PK\x03\x04 and then nothing", "cut short or damaged"),
        (b"\x80\x02}q\x00.", "not one of torch.save"),
        (b"\x80\x02}q\x00", "damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "cut short or damaged"),
    ],
)
def test_what_is_no_checkpoint_gets_one_clear_line(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_tensors(tmp_path / "best.pth")
    assert word in caught.value.message
    assert "best.pth" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_tensors(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_tensors(tmp_path)


@ZIP_AND_STREAM
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.98])
def test_a_truncated_checkpoint_is_called_so(tmp_path: Path, as_zip: bool, share: float) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.randn(5000)}, as_zip)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match=r"cut short|damaged"):
        read_tensors(path)


def test_a_flipped_byte_in_the_values_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.zeros(4000)})
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match="damaged"):
        read_tensors(path)


def test_random_damage_never_ends_in_anything_but_a_clear_error(tmp_path: Path) -> None:
    draws = random.Random(0)
    for as_zip in (True, False):
        path = saved(tmp_path / "a.pth", {"w": torch.randn(8), "c": EasyDict(a=[1, (2, 3)])}, as_zip)
        whole = path.read_bytes()
        for _ in range(150):
            broken = bytearray(whole)
            for _ in range(draws.randint(1, 4)):
                broken[draws.randrange(len(broken))] = draws.randrange(256)
            path.write_bytes(broken)
            try:
                read_tensors(path)
            except WeightsError as error:
                assert "\n" not in error.message


def test_a_zip_file_that_is_no_checkpoint_is_called_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"no data\.pkl"):
        read_tensors(tmp_path / "a.pth")


# Writing ----------------------------------------------------------------------------------------


def test_safetensors_come_back_equal_with_their_metadata_and_from_any_layout(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {"a": base, "turned": base.T, "row": base[1], "half": base.half(), "none": torch.zeros(0)}
    write_safetensors(tmp_path / "w.safetensors", tensors, {"method": "clip"})
    read = weights_file.read_safetensors(tmp_path / "w.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert weights_file.read_metadata(tmp_path / "w.safetensors") == {"method": "clip"}
    assert read_tensors(tmp_path / "w.safetensors").kind == "safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"], "no temporary file is left"


def test_a_safetensors_file_that_begins_with_a_pickles_first_byte_is_read(tmp_path: Path) -> None:
    """Its first bytes are the length of its head: 128, 384 and so on were taken for a pickle."""
    for length in range(90):
        write_safetensors(tmp_path / "w.safetensors", {"a" * (length + 1): torch.ones(2)})
        first = (tmp_path / "w.safetensors").read_bytes()[0]
        assert read_tensors(tmp_path / "w.safetensors").kind == "safetensors", first
        if first == 0x80:
            return
    raise AssertionError("no head of such a length")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_safetensors_are_read_under_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A run in such a folder could be trained, and was then called damaged."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_safetensors(folder / "w.safetensors", {"a": torch.ones(2)}, {"epoch": "3"})
    assert weights_file.read_metadata(folder / "w.safetensors") == {"epoch": "3"}
    assert torch.equal(read_tensors(folder / "w.safetensors").content["a"], torch.ones(2))
    with pytest.raises(WeightsError, match="there is no such file"):
        weights_file.read_metadata(folder / "gone.safetensors")


def test_a_wrong_bit_in_the_head_of_our_own_safetensors_is_found(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"layer1.weight": torch.ones(2)}, {"selected_on": "val"})
    whole = path.read_bytes()
    for before, after in ((b"layer1", b"layer3"), (b'"val"', b'"vam"')):
        path.write_bytes(whole.replace(before, after))
        for read in (weights_file.read_safetensors, weights_file.read_metadata, read_tensors):
            with pytest.raises(WeightsError, match="head does not fit its checksum"):
                read(path)


def test_a_damaged_safetensors_file_is_called_so(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "w.safetensors", {"a": torch.zeros(99)})
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-40])
    for read in (weights_file.read_safetensors, weights_file.read_metadata, read_tensors):
        with pytest.raises(WeightsError, match="cut short or damaged"):
            read(tmp_path / "w.safetensors")


def test_a_resume_state_comes_back_equal(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    state = {"step": 7, "best": 41.5, "rng": generator.get_state(), "python": random.Random(1).getstate(), "done": None}
    write_state(tmp_path / "state.pt", state)
    read = read_state(tmp_path / "state.pt")
    assert torch.equal(read.pop("rng"), state.pop("rng"))
    assert read == state


@pytest.mark.parametrize("kind", ["safetensors", "state", "text"])
def test_a_full_disk_leaves_the_previous_file_whole(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("the old one")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tbps_cli.files.os.fsync", full)
    with pytest.raises(WeightsError, match="No space left") as caught:
        if kind == "safetensors":
            write_safetensors(path, {"a": torch.zeros(3)})
        elif kind == "state":
            write_state(path, {"a": 1})
        else:
            weights_file.write_atomically(path, lambda target: target.write_text("new"))
    assert caught.value.hint is not None
    assert path.read_text() == "the old one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_the_writers_own_errors_on_a_full_device_are_clear_too(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be written"):
        weights_file.write_atomically(tmp_path / "a", lambda target: Path("/dev/full").write_bytes(b"x" * 10000))
    with pytest.raises(WeightsError, match="cannot be written"):
        weights_file.write_atomically(tmp_path / "a", lambda target: torch.save({"a": torch.zeros(9999)}, "/dev/full"))
    with pytest.raises(WeightsError, match="cannot be written"):
        write_safetensors(tmp_path / "no" / "such" / "folder", {"a": torch.zeros(1)})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_called_so_where_torch_speaks_of_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(WeightsError, match="cannot be written: No space left on device") as told:
        weights_file.write_atomically(tmp_path / "a", lambda target: torch.save({"a": torch.zeros(9999)}, "/dev/full"))
    assert "inline_container" not in told.value.message


def test_a_mistake_in_the_caller_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        weights_file.write_atomically(tmp_path / "a", lambda target: 1 // 0)
    assert not list(tmp_path.iterdir())


# Options ----------------------------------------------------------------------------------------


def test_yaml_knows_the_tuple_tag_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "configs.yaml"
    path.write_text("img_size: !!python/tuple\n- 384\n- 128\nlr: 1.0e-05\nname: iira\nnested:\n  a: [1, 2]\n")
    assert read_yaml(path) == {"img_size": (384, 128), "lr": 1e-05, "name": "iira", "nested": {"a": [1, 2]}}
    path.write_text("a: !!python/object/apply:os.system ['touch x']\n")
    with pytest.raises(WeightsError, match=r"asks for .*os\.system"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "just words", "\tx: 1", "a: !!python/name:os.system"])
def test_yaml_that_is_no_options_file_gets_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "configs.yaml").write_text(text)
    with pytest.raises(WeightsError) as caught:
        read_yaml(tmp_path / "configs.yaml")
    assert "configs.yaml" in caught.value.message
    assert "\n" not in caught.value.message


def test_an_empty_yaml_file_has_no_options(tmp_path: Path) -> None:
    (tmp_path / "configs.yaml").write_text("")
    assert read_yaml(tmp_path / "configs.yaml") == {}


def test_a_name_that_grows_without_end_is_refused_and_costs_little(tmp_path: Path) -> None:
    """One key of 50,000 characters, 300 dictionaries deep: the names together would take two gigabytes."""
    key, value = "k" * 50_000, {"weight": torch.zeros(2)}
    for _ in range(300):
        value = {key: value}
    torch.save(value, tmp_path / "deep.pth")
    with pytest.raises(WeightsError, match="longer than 4,096 characters"):
        state_of(read_tensors(tmp_path / "deep.pth"))
