"""ECCL beyond its golden numbers: sizes, memories, released files with the products in their weights, refusals."""

import copy
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.runs import GOLDEN as IRRA
from support.runs import golden_state, irra_folder
from support.training import Spy, tiny_recipe, write_data

from tbps_cli import methods
from tbps_cli.choices import Choice
from tbps_cli.engine import state
from tbps_cli.engine.start import copy_fitting, find_init
from tbps_cli.engine.stops import Interrupted
from tbps_cli.engine.train import train
from tbps_cli.errors import WeightsError
from tbps_cli.methods.config import Lora
from tbps_cli.methods.eccl import ECCL
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.nn.lora import with_products
from tbps_cli.nn.memory_bank import MemoryBank
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.text.word_changes import augment_caption
from tbps_cli.types import Batch, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.weights_file import read_safetensors

FOLDER = Path(__file__).parents[1] / "golden" / "eccl"
WEIGHTS, INPUTS, OUTPUTS = (load_file(FOLDER / f"{name}.safetensors") for name in ("weights", "inputs", "outputs"))
SCALE = 1.5
TINY = Tower(width=64, layers=2, patch=16, embed=64, text_width=64, text_layers=2, context=20, vocabulary=60)
PERSONS = (0, 0, 1, 2, 3, 3, 4, 4)
TASK = Task((96, 32), 5, 16, PERSONS)


def drawn(task: Task = TASK, **more: object) -> ECCL:
    config = {"name": "eccl", "tower": TINY, "prompt_depth": 2, "lora": Lora(rank=2), **more}
    method = ECCL(ECCL.Config(**config), task)
    method.initialise(torch.Generator().manual_seed(0))
    return method


def batch(rows: int = 6, seed: int = 1) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 50, (rows, 20), generator=draws)
    for row in range(rows):
        text[row, 0], text[row, 3 + 2 * row], text[row, 4 + 2 * row :] = 58, 59, 0
    images = torch.randn(rows, 3, 96, 32, generator=draws)
    image_B = torch.arange(rows) % len(PERSONS)
    return Batch({"image": images}, {"text": text}, torch.tensor(PERSONS)[image_B], image_B, torch.arange(rows))


# The model ------------------------------------------------------------------------------------


def test_the_real_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        method = ECCL(ECCL.Config(name="eccl", lora=Lora(alpha=4)), Task((384, 128), 11_003, 68_126, (0,) * 34_054))
    trained = [value for name, value in method.named_parameters() if method.group_of(name).rate != "frozen"]
    parts = dict(method.named_parameters())
    assert (sum(value.numel() for value in parts.values()), len(parts)) == (155_475_969, 626)
    assert (sum(value.numel() for value in trained), len(trained)) == (5_858_304, 324)
    assert sum(value.numel() for name, value in parts.items() if "lora" in name) == 1_105_920
    assert method.image_memory.text.shape == (34_054, 512) and method.person_memory.image.shape == (11_003, 512)


def test_half_precision_leaves_what_the_released_code_leaves_in_float32():
    with torch.device("meta"):
        method = to_half(ECCL(ECCL.Config(name="eccl", lora=Lora()), Task((384, 128))))
    half = {name for name, value in method.named_parameters() if value.dtype == torch.float16}
    assert {"prompts.ctx", "prompts.proj.weight", "prompts.proj.bias"} <= half
    assert not any("compound" in name or "ln_" in name or "embedding" in name for name in half)
    assert all(name in half for name, _ in method.named_parameters() if "lora" in name)


def test_a_fresh_model_starts_with_equal_projections_and_without_adaptation():
    method = drawn(prompt_depth=4)
    first, *others = method.prompts.compound_prompt_projections
    assert all(torch.equal(first.weight, one.weight) and torch.equal(first.bias, one.bias) for one in others)
    assert not torch.equal(*method.prompts.compound_prompts_text[:2])
    matrices = {name: value for name, value in method.named_parameters() if "lora" in name}
    assert all((value == 0).all() == ("lora_B" in name) for name, value in matrices.items())
    bounds = [value.abs().max().item() * value.shape[1] ** 0.5 for name, value in matrices.items() if "lora_A" in name]
    assert 0.9 < min(bounds) <= max(bounds) <= 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_context", 19), ("num_context", 0), ("prompt_depth", 0), ("momentum", 1.5), ("tower", "RN50")],
)
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        ECCL.Config.model_validate({"name": "eccl", "tower": TINY, key: value})


