"""ECCL's golden folder: LoRA merged and apart, prompts, memories from their start on, five losses, three steps."""

from __future__ import annotations

import copy
import itertools
import math
import random
from typing import Any

import torch
from parity import tools
from parity.check import Figures, Golden
from torch import Tensor

from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.losses.contrastive import sdm
from tbps_cli.losses.ranking import tal
from tbps_cli.methods.eccl import ECCL
from tbps_cli.nn.lora import with_products
from tbps_cli.nn.position import resize_grid
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.prompts import make_room
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.word_changes import delete_words
from tbps_cli.types import Batch, Step, Task

LOSSES = {
    "tal": "TAL",
    "memory_i2t": "memory_i2t",
    "memory_t2i": "memory_t2i",
    "instance_memory_i2t": "instance_memory_i2t",
    "instance_memory_t2i": "instance_memory_t2i",
}
"""Our names of the losses -> those of the folder, which `train.` calls TAL_loss, memory_loss_i2t, ..."""
MEMORY = 3e-6
"""Of unit rows, and of parameters after three steps."""
METRICS = 1e-4
"""Of percentages."""
SEEN = 3
"""Samples that the folder keeps of an activation."""
TAKEN_OUT = 3e-6
"""Of weights from which the products were taken again: the rounding of float32."""


def check(golden: Golden) -> None:
    data, start = _batch(golden.inputs, ""), _batch(golden.inputs, "start.")
    method = _method(golden, golden.weights)
    _features(golden, method, data)
    _official_file(golden, method, data)
    _activations(golden, method, data)
    _losses_of_unit(golden, method)
    _options_without_recipe(golden, method, data)
    _start(golden, method, start)
    _losses(golden, method, data)
    _steps(golden, method, data)
    _variants(golden, data)
    _half(golden, data)
    _files(golden, method)


def _config(golden: Golden, weights: dict[str, Tensor]) -> Any:
    model, loss = golden.config["model"], golden.config["loss"]
    options = {
        "img_size": list(model["image_size"]),
        "stride_size": model["stride_size"],
        "lora_alpha": model["lora_alpha"],
        "loss_names": loss["default"],
        **{key: loss[key] for key in ("tau", "temp", "temp_instance", "momentum", "instance_momentum")},
        **{key: loss[key] for key in ("lamda1", "lamda2")},
    }
    config = ECCL.recognise(tools.official_files(weights, options))
    assert config is not None and config.lora is not None, "the golden weights are not recognised as ECCL's"
    assert (config.num_context, config.lora.rank) == (model["num_context"], model["lora_rank"])
    assert math.isclose(config.lora.scale, model["lora_alpha"] / model["lora_rank"])
    # the released code fixes the margin: its option does not reach the loss
    return tools.with_heads(config.model_copy(update={"margin": loss["margin"]}), model)


def _method(golden: Golden, weights: dict[str, Tensor]) -> ECCL:
    """The method with the golden weights, which have no products in them; its images are those of the config."""
    model = golden.config["model"]
    persons = [0] * model["num_pictures"]  # as in the reference: whom the start does not meet counts as person 0
    for image, person in zip(golden.inputs["start.image_ids"], golden.inputs["start.pids"], strict=True):
        persons[int(image)] = int(person)
    task = Task(tuple(model["image_size"]), model["num_classes"], image_persons=tuple(persons))
    method = ECCL(_config(golden, weights), task)
    own, (tensors, unknown) = method.state_dict(), ECCL.official.to_ours(weights)
    missing = [name for name in own.keys() - tensors.keys() if not name.startswith(ECCL.checkpoint_only)]
    assert not unknown and not missing and tensors.keys() <= own.keys(), (unknown, missing, tensors.keys() - own.keys())
    method.load_state_dict(tensors, strict=False)
    return method


