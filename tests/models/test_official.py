"""Official checkpoints, in the exact layouts that people have, become runs of ours."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.runs import GOLDEN, golden_state, irra_folder, tiny_recipe

from tbps_cli.errors import RecipeError, UsageError, WeightsError
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert, convert_file
from tbps_cli.models.model import Model, build
from tbps_cli.models.run import Run
from tbps_cli.models.source_file import find_file
from tbps_cli.weights.weights_file import read_metadata, read_safetensors

INPUTS = load_file(GOLDEN / "inputs.safetensors")
OUTPUTS = load_file(GOLDEN / "outputs.safetensors")


def opened(path: Path, **options: object) -> Model:
    model = open_model(path, device="cpu", **options)
    assert isinstance(model, Model)
    return model


def distance(model: Model) -> float:
    """Largest difference from the published code's embeddings of the golden batch."""
    image = model.image_arrays(INPUTS["images"]) - OUTPUTS["image_features_norm"].numpy()
    text = model.text_arrays(INPUTS["caption_ids"]) - OUTPUTS["text_features_norm"].numpy()
    return float(max(abs(image).max(), abs(text).max()))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_irra_folder_gives_the_published_embeddings(tmp_path: Path, prefix: str) -> None:
    model = opened(irra_folder(tmp_path / "irra", golden_state(), half=False, prefix=prefix))
    assert distance(model) <= 2e-5
    assert (model.name, model.data, model.selected_on) == ("irra", "icfg-pedes", None)
    assert (model.transform.size, model.embed) == ((96, 32), 64)


@pytest.mark.parametrize(("said", "known"), [("test", "test"), ("val", "val"), ("cuhk", None)])
def test_the_options_beside_a_best_file_say_which_split_chose_it(tmp_path: Path, said: str, known: str | None) -> None:
    folder = irra_folder(tmp_path / "irra", golden_state(), half=False)
    with (folder / "configs.yaml").open("a", encoding="utf-8") as options:
        options.write(f"val_dataset: {said}\n")
    assert opened(folder).selected_on == known
    run = convert_file(folder, tmp_path / "run").run
    assert run.selected_on == known
    told = f"its epoch was chosen on {known}" if known else "how its epoch was chosen is not known"
    assert told in (run.folder / "card.md").read_text(encoding="utf-8")
    (folder / "best.pth").rename(folder / "epoch10.pth")  # kept after so many epochs, whatever its score
    assert opened(folder / "epoch10.pth").selected_on is None


def test_half_weights_are_read_as_float32(tmp_path: Path, lines: Callable[[], str]) -> None:
    model = opened(irra_folder(tmp_path / "irra", golden_state(), half=True))
    assert distance(model) <= 2e-2
    assert {tensor.dtype for tensor in model.method.state_dict().values()} == {torch.float32}
    assert lines().count("converted on the fly") == 1
    assert f"{len(golden_state())} tensors matched irra" in lines()


def test_the_file_alone_is_enough_once_the_image_size_is_said(tmp_path: Path) -> None:
    folder = irra_folder(tmp_path / "irra", golden_state(), half=False)
    (folder / "configs.yaml").unlink()
    assert opened(folder / "best.pth").name == "irra"
    assert distance(opened(folder / "best.pth", sets=["data.image_size=[96,32]"])) <= 2e-5


@pytest.mark.parametrize("change", ["other classes", "no classifier", "no mlm", "no heads"])
def test_heads_of_training_may_be_absent_or_of_another_width(tmp_path: Path, change: str) -> None:
    state = golden_state()
    if change == "other classes":
        state |= {"classifier.weight": torch.zeros(3102, 64), "classifier.bias": torch.zeros(3102)}
    heads = {"no classifier": "classifier", "no mlm": "mlm_head", "no heads": ("classifier", "mlm", "cross", "ln_")}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(heads.get(change, "?"))}
    assert distance(opened(irra_folder(tmp_path / "irra", state, half=False))) <= 2e-5