def test_captions_leave_room_for_the_prompts():
    config = ECCL.Config(name="eccl", num_context=6)
    tokenizer = ECCL.tokenizer(config)
    row = tokenizer(["word " * 100])[0]
    assert (row != 0).sum() == 71 and row[70] == tokenizer.end and len(row) == 77
    assert type(tokenizer).from_description(tokenizer.describe()).describe() == tokenizer.describe()
    assert tokenizer.cut_count(["word " * 69, "word " * 70], taken=ECCL.places_taken(config)) == 1


# Memories -------------------------------------------------------------------------------------


def test_rows_that_several_pairs_share_are_renewed_one_after_the_other():
    draws = torch.Generator().manual_seed(0)
    bank = MemoryBank(4, 8)
    bank.fill(torch.randn(4, 8, generator=draws), torch.randn(4, 8, generator=draws))
    bank.text[3] = 0
    image, text = torch.randn(7, 8, generator=draws), torch.randn(7, 8, generator=draws)
    row_B = torch.tensor([1, 0, 1, 3, 1, 0, 1])
    expected = {"image": bank.image.double(), "text": bank.text.double()}
    for pair, row in enumerate(row_B.tolist()):
        for side, new in (("image", image), ("text", text)):
            mixed = 0.3 * expected[side][row] + 0.7 * new[pair].double() / new[pair].double().norm()
            expected[side][row] = mixed / mixed.norm()
    bank.renew(image, text, row_B, kept=0.3)
    for side, memory in expected.items():
        assert (getattr(bank, side) - memory).abs().max() < 1e-6
    assert torch.equal(bank.image[2].double(), expected["image"][2])


def test_the_memories_learn_what_a_step_saw_and_nothing_that_was_only_measured():
    method, data = drawn(), batch()
    measured = method(batch(seed=2), Step())
    method.before_step()
    losses = method(data, Step())
    assert losses.keys() == measured.keys() and len(losses) == 5
    torch.stack(list(losses.values())).sum().backward()
    assert not method.image_memory.image.any(), "the gradient still needs the old rows"
    features = method.features(data)
    method.after_step()
    assert not method.renewals
    assert torch.allclose(method.image_memory.image[:6], torch.nn.functional.normalize(features["image"]), atol=1e-5)
    assert not method.image_memory.image[6:].any() and method.person_memory.text[:4].any(1).all()


def test_the_start_knows_the_persons_of_images_that_it_does_not_meet():
    method, data = drawn(), batch(rows=4)
    method.start_epoch(iter([(method.features(data), data)]), torch.Generator())
    assert method.image_person.tolist() == list(PERSONS) and method.filled
    assert not method.image_memory.image[4:].any() and not method.person_memory.image[3:].any()
    assert torch.allclose(method.person_memory.text[:3].norm(dim=1), torch.ones(3))
    before = method.image_memory.image.clone()
    method.start_epoch(iter([]), torch.Generator())
    assert torch.equal(method.image_memory.image, before), "it happens once"


def test_a_batch_without_negatives_costs_nothing_in_the_triplet_and_has_a_gradient_of_numbers():
    method = drawn(task=Task((96, 32)))
    data = batch(rows=2)
    losses = method(data, Step())
    assert losses.keys() == {"tal"}, "without training images there are no memories"
    losses["tal"].backward()
    assert losses["tal"] == 0
    assert all(torch.isfinite(value.grad).all() for value in method.parameters() if value.grad is not None)


class Stop(Spy):
    """Presses Ctrl-C in the middle of the second epoch."""

    def stepped(self, progress):
        super().stepped(progress)
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_run_goes_on_with_its_memories_which_stand_in_no_file_of_weights(tmp_path):
    write_data(tmp_path)
    more = "lora = { rank = 2 }\nprompt_depth = 1\nnum_context = 2"
    recipe = tiny_recipe(tmp_path, "eccl", more, ("optim.scale={lora=0.1}",))

    def trained(name, **options):
        return train(recipe, data_root=tmp_path, out=tmp_path / name, device="cpu", **options)

    spy = Spy()
    whole = trained("whole", observer=spy)
    with pytest.raises(Interrupted):
        trained("cut", observer=Stop())
    memories = {name: value for name, value in state.load(tmp_path / "cut").parts["method"].items() if "memory" in name}
    assert len(memories) == 4 and all((value.norm(dim=1) > 0.999).all() for value in memories.values())
    cut = trained("cut", resume=True)
    for name in ("weights.safetensors", "last.safetensors"):
        one, two = read_safetensors(whole / name), read_safetensors(cut / name)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), name
        assert not any(key.startswith(ECCL.checkpoint_only) for key in one) and any("lora_A" in key for key in one)
    losses = {"tal", "memory_i2t", "memory_t2i", "instance_memory_i2t", "instance_memory_t2i"}
    assert losses <= spy.steps[-1].losses.keys()