def _batch(inputs: dict[str, Tensor], prefix: str) -> Batch:
    images, tokens = inputs[f"{prefix}images"], inputs[f"{prefix}caption_ids"]
    return tools.batch(
        {"image": images}, {"text": tokens}, inputs[f"{prefix}pids"].long(), inputs[f"{prefix}image_ids"].long()
    )


@torch.no_grad()
def _features(golden: Golden, method: ECCL, data: Batch) -> None:
    """As a model that is opened for inference has them: the products in the weights."""
    out, folded = golden.outputs, copy.deepcopy(method)
    folded.fold()
    tools.ranked(out, tools.embeddings(out, folded, data), data.person_B, METRICS)
    own = tools.named_official(folded)
    for name in out.starting("merged."):
        out.check(f"merged.{name}", own[name])
    for side, prompts in (("visual", method.prompts.image_prompts()), ("text", method.prompts.text_prompts())):
        for level, tokens in enumerate(prompts):
            out.check(f"prompts.{side}.{level}", tokens)
    resized = resize_grid(golden.inputs["clip_positional_embedding_src"], method.clip.visual.grid)
    out.check("clip_positional_embedding_resized", resized)


@torch.no_grad()
def _official_file(golden: Golden, method: ECCL, data: Batch) -> None:
    """What a released file holds, the products in the weights beside the matrices, gives the same again."""
    assert method.config.lora is not None
    merged = with_products(method.state_dict(), method.config.lora.scale)
    tensors = ECCL.received(method.config, merged)
    worst = max(float((value - tensors[name]).abs().max()) for name, value in method.named_parameters())
    golden.report.judge(f"{golden.place}official_file:weights", worst, TAKEN_OUT)
    opened = copy.deepcopy(method)
    opened.load_state_dict(tensors)
    opened.fold()
    expected = golden.outputs.values
    for side, found in opened.features(data).items():
        difference = float((found - expected[f"{side}_features"]).abs().max())
        golden.report.judge(f"{golden.place}official_file:{side}_features", difference, 2e-5)


@torch.no_grad()
def _activations(golden: Golden, method: ECCL, data: Batch) -> None:
    out, few = golden.outputs, data.rows(0, SEEN)
    names = {"act.visual.ln_pre": "clip.visual.ln_pre", "act.image_tokens": "clip.visual"}
    for side, tower in {"visual": "clip.visual.transformer", "text": "clip.transformer"}.items():
        for block in out.starting(f"act.{side}."):
            if block.endswith(".block"):
                names[f"act.{side}.{block}"] = f"{tower}.resblocks.{block.removesuffix('.block')}"
    kept: dict[str, Tensor] = {}

    def run() -> None:
        # all tokens at all places: the towers themselves, where features need less
        method.clip.image_tokens(few.images["image"], method.prompts.image_hooks())
        shifted = make_room(few.tokens["text"], method.prompts.tokens)
        kept["act.text_tokens"] = method.clip.text_tokens(shifted, method.prompts.text_hooks())

    for figure, value in (tools.activations(method.train(), names, run) | kept).items():
        out.check(figure, value)


def _losses_of_unit(golden: Golden, method: ECCL) -> None:
    """The triplet on given embeddings, most of whose terms are at zero."""
    image, text = (golden.inputs[f"unit.{side}"].clone().requires_grad_() for side in ("image", "text"))
    person_B, c = golden.inputs["unit.pids"].long(), method.config
    loss = tal(image, text, person_B, tau=c.tau, margin=c.margin).sum()
    loss.backward()
    golden.outputs.loss("unit.loss.TAL", loss)
    golden.outputs.gradient("unit.grad.image", image.grad)
    golden.outputs.gradient("unit.grad.text", text.grad)


@torch.no_grad()
def _options_without_recipe(golden: Golden, method: ECCL, data: Batch) -> None:
    features = method.features(data)
    temperature = (-method.logit_scale.float()).exp()
    loss = sdm(features["image"], features["text"], data.person_B, temperature=temperature)
    golden.outputs.check("temperature", temperature)
    golden.outputs.loss("loss.sdm", loss)


