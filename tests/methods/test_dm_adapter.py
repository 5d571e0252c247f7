"""DM-Adapter beyond its golden numbers: sizes, the start, companions, padding, what moves, released files."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.sets import cuhk_records, write_set

from tbps_cli import methods
from tbps_cli.data.open import open_dataset
from tbps_cli.engine import optim
from tbps_cli.engine.step import Stepper
from tbps_cli.errors import WeightsError
from tbps_cli.losses.balance import balance
from tbps_cli.methods.clip import PlainCLIP
from tbps_cli.methods.dm_adapter import DMAdapter
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.load import load
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.types import Batch, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

GOLDEN = Path(__file__).parents[1] / "golden" / "dm_adapter"
TINY = Tower(width=64, layers=2, patch=16, embed=64, text_width=64, text_layers=2, context=20, vocabulary=60)
TASK = Task((96, 32), 5)
UNUSED = 395_776
"""Numbers that the released code makes and never reads; ours does not make them."""


def drawn(*, lively: bool = True, **more: object) -> DMAdapter:
    """lively: adapters do something (they start at 0)."""
    method = DMAdapter(DMAdapter.Config(name="dm_adapter", tower=TINY, **more), TASK)
    draws = torch.Generator().manual_seed(0)
    method.initialise(draws)
    for name, value in method.named_parameters():
        if lively and ".up." in name:
            torch.nn.init.normal_(value, std=0.2, generator=draws)
    return method.eval()


def batch(rows: int = 6) -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (rows, 20), generator=draws)
    for row in range(rows):
        text[row, 0], text[row, 3 + 2 * row], text[row, 4 + 2 * row :] = 58, 59, 0
    masked, label = text.clone(), torch.zeros_like(text)
    masked[:, 2], label[:, 2] = 57, text[:, 2]
    images = torch.randn(rows, 3, 96, 32, generator=draws)
    person = torch.arange(rows) % 5
    return Batch({"image": images}, {"text": text, "masked": masked, "label": label}, person, person, person)


def embeddings(method, data):
    with torch.no_grad():
        return method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])


def total(method, data=None):
    return torch.stack(list(method(data or batch(), Step()).values())).sum()


def real() -> DMAdapter:
    with torch.device("meta"):
        return DMAdapter(DMAdapter.Config(name="dm_adapter"), Task((384, 128), 11_003))


def test_the_real_model_has_the_published_number_of_parameters():
    method = real()
    trained = {name: v.numel() for name, v in method.named_parameters() if method.group_of(name).rate != "frozen"}
    image = sum(count for name, count in trained.items() if ".visual." in name)
    assert sum(value.numel() for value in method.parameters()) + UNUSED == 165_682_968
    assert sum(trained.values()) == 15_669_528
    assert (image, sum(trained.values()) - image) == (10_817_292, 4_852_236)
    # five tensors of the released 1,026 do nothing
    assert (len(method.state_dict()) + 5, len(trained) + 5) == (1_026, 725)


def test_pure_half_precision_converts_the_released_tensors():
    types = [value.dtype for value in to_half(real()).parameters()]
    assert (types.count(torch.float16) + 2, types.count(torch.float32) + 3) == (821, 205)


def test_half_precision_gives_nearly_the_same_embeddings():
    method, data = drawn(), batch()
    for whole, half in zip(embeddings(method, data), embeddings(to_half(copy.deepcopy(method)), data), strict=True):
        # a token may choose another expert: directions agree, single entries need not
        assert (whole * half).sum(1).min() > 0.995


def test_a_fresh_model_is_the_clip_that_it_starts_from():
    source = PlainCLIP(PlainCLIP.Config(name="clip", tower=TINY), TASK)
    source.initialise(torch.Generator().manual_seed(5))
    method = drawn(lively=False)
    method.load_weights(source.clip.state_dict())
    for ours, theirs in zip(embeddings(method, batch()), embeddings(source, batch()), strict=True):
        assert (ours - theirs).abs().max() < 1e-6  # CLIP's last block computes one token, in another kernel


def test_a_fresh_balance_is_near_its_least_value():
    losses = drawn(lively=False)(batch(), Step())
    assert set(losses) == {"sdm", "balance"}
    least = 0.5 * 4 * 2 / 6  # weight, blocks, top_k / experts
    assert 0.95 * least < losses["balance"].item() < 1.5 * least


@pytest.mark.parametrize("row", range(6))
def test_an_embedding_does_not_depend_on_batch_companions(row):
    method, data = drawn(), batch()
    alone = embeddings(method, data.rows(row, row + 1))
    for one, together in zip(alone, embeddings(method, data), strict=True):
        assert (one[0] - together[row]).abs().max() < 1e-6


def test_captions_are_trained_with_masked_words_unless_the_recipe_says_otherwise():
    data = batch()
    swapped = Batch(data.images, {"text": data.tokens["masked"]}, data.person_B, data.image_B, data.sample_B)
    assert DMAdapter.views(drawn().config).masked
    whole = drawn(mask_global_text=False)
    assert not DMAdapter.views(whole.config).masked
    assert torch.equal(total(drawn()), total(whole, swapped))
    assert not torch.equal(total(drawn()), total(whole))


def test_padding_counts_in_the_load_as_released_and_can_be_left_out():
    data, draws = batch(), torch.Generator().manual_seed(3)
    loads = {}
    for counts in (True, False):
        method = drawn(balance_padding=counts)
        padded = data.map(torch.clone)
        ends = padded.tokens["masked"].argmax(1)
        for row, end in enumerate(ends):
            padded.tokens["masked"][row, end + 1 :] = torch.randint(1, 50, (19 - int(end),), generator=draws)
        before, after = method(data, Step()), method(padded, Step())
        assert (before["sdm"] - after["sdm"]).abs() < 1e-5
        loads[counts] = (before["balance"] - after["balance"]).abs().item()
    assert loads[True] > 1e-4
    assert loads[False] < 1e-6


@torch.no_grad()
def test_the_load_of_words_alone_equals_captions_one_by_one():
    method, data = drawn(balance_padding=False), batch()
    together = method.features(data)["balance"]
    for row in range(6):
        alone = method.features(data.rows(row, row + 1))["balance"]
        assert (alone[0] - together[row]).abs().max() < 1e-6


@torch.no_grad()
def test_losses_of_joined_chunks_equal_those_of_the_whole_batch():
    method, data = drawn(), batch()
    parts = [method.features(data.rows(0, 2)), method.features(data.rows(2, 6))]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    whole = method(data, Step())
    for name, loss in method.losses(joined, data, Step()).items():
        assert abs(loss - whole[name]) < 1e-5 * abs(whole[name]), name


def test_chunks_give_the_gradient_of_the_whole_batch():
    gradients = []
    for more in ([], ["train.chunk=2"]):
        method, recipe = drawn().train(), load("dm_adapter", ["train.precision=fp32", *more])
        stepper = Stepper(method, optim.build(method, recipe.optim), train=recipe.train)
        stepper.backward(batch(), Step())
        gradients.append({name: value.grad for name, value in method.named_parameters() if value.grad is not None})
    whole, chunked = gradients
    assert whole.keys() == chunked.keys()
    apart = {
        name: ((whole[name] - chunked[name]).abs().max() / (1e-6 + whole[name].abs().max())).item() for name in whole
    }
    assert max(apart.values()) < 1e-3, max(apart, key=apart.get)


def test_recomputing_blocks_in_the_backward_pass_changes_no_gradient():
    plain, frugal = drawn().train(), drawn().train()
    frugal.clip.transformer.checkpointing = frugal.clip.visual.transformer.checkpointing = True
    for method in (plain, frugal):
        total(method).backward()
    for (name, one), other in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name


def test_steps_leave_clip_as_it_was_and_move_everything_else():
    method, recipe = drawn(top_k=6, identity=1.0), load("dm_adapter")
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = optim.build(method, recipe.optim)
    for _ in range(2):
        optimizer.zero_grad()
        total(method).backward()
        optimizer.step()
    moved = {name for name, value in method.named_parameters() if not torch.equal(value, before[name])}
    new = {name for name in before if "feed_forward" in name or "ln_3" in name or "task_param" in name}
    assert moved == new | {"classifier.weight", "classifier.bias"}


def test_no_graph_is_kept_below_the_first_adapters():
    method, _ = drawn(), optim.build(drawn(), load("dm_adapter").optim)
    optim.build(method, load("dm_adapter").optim)
    seen = []
    block = method.clip.visual.transformer.resblocks[0]
    block.ln_3.register_forward_pre_hook(lambda _, given: seen.append(given[0].requires_grad))
    block.register_forward_hook(lambda _, given, out: seen.append(out.requires_grad))
    total(method)
    assert seen == [False, True]


def test_gates_and_vectors_decay_and_biases_do_not():
    method = drawn(identity=1.0)
    block = "clip.transformer.resblocks.0."
    for name in ("task_param", "feed_forward.alpha", "feed_forward.input_gate.weight", "ln_3.weight"):
        assert method.group_of(block + name) == Group("tower", decay=True)
    for name in ("feed_forward.experts.0.down.bias", "feed_forward.experts.0.up.bias", "ln_3.bias"):
        assert method.group_of(block + name) == Group("bias", decay=False)
    assert method.group_of(f"{block}ln_1.bias").rate == method.group_of("clip.text_projection").rate == "frozen"
    assert method.group_of("classifier.weight") == Group("new")


def test_the_log_tells_how_unevenly_experts_are_used():
    method, data = drawn(identity=1.0), batch()
    features = method.features(data)
    figures = method.metrics(features, data)
    assert set(figures) == {"busiest_expert", "idlest_expert", "img_acc", "txt_acc"}
    assert 0 <= figures["idlest_expert"] <= 2 / 6 <= figures["busiest_expert"] <= 1
    collapsed = torch.zeros(6, 4, 2, 6)
    collapsed[..., :2] = torch.tensor([[0.5], [1.0]])
    figures = method.metrics(features | {"balance": collapsed}, data)
    assert (figures["busiest_expert"], figures["idlest_expert"]) == (1.0, 0.0)
    assert balance(collapsed) == 4.0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tower", "RN50", "vision transformer"),
        ("reduction", 7, "reduction: must divide both widths, 768 and 512"),
        ("top_k", 7, "top_k: must be at most num_experts, which is 6"),
        ("top_k", 0, "top_k"),
        ("num_experts", 1, "top_k: must be at most"),
    ],
)
def test_impossible_settings_are_refused(key, value, said):
    with pytest.raises(ValidationError, match=said):
        DMAdapter.Config.model_validate({"name": "dm_adapter", key: value})


def test_the_recipes_are_the_released_command():
    scores = {}
    for name in ("dm_adapter", "dm_adapter-icfg-pedes", "dm_adapter-rstpreid"):
        recipe = load(name)
        scores[recipe.data.name] = (recipe.published.R1, recipe.published.mAP)
        assert (recipe.train.batch, recipe.train.epochs, recipe.optim.lr, recipe.optim.eps) == (128, 60, 3e-4, 1e-3)
        assert (recipe.optim.kind, recipe.optim.weight_decay, recipe.optim.scale["bias"]) == ("adam", 4e-5, 2.0)
        assert recipe.method == DMAdapter.Config(name="dm_adapter")
    assert scores == {"cuhk-pedes": (72.17, 64.33), "icfg-pedes": (62.64, 36.5), "rstpreid": (60.0, 47.37)}


# Released files -------------------------------------------------------------------------------

INPUTS = load_file(GOLDEN / "inputs.safetensors")
OUTPUTS = load_file(GOLDEN / "outputs.safetensors")
WEIGHTS = load_file(GOLDEN / "weights.safetensors")
OPTIONS = {"img_size": [96, 32], "topk": 2}
YAML = """MLM: true
batch_size: 128
dataset_name: RSTPReid
img_aug: true
img_size: !!python/tuple
- {height}
- {width}
loss_names: sdm+aux
milestones: !!python/tuple
- 20
- 50
name: baseline
num_experts: 6
output_dir: /home/author/logs/RSTPReid/baseline
reduction: 8
stride_size: 16
temperature: 0.02
topk: {top_k}
"""


def half_names() -> set[str]:
    """Released names of what the released code keeps in half precision."""
    with torch.device("meta"):
        method = to_half(DMAdapter(DMAdapter.recognise(OfficialFiles(WEIGHTS, OPTIONS, "")), Task((96, 32), 9)))
    types = {method.official.foreign(name): value.dtype for name, value in method.state_dict().items()}
    halves = {name for name, kind in types.items() if kind == torch.float16}
    return halves | {"base_model.v2i_proj.weight", "base_model.v2i_proj.bias"}


def released_folder(folder, state, *, half=False, prefix="", top_k=2):
    """best.pth and configs.yaml as the released saver writes them."""
    folder.mkdir(parents=True)
    halves = half_names() if half else set()
    checkpoint = {
        "model": {f"{prefix}{name}": value.half() if name in halves else value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 3e-4, "params": [0]}]},
        "scheduler": {"milestones": (20, 50), "last_epoch": 4},
        "num_epoch": 60,
        "iteration": 0,
        "epoch": 41,
    }
    torch.save(checkpoint, folder / "best.pth")
    height, width = json.loads((GOLDEN / "config.json").read_text())["model"]["image_size"]
    (folder / "configs.yaml").write_text(YAML.format(height=height, width=width, top_k=top_k))
    return folder


def opened(path, *sets):
    return open_model(path, device="cpu", sets=sets)


def distance(model) -> float:
    image = model.image_arrays(INPUTS["images"]) - OUTPUTS["image_features_norm"].numpy()
    text = model.text_arrays(INPUTS["caption_ids"]) - OUTPUTS["text_features_norm"].numpy()
    return float(max(abs(image).max(), abs(text).max()))


@pytest.mark.parametrize(("half", "prefix", "most"), [(False, "", 2e-5), (False, "module.", 2e-5), (True, "", 0.1)])
def test_a_released_folder_gives_the_published_embeddings(tmp_path, half, prefix, most):
    model = opened(released_folder(tmp_path / "dm", WEIGHTS, half=half, prefix=prefix))
    assert distance(model) < most
    assert (model.name, model.data, model.embed, model.transform.size) == ("dm_adapter", "rstpreid", 96, (96, 32))
    assert (model.recipe.method.top_k, model.recipe.optim.lr) == (2, 3e-4)
    assert {value.dtype for value in model.method.state_dict().values()} == {torch.float32}


def test_what_no_tensor_tells_comes_from_the_options_and_can_be_set(tmp_path):
    folder = released_folder(tmp_path / "dm", WEIGHTS, top_k=3)
    assert opened(folder).recipe.method.top_k == 3
    assert distance(opened(folder)) > 1e-3
    assert distance(opened(folder, "method.top_k=2")) < 2e-5
    assert distance(opened(folder, "method.top_k=2", "method.text_scale=1.0")) > 1e-3


def test_options_that_cannot_be_are_told(tmp_path):
    with pytest.raises(WeightsError, match=r"do not fit dm_adapter: top_k: must be at most num_experts, which is 6"):
        opened(released_folder(tmp_path / "dm", WEIGHTS, top_k=7))


def test_tables_that_nothing_reads_and_the_head_may_be_absent(tmp_path):
    state = {name: value for name, value in WEIGHTS.items() if not DMAdapter.official.drops(name)}
    assert len(state) == len(WEIGHTS) - 5
    bare = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    assert distance(opened(released_folder(tmp_path / "dm", bare))) < 2e-5


def test_a_converted_run_gives_the_same_rows_and_remembers_its_constants(tmp_path):
    source = released_folder(tmp_path / "dm", WEIGHTS, half=True)
    before, run = (
        opened(source, "method.image_scale=0.2"),
        convert(source, tmp_path / "run", sets=["method.image_scale=0.2"]),
    )
    after = opened(run.folder)
    assert np.array_equal(before.image_arrays(INPUTS["images"]), after.image_arrays(INPUTS["images"]))
    assert after.fingerprint == before.fingerprint
    assert (after.recipe.method.top_k, after.recipe.method.image_scale) == (2, 0.2)


def test_a_released_folder_is_evaluated_on_a_data_set(tmp_path):
    write_set(tmp_path / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 1, 4)))
    words = torch.randn(49408, 64, generator=torch.Generator().manual_seed(0))
    state = WEIGHTS | {"base_model.token_embedding.weight": words}
    model = opened(released_folder(tmp_path / "dm", state))
    dataset = open_dataset("cuhk-pedes", tmp_path / "data")
    rows = [evaluate(model, dataset, "test", batch=size) for size in (64, 3)]
    assert rows[0].document()["gallery"] == 8
    assert rows[0].document()["protocol"]["batch_dependent"] is False
    assert abs(rows[0].embedded.text_QE - rows[1].embedded.text_QE).max() < 2e-6


@pytest.mark.parametrize("broken", ["experts.5.up.weight", "task_param", "ln_3.weight"])
def test_a_missing_tensor_of_an_adapter_is_named(tmp_path, broken):
    missing = next(name for name in WEIGHTS if name.endswith(broken))
    state = {name: value for name, value in WEIGHTS.items() if name != missing}
    with pytest.raises(WeightsError, match=missing):
        opened(released_folder(tmp_path / "dm", state))


def test_relatives_do_not_claim_each_others_files():
    for folder in ("dm_adapter", "cskt", "irra"):
        files = OfficialFiles(load_file(GOLDEN.parent / folder / "weights.safetensors"), OPTIONS, "best.pth")
        assert [name for name in methods.names() if methods.find(name).recognise(files) is not None] == [folder]