def test_words_fall_out_of_training_captions_anew_each_time():
    views = ECCL.views(ECCL.Config(name="eccl", delete_words=0.5))
    caption = "a man in a red shirt and blue trousers with a white bag"
    drawn = {augment_caption(views.augment_text, caption, None, random.Random(n), views.text_options) for n in range(9)}
    assert len(drawn) == 9 and caption not in drawn
    assert augment_caption("delete", "pedestrian", None, random.Random(0), views.text_options) == "pedestrian"
    assert ECCL.views(ECCL.Config(name="eccl", delete_words=0.0)).augment_text is None


# Released files -------------------------------------------------------------------------------

YAML = """MLM: false
alpha_label: 0.5
batch_size: 128
dataset_name: RSTPReid
finetune: /home/author/best2.pth
img_size: !!python/tuple
- 48
- 16
instance_momentum: 0.1
lamda1: 1.0
lamda2: 0.1
lora: true
lora_alpha: 6
loss_names: TAL+memory+instance_memory
margin: 0.2
momentum: 0.1
num_context: 4
prompt_depth: 12
stride_size: 8
tau: 0.02
temp: 0.03
temp_instance: 0.015
temperature: 0.02
"""
STRIDE = ["method.stride=8"]
"""For options that do not say it."""
HALF = "attn.", ".mlp.c_", "conv1", "text_projection", "image_encoder.proj", "learner.ctx", "learner.proj", "lora_"


def official() -> dict[str, torch.Tensor]:
    """A released state: products in the weights, matrices beside them, and nearly everything twice."""
    ours, _ = ECCL.official.to_ours(WEIGHTS)
    merged = {ECCL.official.foreign(name): value for name, value in with_products(ours, SCALE).items()}
    again = {"logit_scale": "clip_model.logit_scale"}
    for name in merged:
        tower, _, rest = name.partition(".")
        if tower in ("image_encoder", "text_encoder"):
            again[name] = f"clip_model.{'visual.' if tower == 'image_encoder' else ''}{rest}"
    return merged | {second: merged[name] for name, second in again.items()}


