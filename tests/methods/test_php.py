"""PHP beyond its golden numbers: sizes, companions in the batch, variants, chunks, precision, released files."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.experts import GOLDEN, apart, batch, drawn, embeddings, released, released_folder
from support.sets import cuhk_records, write_set

from tbps_cli import methods
from tbps_cli.data.open import open_dataset
from tbps_cli.engine import optim
from tbps_cli.engine.step import Stepper
from tbps_cli.errors import RecipeError
from tbps_cli.methods.php import PHP
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.nn.precision import to_half
from tbps_cli.recipe.load import load
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.types import Step, Task
from tbps_cli.weights.foreign import OfficialFiles

DEAD = 162 * 512
"""The table that the released code makes and never reads; ours does not make it."""


def test_the_real_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        method = PHP(PHP.Config(name="php"), Task((384, 128)))
    modules = {"clip": method.clip, "crfm": method.parts.pool, "efp": method.parts.parser}
    sizes = {part: sum(v.numel() for v in module.parameters()) for part, module in modules.items()}
    assert sizes == {"clip": 149_617_664, "crfm": 2_188_288 - DEAD, "efp": 13_706_244}
    assert sum(v.numel() for v in method.parameters()) == sum(sizes.values())
    assert sum(sizes.values()) + DEAD == 165_512_196
    assert len(method.state_dict()) + 1 == 477
    assert all(method.group_of(name).rate != "frozen" for name, _ in method.named_parameters())


def test_pure_half_precision_keeps_the_published_tensors_whole():
    method = to_half(drawn("php"))
    official = {method.official.foreign(name): value for name, value in method.state_dict().items()}
    whole = {name for name, value in official.items() if value.dtype == torch.float32 and "base_model" not in name}
    block = "shared_transformer.resblocks."
    assert {name.removeprefix(block)[2:] for name in whole} == {
        "comb_param",
        "feed_forward.alpha",
        *(f"ln_{number}.{part}" for number in (1, 2, 3) for part in ("weight", "bias")),
    }
    assert apart(embeddings(method, batch()), embeddings(drawn("php"), batch())) < 2e-2


@pytest.mark.parametrize("parts", [(), ("crfm",), ("efp",), ("crfm", "efp")])
@pytest.mark.parametrize("share", [True, False])
def test_an_embedding_does_not_depend_on_batch_companions(parts, share):
    method, data = drawn("php", parts=parts, share_modalities=share), batch()
    together = embeddings(method, data)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    shuffled = embeddings(method, data.map(lambda tensor: tensor[order]))
    alone = torch.cat([embeddings(method, data.rows(row, row + 1)) for row in range(6)])
    assert apart(alone, together) < 2e-6
    assert apart(shuffled, together[order]) < 2e-6
    assert method.batch_dependent(method.config) is None


def test_the_released_axis_depends_on_companions_and_names_the_key_that_mends_it():
    method, data = drawn("php", attention_axis="batch"), batch()
    alone = torch.cat([embeddings(method, data.rows(row, row + 1)) for row in range(6)])
    assert apart(alone, embeddings(method, data)) > 1e-3
    assert "--set method.attention_axis=token" in method.batch_dependent(method.config)
    pooled = drawn("php", attention_axis="batch", parts=("crfm",))
    assert pooled.batch_dependent(pooled.config) is None


def test_fresh_experts_add_what_they_get_and_the_balance_starts_within_its_bounds():
    method, data = drawn("php", lively=False), batch()
    expert = method.parts.parser["both"].resblocks[0].feed_forward.experts[0]
    x_BLE = torch.randn(2, 3, 32)
    assert torch.equal(expert(x_BLE), x_BLE)
    losses = method(data, Step())
    assert set(losses) == {"sdm", "itc", "balance"}
    least = 0.5 * 2 * 2 * 2 / 4  # weight, sides, blocks, top_k / experts
    assert 0.9 * least < losses["balance"].item() < 2 * least


@pytest.mark.parametrize("more", [{}, {"masked": 0.5, "identity": 1.0, "cmpm": 1.0}])
def test_chunks_give_the_gradient_of_the_whole_batch(more):
    gradients = []
    for chunk in (None, 2):
        method = drawn("php", **more).train()
        for module in method.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        recipe = load("php", ["train.precision=fp32"] + ([f"train.chunk={chunk}"] if chunk else []))
        stepper = Stepper(method, optim.build(method, recipe.optim), train=recipe.train)
        stepper.backward(batch(), Step())
        gradients.append({name: value.grad for name, value in method.named_parameters() if value.grad is not None})
    whole, chunked = gradients
    assert whole.keys() == chunked.keys()
    worst = max((apart(whole[name], chunked[name]) / (1e-6 + whole[name].abs().max()), name) for name in whole)
    assert worst[0] < 1e-3, worst


def test_the_released_axis_refuses_to_train_in_chunks():
    method = drawn("php", attention_axis="batch")
    recipe = load("php", ["train.chunk=2"])
    with pytest.raises(RecipeError, match="attention_axis=token"):
        Stepper(method, optim.build(method, recipe.optim), train=recipe.train)


def test_dropout_acts_in_training_only():
    method, data = drawn("php"), batch()
    torch.manual_seed(0)
    first = embeddings(method.train(), data)
    assert apart(first, embeddings(method, data)) > 1e-4
    method.eval()
    assert torch.equal(embeddings(method, data), embeddings(method, data))


def test_every_parameter_moves():
    method, recipe = drawn("php", share_modalities=False, top_k=4), load("php", ["optim.lr=1e-3"])
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = optim.build(method, recipe.optim)
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack(list(method(batch(), Step()).values())).sum().backward()
        optimizer.step()
    same = [name for name, value in method.named_parameters() if torch.equal(value, before[name])]
    assert same == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tower", "RN50", "vision transformer"),
        ("top_k", 5, "at most num_experts, which is 4"),
        ("moe_heads", 7, "must divide"),
        ("reduction", 5, "must divide"),
        ("parts", ["efp", "efp"], "names a part twice"),
        ("attention_axis", "item", "'token' or 'batch'"),
    ],
)
def test_impossible_settings_are_refused(key, value, said):
    value = tuple(value) if isinstance(value, list) else value
    with pytest.raises(ValidationError, match=said):
        PHP.Config.model_validate({"name": "php", key: value})


def test_the_rates_of_an_older_code_state_are_groups():
    method, recipe = drawn("php"), load("php", ["optim.scale.transformer=1.5", "optim.scale.experts=2"])
    found = optim.settings(method, recipe.optim)
    block, base = "parts.parser.both.resblocks.0", recipe.optim.lr
    assert found[f"{block}.comb_param"].lr == pytest.approx(1.5 * base)
    assert found[f"{block}.feed_forward.task_gate.weight"].lr == pytest.approx(2 * base)
    assert found[f"{block}.feed_forward.experts.0.up.bias"].lr == pytest.approx(2 * base)
    assert found[f"{block}.ln_1.bias"].weight_decay == 0


# Released files -------------------------------------------------------------------------------

INPUTS = load_file(GOLDEN / "php" / "inputs.safetensors")
OUTPUTS = load_file(GOLDEN / "php" / "outputs.safetensors")


def opened(path, *sets):
    return open_model(path, device="cpu", sets=sets)


def features_of(model):
    with torch.no_grad():
        return model.method.features(batch_of_inputs())


def batch_of_inputs():
    data = batch(1)
    data.images, data.tokens = {"image": INPUTS["images"]}, {"text": INPUTS["caption_ids"]}
    return data


@pytest.mark.parametrize(
    ("half", "prefix", "tolerance"), [(False, "", 2e-5), (False, "module.", 2e-5), (True, "", 0.1)]
)
def test_a_released_folder_loads_in_the_released_form_and_can_be_set_right(tmp_path, half, prefix, tolerance):
    folder = released_folder(tmp_path / "php", "php", released("php"), half=half, prefix=prefix)
    model = opened(folder)
    assert (model.name, model.data, model.embed, model.transform.size) == ("php", "icfg-pedes", 64, (64, 32))
    assert "attention_axis=token" in model.batch_dependent
    assert model.batch == 64
    assert apart(features_of(model)["image"], OUTPUTS["image_features.whole"]) < tolerance
    right = opened(folder, "method.attention_axis=token")
    assert right.batch_dependent is None
    assert apart(features_of(right)["text"], OUTPUTS["token_axis.text_features.whole"]) < tolerance
    pooled = opened(folder, 'method.parts=["crfm"]')
    assert apart(features_of(pooled)["image"], OUTPUTS["image_features.crfm"]) < tolerance


def test_counters_and_the_dead_table_may_be_absent(tmp_path):
    state = {k: v for k, v in released("php").items() if "_accum" not in k and "pos_embeding" not in k}
    model = opened(released_folder(tmp_path / "php", "php", state, half=False))
    assert apart(features_of(model)["image"], OUTPUTS["image_features.whole"]) < 2e-5


def test_an_ablation_says_by_its_folder_which_parts_it_was_trained_with(tmp_path):
    model = opened(released_folder(tmp_path / "ablation_crfm", "php", released("php"), half=False))
    assert model.recipe.method.parts == ("crfm",)
    assert model.batch_dependent is None
    assert apart(features_of(model)["image"], OUTPUTS["image_features.crfm"]) < 2e-5


def test_a_converted_run_gives_the_same_rows_and_keeps_the_released_axis(tmp_path):
    source = released_folder(tmp_path / "php", "php", released("php"))
    before = opened(source)
    run = convert(source, tmp_path / "run")
    assert run.recipe.method.attention_axis == "batch"
    after = opened(run.folder)
    assert np.array_equal(before.image_arrays(INPUTS["images"]), after.image_arrays(INPUTS["images"]))
    assert after.fingerprint == before.fingerprint
    assert opened(run.folder, "method.attention_axis=token").batch_dependent is None


def test_evaluation_of_the_released_form_is_labelled_and_depends_on_its_batch(tmp_path):
    write_set(tmp_path / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 1, 5)))
    dataset = open_dataset("cuhk-pedes", tmp_path / "data")
    words = torch.randn(49408, 64, generator=torch.Generator().manual_seed(0))
    state = released("php") | {"base_model.token_embedding.weight": words}
    folder = released_folder(tmp_path / "php", "php", state)
    rows = {}
    for axis in ("batch", "token"):
        for size in (64, 3):
            found = evaluate(opened(folder, f"method.attention_axis={axis}"), dataset, "test", batch=size)
            assert found.document()["protocol"]["batch_dependent"] is (axis == "batch")
            rows[axis, size] = torch.from_numpy(found.embedded.image_GE)
    assert apart(rows["token", 64], rows["token", 3]) < 2e-6
    assert apart(rows["batch", 64], rows["batch", 3]) > 1e-3


def test_relatives_do_not_claim_each_others_files():
    for name in ("php", "comoe", "irra", "cskt"):
        options = {"img_size": [96, 32] if name in ("irra", "cskt") else [64, 32], "moe_heads": 4}
        files = OfficialFiles(released(name), options, "best.pth")
        claimed = [other for other in methods.names() if _claims(other, files)]
        assert claimed == [name]


def _claims(name, files):
    try:
        return methods.find(name).recognise(files) is not None
    except Exception:
        return False


def test_modalities_with_parts_of_their_own_are_read_from_a_released_file():
    """The non-shared mode of the project's history: saflv, saflt, shared_transformerv, shared_transformert."""
    state = {}
    for name, value in released("php").items():
        head, _, rest = name.partition(".")
        names = [f"{head}v.{rest}", f"{head}t.{rest}"] if head in ("safl", "shared_transformer") else [name]
        state |= dict.fromkeys(names, value)
    config = PHP.recognise(OfficialFiles(state, {"img_size": [64, 32], "moe_heads": 4}, "best.pth"))
    assert (config.share_modalities, config.parts, config.part_tokens) == (False, ("crfm", "efp"), 5)
