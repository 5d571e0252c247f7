"""The whole family of published checkpoints: each layout loads with its features to the last bit, or says why not."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import GOLDEN, golden_state, irra_folder
from torch import Tensor

import tbps_cli
from tbps_cli.engine.start import find_init
from tbps_cli.errors import TbpsError, WeightsError
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert_file
from tbps_cli.models.model import Model
from tbps_cli.weights.surplus import SCALARS, TRAINING
from tbps_cli.weights.weights_file import read_tensors

State = dict[str, Tensor]
INPUTS = {
    "irra": ("images", "caption_ids", load_file(GOLDEN / "inputs.safetensors")),
    "rde": ("images_1", "tokens_1", load_file(GOLDEN.parent / "rde" / "inputs.safetensors")),
}
SIZE = ["data.image_size=[96,32]"]
CROSS = "cross_attn", "cross_modal_transformer", "ln_pre_t", "ln_pre_i", "ln_post"
LPNC = sorted(set(TRAINING) - {"classifier", "mlm_head", "mask_token", *CROSS})


def towers(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith("base_model.")}


def without(state: State, *prefixes: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def rde() -> State:
    return load_file(GOLDEN.parent / "rde" / "weights.safetensors")


def heads(*modules: str) -> State:
    """A weight and a bias below each module's name; a tensor of that name where the module is one."""
    made: State = {}
    for module in modules:
        if module in ("W", "mask_token", "prompt_learner.token_prefix", "prompt_learner.token_suffix"):
            made[module] = noise(4, 5)
        else:
            made |= {f"{module}.weight": noise(5, 4), f"{module}.bias": noise(5)}
    return made


def longer(state: State, rows: int) -> State:
    table = state["base_model.positional_embedding"]
    return state | {"base_model.positional_embedding": noise(rows, table.shape[1])}