def eccl_folder(folder: Path, tensors: dict[str, torch.Tensor], *, prefix: str = "", yaml: str = YAML) -> Path:
    folder.mkdir(parents=True)
    content = {
        "model": {f"{prefix}{name}": value for name, value in tensors.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "scheduler": {"milestones": (20, 50), "last_epoch": 4},
        "num_epoch": 60,
        "iteration": 0,
        "epoch": 41,
    }
    torch.save(content, folder / "best.pth")
    (folder / "configs.yaml").write_text(yaml)
    return folder


def apart(model) -> float:
    """The largest difference of cosines from those of the released code."""
    score = model.text_arrays(INPUTS["caption_ids"]) @ model.image_arrays(INPUTS["images"]).T
    return float(np.abs(score - OUTPUTS["similarity_t2i"].numpy()).max())


def test_a_released_state_has_each_tensor_under_two_names():
    assert len(official()) == 2 * len(WEIGHTS) - len([name for name in WEIGHTS if "prompt" in name]) - 1


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("yaml", [YAML, YAML.replace("lora_alpha: 6\n", ""), "img_size: [48, 16]\n"])
def test_a_released_file_is_read_with_its_products_counted_once(tmp_path, prefix, yaml):
    """Whatever its options say of alpha: taken out and put in again, products leave the weights as they were."""
    model = open_model(eccl_folder(tmp_path / "eccl", official(), prefix=prefix, yaml=yaml), device="cpu", sets=STRIDE)
    assert (model.name, model.embed) == ("eccl", 96)
    assert apart(model) <= 1e-6
    assert model.recipe.method.lora is None


def test_options_say_that_epoch_and_start_were_chosen_on_test(tmp_path):
    told = YAML + "val_dataset: test\n"
    model = open_model(eccl_folder(tmp_path / "eccl", official(), yaml=told), device="cpu", sets=STRIDE)
    start = Choice("test", "rstpreid", 3)
    assert model.choices.made == {"epoch": Choice("test", "rstpreid"), "start": start}
    unknown = told.replace("best2.pth", "ours.pth").replace("val_dataset: test", "val_dataset: val")
    model = open_model(eccl_folder(tmp_path / "other", official(), yaml=unknown), device="cpu", sets=STRIDE)
    assert model.choices.made == {"epoch": Choice("val", "rstpreid")}


def test_counting_the_products_twice_would_show(tmp_path, monkeypatch):
    monkeypatch.setattr(ECCL, "received", classmethod(lambda cls, config, tensors: tensors))
    assert apart(open_model(eccl_folder(tmp_path / "eccl", official()), device="cpu", sets=STRIDE)) > 0.01


def test_half_weights_are_read_too(tmp_path):
    half = {name: value.half() if any(part in name for part in HALF) else value for name, value in official().items()}
    assert apart(open_model(eccl_folder(tmp_path / "eccl", half), device="cpu", sets=STRIDE)) <= 2e-3


def test_a_converted_run_keeps_weights_and_matrices_apart_and_training_goes_on_with_them(tmp_path):
    source = eccl_folder(tmp_path / "author" / "eccl", official())
    run = convert(source, tmp_path / "mine", sets=STRIDE)
    before, after = (open_model(path, device="cpu", sets=STRIDE) for path in (source, run.folder))
    assert np.array_equal(before.image_arrays(INPUTS["images"]), after.image_arrays(INPUTS["images"]))
    assert np.array_equal(before.text_arrays(INPUTS["caption_ids"]), after.text_arrays(INPUTS["caption_ids"]))
    ours, _ = ECCL.official.to_ours(WEIGHTS)
    stored = read_safetensors(run.folder / "weights.safetensors")
    assert stored.keys() == ours.keys()
    assert max(float((stored[name] - value).abs().max()) for name, value in ours.items()) < 1e-6
    lora, data = run.recipe.method.lora, run.recipe.data
    assert (lora.rank, lora.scale, lora.where) == (4, SCALE, "qkvo+mlp") and data.name == "rstpreid"
    assert "author" not in (run.folder / "recipe.toml").read_text()
    assert run.recipe.optim.scale["lora"] == 0.1 and run.recipe.method.prompt_depth == 3


@pytest.mark.parametrize("alpha", [6.0, 4.0])
def test_training_from_a_released_file_goes_on_with_its_matrices_where_the_scale_is_the_same(tmp_path, alpha):
    init = find_init(eccl_folder(tmp_path / "eccl", official()))
    config = init.config.model_copy(update={"lora": Lora(rank=4, alpha=alpha)})
    method = ECCL(config, Task((48, 16), 7, 17, (0,) * 13))
    method.initialise(torch.Generator().manual_seed(0))
    copy_fitting(method, init, ECCL.tokenizer(config))
    same = alpha == 6.0
    found = method.state_dict()
    for name, value in ECCL.official.to_ours(WEIGHTS)[0].items():
        if "lora_B" in name:
            assert torch.equal(found[name], value) if same else not found[name].any(), name
    with torch.no_grad():
        rows = method.text_feature(INPUTS["caption_ids"])
    assert (rows - OUTPUTS["text_features"]).abs().max() <= 2e-5, "either way it starts from what the file computes"


def test_a_file_whose_two_copies_differ_is_damaged(tmp_path):
    damaged = official()
    damaged["clip_model.visual.proj"] = damaged["clip_model.visual.proj"] + 1
    with pytest.raises(WeightsError, match=r"visual\.proj and .*visual\.proj|image_encoder\.proj and"):
        open_model(eccl_folder(tmp_path / "eccl", damaged), device="cpu", sets=STRIDE)


def test_a_missing_matrix_is_named(tmp_path):
    damaged = official()
    for name in ("text_encoder", "clip_model"):
        del damaged[f"{name}.transformer.resblocks.2.attn.lora_B_o"]
    with pytest.raises(
        WeightsError, match=r"of eccl are missing \(first: text_encoder.*resblocks\.2\.attn\.lora_B_o\)"
    ):
        open_model(eccl_folder(tmp_path / "eccl", damaged), device="cpu", sets=STRIDE)


def test_relatives_do_not_claim_each_others_files():
    files = OfficialFiles(official(), {"img_size": [48, 16], "stride_size": 8}, "best.pth")
    assert [name for name in methods.names() if methods.find(name).recognise(files) is not None] == ["eccl"]
    irra = OfficialFiles(load_file(IRRA / "weights.safetensors"), {"img_size": [96, 32]}, "best.pth")
    assert ECCL.recognise(irra) is None


def test_training_starts_from_a_file_of_irras_format_as_published(tmp_path):
    init = find_init(irra_folder(tmp_path / "irra", golden_state(), half=False))
    method = ECCL(ECCL.Config(name="eccl", tower=init.config.sizes, prompt_depth=2, lora=Lora()), Task((96, 32)))
    method.initialise(torch.Generator().manual_seed(0))
    before = copy.deepcopy(method.state_dict())
    said = copy_fitting(method, init, ECCL.tokenizer(method.config))
    assert said.startswith("init: ") and "; new: " in said
    for name, value in method.state_dict().items():
        theirs = golden_state().get(name.replace("clip.", "base_model.", 1))
        assert torch.equal(value, before[name] if theirs is None else theirs), name
