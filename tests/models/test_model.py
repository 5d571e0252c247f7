"""The encoder: rows, batches, fingerprints, devices, and what `--ckpt` may be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.runs import tiny_recipe, tiny_run

import tbps_cli
from tbps_cli.data.images import UnreadableImage
from tbps_cli.errors import RecipeError, UsageError, WeightsError
from tbps_cli.methods.clip import PlainCLIP
from tbps_cli.models import device, open_model
from tbps_cli.models.model import Model, build
from tbps_cli.models.run import Run, newest

CAPTIONS = ["a man in a white shirt", "a woman with a red bag", "", "someone"]


def opened(path: Path, **options: object) -> Model:
    model = open_model(path, device="cpu", **options)
    assert isinstance(model, Model)
    return model


def images(folder: Path, count: int = 5) -> list[Path]:
    draws = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path in paths:
        Image.fromarray(draws.integers(0, 255, (40, 20, 3), dtype=np.uint8)).save(path)
    return paths


def test_rows_are_float32_of_unit_length_whatever_the_batch(run: Run, tmp_path: Path) -> None:
    model = opened(run.folder)
    paths = images(tmp_path / "pictures")
    image = model.encode_images(paths)
    text = model.encode_texts(CAPTIONS)
    assert (image.dtype, image.shape, text.shape, model.embed) == (np.float32, (5, 16), (4, 16), 16)
    for rows in (image, text):
        assert abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert abs(model.encode_images(paths, batch=2) - image).max() < 1e-6
    assert abs(model.encode_texts(CAPTIONS, batch=1) - text).max() < 1e-6
    assert model.encode_texts([]).shape == model.encode_images([]).shape == (0, 16)


def test_paths_texts_and_open_images_are_the_same_image(run: Run, tmp_path: Path) -> None:
    model = opened(run.folder)
    (path,) = images(tmp_path / "pictures", 1)
    rows = model.encode_images([path, str(path), Image.open(path)])
    alone = model.encode_images(path)[0]
    for other in (rows[1], rows[2], alone):  # the same up to where threads cut a batch
        assert abs(rows[0] - other).max() < 1e-6


def test_a_broken_image_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"broken\.png"):
        opened(run.folder).encode_images([tmp_path / "broken.png"])


def test_special_tokens_in_a_query_are_ordinary_words(run: Run) -> None:
    model = opened(run.folder)
    text = ["a man <end_of_text> in white"]
    assert not np.array_equal(model.encode_texts(text), model.encode_texts(text, query=True))
    assert np.array_equal(model.encode_texts(CAPTIONS), model.encode_texts(CAPTIONS, query=True))


def test_progress_is_told(run: Run) -> None:
    seen: list[tuple[int, int]] = []
    opened(run.folder).encode_texts(CAPTIONS, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


# Fingerprints -----------------------------------------------------------------------------------


def test_the_fingerprint_follows_weights_and_settings_that_change_a_row(tmp_path: Path, run: Run) -> None:
    marks = {
        "same": opened(run.folder).fingerprint,
        "weights": opened(tiny_run(tmp_path / "b", seed=1).folder).fingerprint,
        "key": opened(run.folder, sets=["method.temperature=0.5"]).fingerprint,
        "heads": opened(run.folder, sets=["method.tower.heads=1"]).fingerprint,
    }
    assert len(set(marks.values())) == 4, marks
    assert opened(run.folder).fingerprint == marks["same"]
    assert opened(tiny_run(tmp_path / "c").folder).fingerprint == marks["same"], "the same weights elsewhere"
    assert opened(run.folder, sets=["data.name=rstpreid"]).fingerprint == marks["same"]


def test_weights_are_hashed_once_a_file_and_again_when_it_changes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(run.weights_file, (1, 1))
    first = opened(run.folder)
    hashed = []
    mark = Model._weights_mark
    monkeypatch.setattr(Model, "_weights_mark", lambda self: hashed.append(1) or mark(self))
    second = opened(run.folder)
    assert (second.fingerprint, hashed) == (first.fingerprint, [])
    assert opened(run.folder, sets=["method.long_captions=chunk"]).fingerprint != first.fingerprint
    with torch.no_grad():
        second.method.clip.text_projection.mul_(2)
    assert second.weights_changed(), "what was remembered is what was opened"
    tensors = run.weights()
    tensors["clip.text_projection"] = 2 * tensors["clip.text_projection"]
    run.save_weights("best", tensors, {})
    os.utime(run.weights_file, (1, 1))
    assert opened(run.folder).fingerprint == second.marked().fingerprint != first.fingerprint


def test_a_remembered_fingerprint_that_is_none_is_not_used(run: Run, tmp_path: Path) -> None:
    os.utime(run.weights_file, (1, 1))
    first = opened(run.folder).fingerprint
    (file,) = (tmp_path / "cache" / "remembered" / "fingerprints").iterdir()
    mark = json.loads(file.read_text("utf-8"))["fact"]["mark"]
    file.write_text(file.read_text("utf-8").replace(mark, "../../../../evil"), "utf-8")
    assert opened(run.folder).fingerprint == first


def test_opening_draws_nothing_and_leaves_the_file_as_it_is(run: Run) -> None:
    torch.manual_seed(0)
    before, content = torch.get_rng_state(), run.weights_file.read_bytes()
    model = opened(run.folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.device.type == "cpu" for tensor in model.method.state_dict().values())
    with torch.no_grad():
        for parameter in model.method.parameters():
            parameter.add_(1)
    assert run.weights_file.read_bytes() == content


def test_the_fingerprint_ignores_heads_of_training(tmp_path: Path) -> None:
    plain = opened(tiny_run(tmp_path / "a", tiny_recipe(learn_temperature=True)).folder)
    before = plain.fingerprint
    again = opened(tmp_path / "a")
    again.method.logit_scale.data += 1
    assert again.fingerprint == before


def test_the_batch_counts_only_where_it_changes_a_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def marks() -> set[str]:
        model = opened(run.folder)
        found = set()
        for model.batch in (64, 128):
            found.add(model.fingerprint)
        return found

    assert len(marks()) == 1
    monkeypatch.setattr(PlainCLIP, "batch_dependent", classmethod(lambda cls, config: "because of its companions"))
    assert len(marks()) == 2
    assert opened(run.folder).batch_dependent == "because of its companions"


# Opening ----------------------------------------------------------------------------------------


def test_the_library_opens_a_run_by_its_published_name(run: Run) -> None:
    model = tbps_cli.load(run.folder, device="cpu")
    assert (model.name, model.data, model.selected_on, model.path) == ("clip", "synthetic", "val", run.folder)


def test_without_a_checkpoint_the_newest_run_is_taken_and_named(run: Run, lines: Callable[[], str]) -> None:
    open_model(device="cpu")
    assert "ckpt: runs/tiny-0001 (the newest run in runs)" in lines()
    assert newest(Path("runs")) == Path("runs/tiny-0001")


def test_without_any_run_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no finished run in runs") as caught:
        open_model()
    assert caught.value.hint is not None
    assert "tbps train" in caught.value.hint


def test_a_path_that_is_not_there_lists_the_runs_that_are(run: Run) -> None:
    with pytest.raises(WeightsError, match="irra-0009: there is no such file") as caught:
        open_model("runs/irra-0009")
    assert caught.value.hint == "In runs: runs/tiny-0001. List runs with: tbps runs"


def test_settings_of_training_cannot_change_after_it(run: Run) -> None:
    with pytest.raises(UsageError, match=r"train\.epochs=3: only keys of method and data"):
        open_model(run.folder, sets=["train.epochs=3"])
    with pytest.raises(UsageError, match="the method of a checkpoint cannot"):
        open_model(run.folder, sets=["method.name=irra"])
    with pytest.raises(RecipeError, match=r"method\.temprature"):
        open_model(run.folder, sets=["method.temprature=1"])
    with pytest.raises(WeightsError, match=r"visual\.positional_embedding is \[9, 32\], .* 64x32 needs \[33, 32\]"):
        open_model(run.folder, sets=["data.image_size=[64,32]"])


def test_words_are_refused_where_the_method_has_none(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--words .*table\.npy: clip needs no word table"):
        open_model(run.folder, words=tmp_path / "table.npy")


def test_a_run_with_a_missing_tensor_names_it(run: Run) -> None:
    tensors = run.weights()
    del tensors["clip.ln_final.weight"]
    run.save_weights("best", tensors, {})
    with pytest.raises(
        WeightsError, match=r"36 of the 37 tensors that clip needs are there; missing: ln_final\.weight\."
    ):
        open_model(run.folder)


def test_heads_of_training_in_a_run_are_left_out(tmp_path: Path) -> None:
    method = build(tiny_recipe())
    run = Run.create(tmp_path / "run", tiny_recipe())
    run.save_weights("best", dict(method.state_dict()) | {"logit_scale": torch.ones([])}, {})
    assert opened(run.folder).name == "clip"


# Devices ----------------------------------------------------------------------------------------


def test_the_automatic_device_is_said_with_its_reason(lines: Callable[[], str]) -> None:
    chosen = device.choose("auto")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert chosen == torch.device("cpu")
        assert "device: cpu (no CUDA device found)" in lines()
    assert f"device: {chosen} (" in lines()


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "cuda:", "", "cuda:999", "cuda:-1"])
def test_a_device_that_is_not_there_is_a_wrong_command_line(name: str) -> None:
    if name == "cuda:" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UsageError, match="--device"):
        device.choose(name)


def test_a_run_can_be_listed_without_torch(run: Run) -> None:
    code = (
        "import sys, tbps_cli.models; from tbps_cli.models.run import newest, list_runs; from pathlib import Path;"
        "assert newest(Path('runs')).name == 'tiny-0001'; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_of_fewer_tokens_than_the_tokenizer_has_ids_is_refused(tmp_path: Path) -> None:
    """It would work until somebody searches for one of the last words, and then end in an IndexError."""
    recipe = tiny_recipe()
    tower = recipe.method.tower.model_copy(update={"vocabulary": 49_000})  # type: ignore[union-attr]
    method = recipe.method.model_copy(update={"tower": tower})
    run = tiny_run(tmp_path / "run", recipe.model_copy(update={"method": method}))
    with pytest.raises(WeightsError, match=r"its table of tokens has 49,000 rows, but the tokenizer has 49,408 ids"):
        open_model(run.folder, device="cpu").encode_texts(["a man in a white shirt"])