def _start(golden: Golden, method: ECCL, pairs: Batch) -> None:
    """The memories from one pass over the pairs; the reference passes twice, here over the same."""
    sizes = golden.config.get("start", {}).get("batches", [len(pairs)])
    ends = list(itertools.accumulate(sizes))
    parts = [pairs.rows(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    assert ends[-1] == len(pairs)
    method.eval()
    with torch.no_grad():
        method.start_epoch(((method.features(part), part) for part in parts), torch.Generator())
    method.train()
    _memories(golden.outputs, "start", method)
    golden.outputs.check("start.instance_pids", method.image_person)


def _memories(out: Figures, prefix: str, method: ECCL) -> None:
    assert method.person_memory is not None and method.image_memory is not None
    for name, memory in (("bank", method.person_memory), ("instance_bank", method.image_memory)):
        out.check(f"{prefix}.{name}.image", memory.image, MEMORY)
        out.check(f"{prefix}.{name}.text", memory.text, MEMORY)


def _losses(golden: Golden, method: ECCL, data: Batch) -> None:
    """Losses, their gradients at features and parameters, and what a step leaves in the memories."""
    out = golden.outputs
    method.before_step()
    features = method.features(data)
    leaves = {side: value.detach().clone().requires_grad_() for side, value in features.items()}
    apart = method.losses(leaves, data, Step())
    for name, loss in apart.items():
        out.loss(f"loss.{LOSSES[name]}", loss)
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        for (side, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            flows = torch.zeros_like(leaf) if gradient is None else gradient
            out.gradient(f"grad_features.{LOSSES[name]}.{side}", flows)
    total = tools.total(method.losses(features, data, Step()))
    out.loss("total.default", total)
    tools.gradients(out, "grad.", method, total)
    after = copy.deepcopy(method)
    after.before_step()
    after.losses({side: value.detach() for side, value in features.items()}, data, Step())
    after.after_step()
    _memories(out, "after1", after)


def _section(lr: float, lora_lr: float, **more: Any) -> OptimSection:
    return tools.irra_optim(lr, scale={"lora": lora_lr / lr}, **more)


def _steps(golden: Golden, method: ECCL, data: Batch) -> None:
    """The released training loop on one batch; the schedule moves an epoch a step."""
    out, said = golden.outputs, golden.config["training_steps"]
    trained = copy.deepcopy(method)
    section = _section(said["lr"], said["lora_lr"])
    optimizer = engine_optim.build(trained, section)
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    series: dict[str, list[float]] = {}
    for number in range(said["steps"]):
        at = Step(epoch=number, epochs=said["epochs"])
        schedule.set_rates(optimizer, section, at)
        trained.before_step()
        losses = trained(data, at)
        optimizer.zero_grad(set_to_none=True)
        tools.total(losses).backward()
        optimizer.step()
        trained.after_step()
        found = {"losses": tools.total(losses).item()} | {_of_loop(name): loss.item() for name, loss in losses.items()}
        rates = {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups}
        for name, value in (found | {"base_lr": rates["tower"], "lora_lr": rates["lora"]}).items():
            series.setdefault(name, []).append(value)
    for name, values in series.items():
        out.check(f"train.{name}", values, 1e-6 if name.endswith("lr") else 1e-5, relative=True)
    prefix = f"train.after{said['steps']}"
    tools.parameters(out, f"{prefix}.", trained, MEMORY)
    _memories(out, prefix, trained)
    frozen = [name for name in before if trained.group_of(name).rate == "frozen"]
    same = all(torch.equal(value, before[name]) for name, value in trained.named_parameters() if name in frozen)
    golden.report.judge(f"{golden.place}train.frozen", 0.0 if same else float("inf"), 0.0)
    trained.fold()
    with torch.no_grad():
        for side, value in trained.features(data).items():
            out.check(f"{prefix}.{side}_features", value)
    own = tools.named_official(trained)
    for name in out.starting(f"{prefix}.merged."):
        out.check(f"{prefix}.merged.{name}", own[name], MEMORY)


def _of_loop(name: str) -> str:
    """What the training loop calls a loss."""
    kind, _, way = LOSSES[name].rpartition("_")
    return f"{kind}_loss_{way}" if way in ("i2t", "t2i") else f"{LOSSES[name]}_loss"


@torch.no_grad()
def _variants(golden: Golden, data: Batch) -> None:
    """Fresh matrices, whose B is 0; and the same weights with prompts of the first levels alone."""
    fresh = _method(golden, golden.weights)
    for name, value in fresh.named_parameters():
        if "lora_B" in name:
            value.zero_()
    for side, value in fresh.features(data).items():
        golden.outputs.check(f"init.{side}_features", value)
    depths = {int(name.partition(".")[0]) for name in golden.outputs.starting("depth") if name[0].isdigit()}
    for depth in sorted(depths):
        kept = {
            name: value
            for name, value in golden.weights.items()
            if not (name.startswith("prompt_learner.compound") and int(name.split(".")[2]) > depth - 2)
        }
        for side, value in _method(golden, kept).features(data).items():
            golden.outputs.check(f"depth{depth}.{side}_features", value)


@torch.no_grad()
def _half(golden: Golden, data: Batch) -> None:
    method = _method(golden, golden.weights)
    to_half(method)
    for side, value in method.features(data).items():
        golden.outputs.half(f"fp16.{side}_features", value)


def _files(golden: Golden, method: ECCL) -> None:
    if golden.has("optim.json"):
        optim = golden.file("optim.json")
        adam, lora_lr = optim.use("note", "adam"), optim.use("lora_lr")
        section = _section(optim.use("base_lr"), lora_lr, eps=adam["eps"], betas=tuple(adam["betas"]))
        tools.groups(optim, "groups", method, section)
        expected = optim.values["schedule_multiplier_epochs_1_to_60"]
        ours = [schedule.factor(section, len(expected), epoch) for epoch in range(len(expected))]
        optim.check("schedule_multiplier_epochs_1_to_60", ours, tools.RATE, relative=True)
    if golden.has("tokenizer.json"):
        _tokenizer(golden.file("tokenizer.json"), method)
    if golden.has("word_deletion.json"):
        _word_deletion(golden.file("word_deletion.json"))


def _tokenizer(figures: Figures, method: ECCL) -> None:
    """Rows of the real vocabulary, cut where the prompts need room."""
    figures.use("note")
    places = figures.use("places")
    bpe = Bpe(77, mask=True, kept_free=77 - places)
    own = ECCL.tokenizer(method.config)
    figures.report.judge("tokenizer.json:kept_free", abs(own.kept_free - method.config.num_context), 0.0)
    for name, value in (("vocab_size", bpe.vocabulary), ("mask", bpe.mask_id), ("sot", bpe.start), ("eot", bpe.end)):
        figures.exact(name, value)
    for number, case in enumerate(figures.use("cases")):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        text = entry.use("text")
        entry.exact("ids", bpe.encode(text))
        entry.exact("tokens77", bpe([text])[0])
        entry.close()


def _word_deletion(figures: Figures) -> None:
    share = figures.use("note", "p")
    for number, case in enumerate(figures.use("cases")):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        seed, text, draws = entry.use("seed"), entry.use("text"), entry.use("draws")
        rng = random.Random(seed)
        drawn = [round(rng.random(), 6) for _ in draws]
        entry.report.judge(f"{entry.prefix}draws", 0.0 if drawn == draws else float("inf"), 0.0)
        entry.exact("result", delete_words(text, random.Random(seed), share))
        if "note" in entry:
            entry.use("note")
        entry.close()
    # captions of one word, and empty ones: ours leaves them alone
    fails = figures.use("fails_in_the_reference")
    left = all(delete_words(text, random.Random(0), share) == text for text in fails)
    figures.report.judge(f"{figures.prefix}fails_in_the_reference", 0.0 if left else float("inf"), 0.0)