def test_a_missing_or_misshapen_tensor_of_a_tower_is_named(tmp_path: Path) -> None:
    state = golden_state()
    del state["base_model.visual.ln_post.weight"]
    folder = irra_folder(tmp_path / "missing", state)
    with pytest.raises(WeightsError, match=r"tensors of irra are missing \(first: base_model\.visual\.ln_post\.weight"):
        open_model(folder, device="cpu")
    state = golden_state()
    state["base_model.visual.ln_post.weight"] = torch.zeros(5)
    with pytest.raises(WeightsError, match=r"base_model\.visual\.ln_post\.weight is \(5,\)"):
        open_model(irra_folder(tmp_path / "shape", state), device="cpu")


def test_another_image_size_than_the_weights_have_is_explained(tmp_path: Path) -> None:
    folder = irra_folder(tmp_path / "irra", golden_state())
    with pytest.raises(WeightsError, match=r"positional_embedding is \(13, 128\), .* \(image 384x128\)"):
        open_model(folder, device="cpu", sets=["data.image_size=[384,128]"])


def test_converting_makes_a_run_that_gives_the_same_rows_anywhere(tmp_path: Path, lines: Callable[[], str]) -> None:
    source = irra_folder(tmp_path / "author" / "irra", golden_state())
    before = opened(source)
    run = convert(source, tmp_path / "runs" / "mine")
    assert "left out" not in lines()
    shutil.move(run.folder, tmp_path / "elsewhere")
    shutil.rmtree(source)
    after = opened(tmp_path / "elsewhere")
    assert np.array_equal(before.image_arrays(INPUTS["images"]), after.image_arrays(INPUTS["images"]))
    assert after.fingerprint == before.fingerprint
    assert (after.selected_on, after.recipe.data.name, after.recipe.optim.eps) == (None, "icfg-pedes", 1e-3)
    text = (tmp_path / "elsewhere" / "recipe.toml").read_text() + (tmp_path / "elsewhere" / "card.md").read_text()
    assert "author" not in text
    assert "converted from" in text.lower()
    facts = read_metadata(tmp_path / "elsewhere" / "weights.safetensors")
    assert facts == {"method": "irra", "converted_from": "best.pth"}
    stored = read_safetensors(tmp_path / "elsewhere" / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert len(stored) == len(golden_state()), "heads are kept, to go on training with"


def test_converting_without_a_folder_takes_the_next_number(tmp_path: Path) -> None:
    source = irra_folder(tmp_path / "irra", golden_state())
    assert [convert(source).folder.name for _ in range(2)] == ["irra-0001", "irra-0002"]
    with pytest.raises(UsageError, match="exists already"):
        convert(tmp_path / "not read at all", tmp_path / "runs" / "irra-0001")


def test_a_conversion_that_fails_half_way_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between recipe and weights left a run without weights, which was then in the way."""

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    source = irra_folder(tmp_path / "irra", golden_state())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "save_weights", fail)
        convert(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # an empty folder, perhaps a mounted disk, is filled
    place = (tmp_path / "run").stat().st_ino
    assert convert(source, tmp_path / "run").weights_file.is_file()
    assert (tmp_path / "run").stat().st_ino == place


def test_settings_that_no_file_says_are_set_at_conversion(tmp_path: Path) -> None:
    source = irra_folder(tmp_path / "irra", golden_state())
    run = convert(source, tmp_path / "run", sets=["method.temperature=0.5", "data.name=rstpreid"])
    assert (run.recipe.method.temperature, run.recipe.data.name) == (0.5, "rstpreid")
    with pytest.raises(RecipeError, match=r"method\.temprature"):
        convert(source, tmp_path / "other", sets=["method.temprature=1"])
    with pytest.raises(UsageError, match="the method of a checkpoint cannot"):
        convert(source, tmp_path / "other", sets=["method.name=clip"])
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_of_another_method_says_which_it_is(tmp_path: Path) -> None:
    source = irra_folder(tmp_path / "irra", golden_state())
    with pytest.raises(WeightsError, match=r"best\.pth is a checkpoint of irra, not of clip") as caught:
        convert(source, tmp_path / "run", method="clip")
    assert caught.value.hint == "Use --method irra."
    with pytest.raises(RecipeError, match="no method 'iira'"):
        convert(source, tmp_path / "run", method="iira")


def test_plain_clip_weights_are_a_checkpoint_too(tmp_path: Path) -> None:
    method = build(tiny_recipe())
    method.initialise(torch.Generator().manual_seed(0))
    state = {name.removeprefix("clip."): tensor for name, tensor in method.state_dict().items()}
    torch.save(state | {"logit_scale": torch.ones([])}, tmp_path / "clip.pt")
    model = opened(
        tmp_path / "clip.pt", sets=["data.image_size=[32,16]", "method.tower.heads=2", "method.tower.text_heads=2"]
    )
    image = torch.randn(2, 3, 32, 16)
    with torch.inference_mode():
        assert np.array_equal(model.image_arrays(image), method.encode_images(image).numpy())


def test_a_file_of_no_known_method_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError, match=r"other\.pth belongs to no method that tbps knows: it holds 2 tensors \(fc\.weight"
    ):
        open_model(tmp_path / "other.pth", device="cpu")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        open_model(tmp_path / "none.pth", device="cpu")
    extra = golden_state() | {"base_model.visual.adapter.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match="no method that tbps knows") as caught:
        open_model(irra_folder(tmp_path / "extra", extra), device="cpu")
    assert "irra is nearest, but has no base_model.visual.adapter.weight (3)" in caught.value.message


def test_twins_under_two_names_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbps_cli.methods.clip import PlainCLIP
    from tbps_cli.weights.key_table import KeyTable

    rows = {pattern.pattern: name for pattern, name in PlainCLIP.official.rows}
    twin = KeyTable(rows | {r"again\.(.*)": r"clip.\1"}, drop=("logit_scale",))
    monkeypatch.setattr(PlainCLIP, "official", twin)
    method = build(tiny_recipe())
    state = {name.removeprefix("clip."): tensor for name, tensor in method.state_dict().items()}
    sets = ["data.image_size=[32,16]", "method.tower.heads=2", "method.tower.text_heads=2"]
    torch.save(state | {"again.ln_final.weight": state["ln_final.weight"]}, tmp_path / "twins.pt")
    opened(tmp_path / "twins.pt", sets=sets)
    torch.save(state | {"again.ln_final.weight": state["ln_final.weight"] + 1}, tmp_path / "twins.pt")
    with pytest.raises(WeightsError, match=r"ln_final\.weight and again\.ln_final\.weight should be equal"):
        open_model(tmp_path / "twins.pt", device="cpu", sets=sets)


def test_an_evil_checkpoint_or_options_file_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "marker",)

    folder = irra_folder(tmp_path / "irra", golden_state())
    (folder / "configs.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {tmp_path}/marker']\n")
    with pytest.raises(WeightsError, match=r"configs\.yaml asks for"):
        open_model(folder, device="cpu")
    torch.save({"model": golden_state(), "x": Evil()}, folder / "best.pth")
    with pytest.raises(WeightsError, match=r"best\.pth asks for pathlib\.Path\.touch|asks for builtins\.getattr"):
        open_model(folder, device="cpu")
    assert not (tmp_path / "marker").exists()


def test_the_file_in_a_folder_is_found_or_the_choice_is_asked(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a run"):
        find_file(tmp_path)
    (tmp_path / "epoch_40.pth").touch()
    assert find_file(tmp_path).path.name == "epoch_40.pth"
    (tmp_path / "epoch_80.pth").touch()
    with pytest.raises(WeightsError, match=r"several checkpoints: epoch_40\.pth, epoch_80\.pth"):
        find_file(tmp_path)
    (tmp_path / "best.pth").touch()
    assert find_file(tmp_path).path.name == "best.pth"
    with pytest.raises(WeightsError, match="no such file or folder"):
        find_file(tmp_path / "gone")


def test_an_unrelated_dataset_name_of_the_author_is_not_taken_for_a_path(tmp_path: Path) -> None:
    folder = irra_folder(tmp_path / "irra", golden_state())
    text = (folder / "configs.yaml").read_text().replace("ICFG-PEDES", "../../etc")
    (folder / "configs.yaml").write_text(text)
    assert opened(folder).data == "cuhk-pedes"


def test_reading_an_official_file_warns_of_nothing(tmp_path: Path) -> None:
    folder = irra_folder(tmp_path / "irra", golden_state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(folder)
