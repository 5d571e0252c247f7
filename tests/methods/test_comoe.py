"""CoMoE beyond its golden numbers: sizes, companions in the batch, gates, chunks, precision, released files."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.experts import GOLDEN, apart, batch, drawn, embeddings, released, released_folder

from tbps_cli.engine import optim
from tbps_cli.engine.step import Stepper
from tbps_cli.errors import RecipeError
from tbps_cli.methods.comoe import CoMoE
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.nn.precision import to_half
from tbps_cli.recipe.load import load
from tbps_cli.types import Step, Task
from tbps_cli.weights.foreign import OfficialFiles

INPUTS = load_file(GOLDEN / "comoe" / "inputs.safetensors")
OUTPUTS = load_file(GOLDEN / "comoe" / "outputs.safetensors")


def test_the_real_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        method = CoMoE(CoMoE.Config(name="comoe"), Task((384, 128)))
    sizes = {part: sum(v.numel() for v in module.parameters()) for part, module in method.named_children()}
    assert sizes == {"clip": 149_617_664, "parts": 13_714_436}
    assert sum(sizes.values()) == 163_332_100
    assert len(method.state_dict()) == 473
    assert all(method.group_of(name).rate != "frozen" for name, _ in method.named_parameters())


def test_pure_half_precision_keeps_the_published_tensors_whole():
    method = to_half(drawn("comoe"))
    whole = {n for n, v in method.state_dict().items() if v.dtype == torch.float32 and n.startswith("parts")}
    assert {name.removeprefix("parts.parser.both.resblocks.")[2:] for name in whole} == {
        "comb_param",
        "feed_forward.alpha",
        *(f"ln_{number}.{part}" for number in (1, 2, 3) for part in ("weight", "bias")),
    }
    assert apart(embeddings(method, batch()), embeddings(drawn("comoe"), batch())) < 2e-2


@pytest.mark.parametrize("share", [True, False])
def test_an_embedding_does_not_depend_on_batch_companions(share):
    method, data = drawn("comoe", share_modalities=share), batch()
    together = embeddings(method, data)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    shuffled = embeddings(method, data.map(lambda tensor: tensor[order]))
    alone = torch.cat([embeddings(method, data.rows(row, row + 1)) for row in range(6)])
    assert apart(alone, together) < 2e-6
    assert apart(shuffled, together[order]) < 2e-6


def test_the_released_axis_depends_on_companions_and_names_the_key_that_mends_it():
    method, data = drawn("comoe", attention_axis="batch"), batch()
    alone = torch.cat([embeddings(method, data.rows(row, row + 1)) for row in range(6)])
    assert apart(alone, embeddings(method, data)) > 1e-3
    assert "--set method.attention_axis=token" in method.batch_dependent(method.config)


def test_each_modality_is_routed_by_its_own_gate():
    method, data = drawn("comoe"), batch()
    before = embeddings(method, data)
    with torch.no_grad():
        for block in method.parts.parser["both"].resblocks:
            block.feed_forward.gate_txt.weight.neg_()
    after = embeddings(method, data)
    assert torch.equal(before[:, :32], after[:, :32]), "images followed the captions' gate"
    assert apart(before[:, 32:], after[:, 32:]) > 1e-4


def test_chunks_give_the_gradient_of_the_whole_batch():
    gradients = []
    for sets in ([], ["train.chunk=4"]):
        method = drawn("comoe", expert_dropout=0.0).train()
        recipe = load("comoe", ["train.precision=fp32", *sets])
        Stepper(method, optim.build(method, recipe.optim), train=recipe.train).backward(batch(), Step())
        gradients.append({name: value.grad for name, value in method.named_parameters()})
    whole, chunked = gradients
    worst = max((apart(whole[name], chunked[name]) / (1e-6 + whole[name].abs().max()), name) for name in whole)
    assert worst[0] < 1e-3, worst


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tower", "RN50x4", "vision transformer"),
        ("top_k", 9, "at most num_experts, which is 4"),
        ("moe_heads", 3, "must divide"),
        ("parts", ("coa", "coa"), "names a part twice"),
    ],
)
def test_impossible_settings_are_refused(key, value, said):
    with pytest.raises(ValidationError, match=said):
        CoMoE.Config.model_validate({"name": "comoe", key: value})


@pytest.mark.parametrize("name", ["comoe", "dm_adapter", "php"])
def test_the_number_of_experts_has_one_name_and_another_word_is_answered_with_it(name):
    assert load(name, ["method.num_experts=3"]).method.num_experts == 3
    with pytest.raises(RecipeError, match=rf"method.experts = 3 is not a setting of {name}") as caught:
        load(name, ["method.experts=3"])
    assert caught.value.hint == "Did you mean num_experts?"


def test_a_released_folder_loads_in_the_released_form_and_can_be_set_right(tmp_path):
    source = released_folder(tmp_path / "comoe", "comoe", released("comoe"), half=False, prefix="module.")
    data = batch(1)
    data.images, data.tokens = {"image": INPUTS["images"]}, {"text": INPUTS["caption_ids"]}
    wanted = {
        (): "image_features.whole",
        ("method.attention_axis=token",): "token_axis.image_features.whole",
        ("method.parts=[]",): "image_features.base",
    }
    for sets, figure in wanted.items():
        model = open_model(source, device="cpu", sets=sets)
        assert bool(model.batch_dependent) is (sets == ())
        with torch.no_grad():
            assert apart(model.method.features(data)["image"], OUTPUTS[figure]) < 2e-5


def test_a_converted_run_gives_the_same_rows(tmp_path):
    source = released_folder(tmp_path / "comoe", "comoe", released("comoe"))
    before = open_model(source, device="cpu")
    after = open_model(convert(source, tmp_path / "run").folder, device="cpu")
    assert np.array_equal(before.text_arrays(INPUTS["caption_ids"]), after.text_arrays(INPUTS["caption_ids"]))
    assert (after.batch, after.fingerprint) == (64, before.fingerprint)


def test_parsers_of_their_own_are_read_from_a_released_file():
    """The non-shared mode: STransformerv and STransformert, each with both gates."""
    state = {}
    for name, value in released("comoe").items():
        head, _, rest = name.partition(".")
        names = [f"{head}v.{rest}", f"{head}t.{rest}"] if head == "STransformer" else [name]
        state |= dict.fromkeys(names, value)
    config = CoMoE.recognise(OfficialFiles(state, {"img_size": [64, 32], "moe_heads": 4}, "best.pth"))
    assert (config.share_modalities, config.moe_layers, config.num_experts, config.reduction) == (False, 2, 4, 8)