def rows(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Of the golden batch whose vocabulary the model has."""
    small = len(model.method.clip.token_embedding.weight) < 49_408
    images, captions, batch = INPUTS["rde" if small else "irra"]
    return model.image_arrays(batch[images]), model.text_arrays(batch[captions])


def opened(path: Path, **options: object) -> Model:
    model = open_model(path, device="cpu", **options)
    assert isinstance(model, Model)
    return model


@dataclass(frozen=True)
class Layout:
    """One form that people have: its tensors, those that inference reads, and what is to be left out."""

    state: Callable[[], State]
    plain: Callable[[], State]
    method: str = "irra"
    left_out: tuple[str, ...] = ()
    prefix: str = ""
    file: str = "best.pth"
    options: bool = True
    more: str = ""
    """Further lines of configs.yaml."""


def irra_with(*modules: str) -> Callable[[], State]:
    return lambda: golden_state() | heads(*modules)


def rde_with(*modules: str) -> Callable[[], State]:
    return lambda: rde() | heads(*modules)


def with_twin() -> State:
    state = rde() | heads(*LPNC, *CROSS)
    return state | {"prompt_learner.token_.weight": state["base_model.token_embedding.weight"].clone()}


LAYOUTS = {
    "IRRA": Layout(golden_state, golden_state),
    "IRRA, saved from several GPUs": Layout(golden_state, golden_state, prefix="module."),
    "IRRA, compiled": Layout(golden_state, golden_state, prefix="_orig_mod."),
    "NAM, fine-tuned": Layout(
        lambda: golden_state() | {"classifier.weight": noise(999, 64), "classifier.bias": noise(999)},
        golden_state,
        prefix="module.",
        file="best1.pth",
    ),
    "NAM": Layout(lambda: towers(golden_state()), golden_state, prefix="module.", file="best0.pth", options=False),
    "HAM": Layout(lambda: towers(golden_state()), golden_state, prefix="module.", file="best2.pth"),
    "GA-DMS": Layout(
        lambda: without(golden_state(), "classifier"),
        golden_state,
        prefix="module.",
        file="best0.pth",
        more="nam: false",
    ),
    "RDE": Layout(rde, rde, "rde"),
    "RDE, saved from several GPUs": Layout(rde, rde, "rde", prefix="module."),
    "LPNC": Layout(with_twin, rde, "rde", (*LPNC, *CROSS, "prompt_learner.token_.weight")),
    "CONQUER, with IRRA's classifiers": Layout(
        rde_with("classifier", "mlm_head"), rde, "rde", ("classifier", "mlm_head")
    ),
    "UFineBench": Layout(lambda: longer(golden_state(), 168), lambda: longer(golden_state(), 168)),
    "ICL for UFine6926": Layout(lambda: longer(rde(), 168), lambda: longer(rde(), 168), "rde"),
    "UATTA, prompts off": Layout(
        lambda: golden_state() | {"prompt_learning_embedding": noise(4, 64)},
        golden_state,
        left_out=("prompt_learning_embedding",),
        more="prompt_learning: false",
    ),
    "TPR-UET without its local score": Layout(irra_with("mask_token"), golden_state, left_out=("mask_token",)),
    "numbers of CLIP's archive, kept in the towers": Layout(
        lambda: golden_state() | {f"base_model.{name}": torch.tensor(7) for name in SCALARS},
        golden_state,
        left_out=tuple(f"base_model.{name}" for name in SCALARS),
    ),
    "a head of another method": Layout(irra_with("simclr_mlp.0"), golden_state, left_out=("simclr_mlp.0",)),
    "a head that nobody knows": Layout(irra_with("colour_head"), golden_state, left_out=("colour_head",)),
}


def write(folder: Path, layout: Layout, state: State) -> Path:
    irra_folder(folder, state, half=False, prefix=layout.prefix)
    (folder / "best.pth").rename(folder / layout.file)
    configs = folder / "configs.yaml"
    configs.write_text(f"{configs.read_text()}{layout.more}\n")
    if not layout.options:
        configs.unlink()
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_the_features_of_its_towers_to_the_last_bit(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    plain = write(tmp_path / "plain", Layout(layout.plain, layout.plain), layout.plain())
    folder = write(tmp_path / "given", layout, layout.state())
    sets = () if layout.options else SIZE
    found, expected = opened(folder, sets=sets), opened(plain)
    assert found.name == layout.method
    for given, known in zip(rows(found), rows(expected), strict=True):
        assert np.array_equal(given, known)
    made = convert_file(folder, tmp_path / "run", sets=sets)
    extras = {extra.name: extra for extra in made.left_out}
    surplus = {key for key in layout.state() if any(key == one or key.startswith(f"{one}.") for one in layout.left_out)}
    assert extras.keys() == surplus
    assert all(extra.shape == tuple(layout.state()[key].shape) and extra.why for key, extra in extras.items())
    card = made.run.folder.joinpath("card.md").read_text()
    assert all(f"`{key}`" in card for key in extras)
    for given, known in zip(rows(opened(made.run.folder)), rows(expected), strict=True):
        assert np.array_equal(given, known)


def test_every_known_head_of_training_stands_in_a_layout() -> None:
    seen = {module for layout in LAYOUTS.values() for module in layout.left_out}
    assert set(TRAINING) <= seen


def test_a_safetensors_file_with_extra_heads_is_read_alike(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in irra_with("colour_head")().items()}
    save_file(state, tmp_path / "best0.safetensors")
    plain = opened(irra_folder(tmp_path / "plain", golden_state(), half=False))
    found = opened(tmp_path / "best0.safetensors", sets=SIZE)
    assert all(np.array_equal(*pair) for pair in zip(rows(found), rows(plain), strict=True))


def cut(state: State) -> State:
    """Every second tensor, as a copy that broke off in pieces leaves them."""
    return dict(list(state.items())[::2])


def renumbered(state: State) -> State:
    """Without the first block of each tower, as a tower of another depth that was cut out of a deeper one."""
    return {name: tensor for name, tensor in state.items() if ".resblocks.0." not in name or "cross" in name}


NEAREST = r"best\.pth belongs to no method that tbps knows: {} is nearest, but "
REFUSED = {
    "an adapter in a tower": (
        lambda: golden_state() | {"base_model.visual.transformer.resblocks.0.adapter.down.weight": noise(3, 4)},
        NEAREST.format("irra") + r"has no base_model\.visual\.\S+\.adapter\.down\.weight \(3x4\)",
    ),
    "prompts in a tower": (
        lambda: golden_state() | {"base_model.visual.prompts": noise(3, 4)},
        NEAREST.format("irra") + r"has no base_model\.visual\.prompts \(3x4\)",
    ),
    "a tower without its first block": (lambda: renumbered(golden_state()), r"resblocks the block 0 is missing"),
    "an adapter beside the towers": (
        lambda: golden_state() | {"image_adapter.weight": noise(3, 4)},
        NEAREST.format("irra") + r"has no image_adapter\.weight \(3x4\): modules of this name change embeddings",
    ),
    "TPR-UET with its local score": (
        lambda: golden_state() | {"vtselection.weight": noise(3, 4), "ttselection.weight": noise(3, 4)},
        NEAREST.format("irra") + r"has no ttselection\.weight \(3x4\), vtselection\.weight \(3x4\)",
    ),
    "UATTA, prompts on": (
        lambda: golden_state() | {"prompt_learning_embedding": noise(4, 64)},
        NEAREST.format("irra") + r"has no prompt_learning_embedding \(4x64\): UATTA's prompt",
    ),
    "RDE without its projection": (
        lambda: without(rde(), "visul_emb_layer.fc"),
        NEAREST.format("irra") + r"has no texual_emb_layer\.\S+ .* and \d+ more: inference of rde reads it",
    ),
    "half of IRRA": (lambda: cut(golden_state()), r"\d+ of \d+ tensors of irra are missing|is missing"),
    "half of RDE": (lambda: cut(rde()), r"\d+ of \d+ tensors of rde are missing|is missing"),
    "half of NAM": (lambda: cut(towers(golden_state())), r"\d+ of \d+ tensors of irra are missing|is missing"),
    "LPNC whose token table was trained apart": (
        lambda: (
            with_twin() | {"prompt_learner.token_.weight": noise(*with_twin()["prompt_learner.token_.weight"].shape)}
        ),
        r"prompt_learner\.token_\.weight and base_model\.token_embedding\.weight should be equal but differ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_would_not_give_its_features_is_refused_by_name(tmp_path: Path, name: str) -> None:
    state, message = REFUSED[name]
    with pytest.raises(WeightsError, match=message) as caught:
        opened(irra_folder(tmp_path / "given", state(), half=False))
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["an adapter beside the towers", "UATTA, prompts on", "RDE without its projection"])
def test_naming_the_method_reads_the_towers_alone(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    state = REFUSED[name][0]()
    plain = opened(irra_folder(tmp_path / "plain", golden_state() if "RDE" not in name else towers(state), half=False))
    folder = irra_folder(tmp_path / "given", state, half=False)
    with caplog.at_level(logging.WARNING, "tbps"):
        made = convert_file(folder, tmp_path / "run", method="irra")
    assert "If its authors' search uses" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tbps"):
        found = opened(made.run.folder)
    doubtful = sum(extra.role != "training" for extra in made.left_out)
    assert f"that its authors' search may use ({doubtful}, listed in card.md)" in caplog.text
    assert all(np.array_equal(*pair) for pair in zip(rows(found), rows(plain), strict=True))
    assert {extra.name for extra in made.left_out} == state.keys() - (towers(state) | golden_state()).keys()


def test_naming_the_method_does_not_open_what_stands_in_a_tower(tmp_path: Path) -> None:
    for name in ("an adapter in a tower", "half of IRRA"):
        state, message = REFUSED[name]
        folder = irra_folder(tmp_path / name.replace(" ", "-"), state(), half=False)
        with pytest.raises(WeightsError, match=message):
            convert_file(folder, tmp_path / "run", method="irra")


def test_a_head_that_nobody_knows_is_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = irra_folder(tmp_path / "given", irra_with("colour_head")(), half=False)
    with caplog.at_level(logging.WARNING, "tbps"):
        opened(folder)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "read as irra without colour_head.weight (5x4), colour_head.bias (5)" in line


def test_a_file_that_two_methods_know_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbps_cli.methods.irra import IRRA
    from tbps_cli.methods.rde import RDE

    monkeypatch.setattr(RDE, "recognise", lambda files: IRRA.recognise(files).model_copy(update={"name": "rde"}))
    folder = irra_folder(tmp_path / "given", towers(golden_state()), half=False)
    with pytest.raises(WeightsError, match=r"best\.pth could be of irra or rde") as caught:
        opened(folder)
    assert caught.value.hint is not None
    assert "--method irra" in caught.value.hint
    assert convert_file(folder, tmp_path / "run", method="irra").run.recipe.method.name == "irra"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_is_left_out_is_not_read_from_disk(tmp_path: Path, prefix: str) -> None:
    """Its bytes are damaged here, which reading them would find out."""
    head = noise(300, 4)
    folder = irra_folder(tmp_path / "given", golden_state() | {"text_encoder.weight": head}, half=False, prefix=prefix)
    content = (folder / "best.pth").read_bytes()
    assert content.count(head.numpy().tobytes()) == 1
    (folder / "best.pth").write_bytes(content.replace(head.numpy().tobytes(), bytes(head.nbytes)))
    with pytest.raises(WeightsError, match="damaged"):
        read_tensors(folder / "best.pth")
    plain = opened(irra_folder(tmp_path / "plain", golden_state(), half=False))
    assert all(np.array_equal(*pair) for pair in zip(rows(opened(folder)), rows(plain), strict=True))


def test_an_archive_of_several_models_says_to_unpack_it(tmp_path: Path) -> None:
    """RDE's authors publish one for all three benchmarks."""
    folder = irra_folder(tmp_path / "given", golden_state(), half=False)
    for form in ("", ":gz"):
        with tarfile.open(tmp_path / "RDE_weights_and_logs.tar", f"w{form}") as archive:
            archive.add(folder, "CUHK-PEDES")
        with pytest.raises(WeightsError, match=r"_logs\.tar is not a weights file but an archive") as caught:
            opened(tmp_path / "RDE_weights_and_logs.tar")
        assert caught.value.hint is not None
        assert "tar -xf" in caught.value.hint


def test_a_start_takes_the_heads_that_a_file_has_and_no_others(tmp_path: Path) -> None:
    """The predictor of masked words is there, the module below it is not: it must be drawn, not copied from nowhere."""
    state = without(golden_state(), *CROSS)
    init = find_init(irra_folder(tmp_path / "given", state, half=False))
    assert init is not None
    tensors, _ = init.tensors(init.config, None)
    assert {name for name in tensors if name.startswith("cross.")} == set()
    assert "mlm_head.fc.weight" in tensors


def test_a_run_is_not_converted_again(tmp_path: Path) -> None:
    run = convert_file(irra_folder(tmp_path / "irra", golden_state()), tmp_path / "run").run
    with pytest.raises(WeightsError, match="run is a run already: there is nothing to convert"):
        convert_file(run.folder, tmp_path / "again")


# Three files of one training --------------------------------------------------------------------


def three(folder: Path) -> Path:
    """Files of three epochs, which differ in one tensor."""
    irra_folder(folder, towers(golden_state()), half=False)
    (folder / "configs.yaml").write_text(
        (folder / "configs.yaml").read_text().replace("ICFG-PEDES", "Testing-WebPerson")
    )
    for number in range(3):
        state = towers(golden_state())
        state["base_model.text_projection"] = state["base_model.text_projection"] + number
        content = {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "optimizer": {}}
        torch.save(content, folder / f"best{number}.pth")
    (folder / "best.pth").unlink()
    return folder


@pytest.mark.parametrize(
    ("sets", "file", "data", "reason"),
    [
        (["data.name=rstpreid"], "best2.pth", "rstpreid", "the one of 3 files for rstpreid"),
        (["data.name=ICFG-PEDES"], "best1.pth", "ICFG-PEDES", "the one of 3 files for icfg-pedes"),
        (["data.name=synthetic"], "best0.pth", "synthetic", "the first of 3 files, since none is for synthetic"),
        ([], "best0.pth", "cuhk-pedes", "the first of 3 files, since no data set is named"),
    ],
)
def test_the_data_set_chooses_among_the_files_of_one_training(
    tmp_path: Path, lines: Callable[[], str], sets: list[str], file: str, data: str, reason: str
) -> None:
    folder = three(tmp_path / "nam")
    model = opened(folder, sets=sets)
    assert (model.data, model.selected_on) == (data, "test")
    said = [line for line in lines().splitlines() if f"{file} is taken, {reason}" in line]
    assert len(said) == 1
    assert "its epoch was chosen on the test split of" in said[0]
    alone = opened(folder / file)
    assert all(np.array_equal(*pair) for pair in zip(rows(model), rows(alone), strict=True))
    assert alone.selected_on == "test"


@pytest.mark.parametrize("use", [tbps_cli.evaluate, tbps_cli.probe, tbps_cli.degrade])
def test_the_named_data_set_chooses_for_every_kind_of_evaluation(
    tmp_path: Path, lines: Callable[[], str], use: Callable[..., object]
) -> None:
    with pytest.raises(TbpsError, match="RSTPReid is not in"):  # the data set; the file is chosen before
        use(three(tmp_path / "nam"), "rstpreid", data_root=tmp_path)
    assert "best2.pth is taken, the one of 3 files for rstpreid" in lines()


def test_the_options_in_the_folder_choose_where_nothing_else_does(tmp_path: Path) -> None:
    folder = three(tmp_path / "nam")
    text = (folder / "configs.yaml").read_text().replace("Testing-WebPerson", "RSTPReid")
    (folder / "configs.yaml").write_text(text)
    assert opened(folder).data == "rstpreid"
    made = convert_file(folder, tmp_path / "run")
    assert made.run.facts()["converted_from"] == "best2.pth"
    assert made.run.selected_on == "test"
    assert "its epoch was chosen on the test split of rstpreid" in (made.run.folder / "card.md").read_text()


# The length of captions -------------------------------------------------------------------------


def test_the_length_of_captions_is_that_of_the_files_table(tmp_path: Path) -> None:
    model = opened(irra_folder(tmp_path / "ufine", longer(golden_state(), 168), half=False))
    assert (model.tokenizer.context, model.recipe.method.sizes.context) == (168, 168)
    caption = "a man " * 60
    assert model.cut_count([caption]) == 0
    assert opened(irra_folder(tmp_path / "irra", golden_state(), half=False)).cut_count([caption]) == 1


@pytest.mark.parametrize("context", [40, 168])
def test_another_length_than_that_of_the_table_is_one_line(tmp_path: Path, context: int) -> None:
    folder = irra_folder(tmp_path / "irra", golden_state(), half=False)
    for source in (folder, convert_file(folder, tmp_path / "run").run.folder):
        with pytest.raises(
            WeightsError, match=rf"its table of text positions has 77 rows, but method\.context is {context}\."
        ) as caught:
            opened(source, sets=[f"method.context={context}"])
        assert caught.value.hint is not None
        assert "needs training" in caught.value.hint


def test_a_method_without_text_positions_refuses_a_context(tmp_path: Path) -> None:
    from tbps_cli.errors import RecipeError
    from tbps_cli.recipe.load import load

    with pytest.raises(RecipeError, match=r"method\.context.*no table of text positions"):
        load("textreid", ["method.context=168"])
    assert load("irra", ["method.context=168"]).method.sizes.context == 168
