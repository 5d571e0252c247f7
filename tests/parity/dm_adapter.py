"""DM-Adapter's golden folder: features, choices, loads, losses, gradients, three steps, the start as plain CLIP."""

from __future__ import annotations

import copy
from typing import Any

import torch
from parity import tools
from parity.check import Figures, Golden
from torch import Tensor

from tbps_cli.losses.balance import balance
from tbps_cli.methods.dm_adapter import TRAINED, DMAdapter
from tbps_cli.nn.adapters import MixtureBlock
from tbps_cli.nn.moe import route
from tbps_cli.nn.position import resize_grid
from tbps_cli.types import Batch, Step, Task

LOSSES = {"sdm": "sdm", "balance": "aux", "itc": "itc", "cmpm": "cmpm", "triplet": "triplet", "identity": "id"}
NOT_OFFERED = ("triplet_enhance", "imkt")
"""Losses of the released code that no published recipe uses."""
TOWERS = {"visual": "clip.visual.transformer", "text": "clip.transformer"}
SEEN = 3
"""Samples that the folder keeps of an activation."""
SUGGESTED = {
    "features_and_activations_abs": 3e-5,
    "losses_abs": 3e-5,
    "gradients_relative_to_largest_entry": 5e-5,
    "gradient_of_alpha_relative": 3e-4,
    "parameters_after_3_steps_abs": 3e-6,
    "train_losses_abs": 5e-5,
}
"""Tolerances when config.json states none."""


def check(golden: Golden) -> None:
    model = golden.config["model"]
    data = _batch(golden.inputs)
    task = Task(tuple(model["image_size"]), model["num_classes"])
    names = golden.config["loss"]
    every = tools.load(DMAdapter, _config(golden, "+".join(LOSSES.values())), task, _without_unused(golden.weights))
    with_id = tools.load(DMAdapter, _config(golden, names["with_id"]), task, _without_unused(golden.weights))
    default = tools.load(DMAdapter, _config(golden, names["default"]), task, _without_head(golden.weights))
    _features(golden, every, data)
    _losses(golden, every, data)
    golden.outputs.check("total.with_id", _total(with_id, data), _limit(golden, "losses_abs"))
    golden.outputs.check("total.default", _total(default, data), _limit(golden, "losses_abs"))
    _activations(golden, default, data)
    _loads(golden, default, data)
    _gradients(golden, default, with_id, data)
    _steps(golden, default, data)
    _start(golden, task, data)
    for name in golden.outputs.starting("fp16."):
        golden.outputs.skip(f"fp16.{name}", "in half precision a token may choose another expert")
    if golden.has("optim.json"):
        _optimiser(golden.file("optim.json"), with_id)


def _limit(golden: Golden, name: str) -> float:
    return golden.config.get("tolerance", {}).get("suggested", {}).get(name, SUGGESTED[name])


def _without_unused(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model reads: the key table passes over the rest."""
    return {name: value for name, value in weights.items() if not DMAdapter.official.drops(name)}


def _without_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in _without_unused(weights).items() if not name.startswith("classifier.")}


def _config(golden: Golden, losses: str) -> DMAdapter.Config:
    model, loss = golden.config["model"], golden.config["loss"]
    options = {
        "img_size": list(model["image_size"]),
        "stride_size": model["stride_size"],
        "temperature": model["temperature"],
        "topk": model["topk"],
        "loss_names": losses,
    }
    config = DMAdapter.recognise(tools.official_files(golden.weights, options))
    assert config is not None, "the golden weights are not recognised as DM-Adapter's"
    assert (config.num_experts, config.reduction) == (model["num_experts"], model["reduction"])
    update: dict[str, Any] = {
        "image_scale": float(model["adapter_scale_image"]),
        "text_scale": float(model["adapter_scale_text"]),
        "balance": loss["aux_weight"] if config.balance else 0.0,
        "triplet": loss["triplet_weights"] if config.triplet else 0.0,
        "identity": loss["id_loss_weight"] if config.identity else 0.0,
    }
    return tools.with_heads(config.model_copy(update=update), model)


def _batch(inputs: dict[str, Tensor]) -> Batch:
    # the recorded captions hold mask ids: they are what the released loader gives as captions
    tokens = {"text": inputs["caption_ids"], "masked": inputs["caption_ids"]}
    return tools.batch({"image": inputs["images"]}, tokens, inputs["pids"], torch.arange(len(inputs["pids"])))


def _total(method: DMAdapter, data: Batch) -> Tensor:
    return tools.total(method(data, Step()))


@torch.no_grad()
def _features(golden: Golden, method: DMAdapter, data: Batch) -> None:
    out = golden.outputs
    similarity = tools.embeddings(out, method, data, _limit(golden, "features_and_activations_abs"))
    tools.persons(out, method, data)
    tools.ranked(out, similarity, data.person_B, 1e-4)
    resized = resize_grid(golden.inputs["clip_positional_embedding_src"], method.clip.visual.grid)
    out.check("clip_positional_embedding_resized", resized)


@torch.no_grad()
def _losses(golden: Golden, method: DMAdapter, data: Batch) -> None:
    out, limit = golden.outputs, _limit(golden, "losses_abs")
    losses = {LOSSES[name]: value for name, value in method(data, Step()).items()}
    for name, value in losses.items():
        out.check(f"loss.{name}", value, limit)
    for name in NOT_OFFERED:
        out.skip(f"loss.{name}", "no published recipe uses it, and it is not offered")
        losses[name] = out.values.get(f"loss.{name}", torch.tensor(0.0))
    summed = [losses[name] for name in golden.config["loss"]["all"].split("+")]
    out.check("total.all", torch.stack(summed).sum(), len(summed) * limit)


@torch.no_grad()
def _activations(golden: Golden, method: DMAdapter, data: Batch) -> None:
    out, few = golden.outputs, data.rows(0, SEEN)
    names = {"act.visual.ln_pre": "clip.visual.ln_pre", "act.image_tokens": "clip.visual"}
    for side, number, _ in _blocks(method):
        block = f"{TOWERS[side]}.resblocks.{number}"
        names |= {
            f"act.{side}.{number}.ln_3": f"{block}.ln_3",
            f"act.{side}.{number}.moe": f"{block}.feed_forward",
            f"act.{side}.{number}.block": block,
        }
    text: dict[str, Tensor] = {}

    def run() -> None:
        # all tokens at all 77 positions: the towers themselves, where features need less
        method.clip.image_tokens(few.images["image"])
        text["act.text_tokens"] = method.clip.text_tokens(few.tokens["text"])

    found = tools.activations(method, names, run) | text
    for side, number, block in _blocks(method):
        logit_BLX = block.feed_forward.logits(found[f"act.{side}.{number}.ln_3"], block.task_param)
        found[f"act.{side}.{number}.gate_logits"] = logit_BLX
        chosen_BLX = route(logit_BLX, method.config.top_k).chosen
        expected = f"act.{side}.{number}.selected_experts"
        if expected in out:
            as_set = torch.zeros_like(chosen_BLX).scatter(-1, out.values[expected], 1.0)
            out.done.add(expected)
            golden.report.judge(f"{out.prefix}{expected}", float((as_set - chosen_BLX).abs().sum()), 0.0)
    for figure, value in found.items():
        out.check(figure, value, _limit(golden, "features_and_activations_abs"))


def _blocks(method: DMAdapter) -> list[tuple[str, int, MixtureBlock]]:
    """(side, number, block), in the order in which the shares of a batch are."""
    towers = {"visual": method.clip.visual.transformer, "text": method.clip.transformer}
    return [(side, number, block) for side, tower in towers.items() for number, block in enumerate(tower.resblocks)]


@torch.no_grad()
def _loads(golden: Golden, method: DMAdapter, data: Batch) -> None:
    """The balance of each mixture, and how many tokens each expert gets."""
    out, share_BM2X = golden.outputs, method.features(data)["balance"]
    sides = dict.fromkeys(TOWERS, 0.0)
    counts: dict[str, list[int]] = {}
    for index, (side, number, _) in enumerate(_blocks(method)):
        own = balance(share_BM2X[:, index : index + 1])
        sides[side] += own.item()
        out.check(f"l_aux.{side}.{number}", own)
        tokens = {"text": data.tokens["text"].shape[1], "visual": len(method.clip.visual.positional_embedding)}
        counts[f"{side}.{number}"] = (share_BM2X[:, index, 1].sum(0) * tokens[side]).round().int().tolist()
    for side, value in sides.items():
        out.check(f"l_aux.{side}", value)
    routing = golden.config.get("routing", {}).get("tokens_per_expert")
    if routing is not None:
        golden.report.judge(f"{golden.place}config.json:tokens_per_expert", 0.0 if counts == routing else 1.0, 0.0)


def _gradients(golden: Golden, default: DMAdapter, with_id: DMAdapter, data: Batch) -> None:
    balanced = copy.deepcopy(default)
    balanced.config = default.config.model_copy(update={"sdm": 0.0})
    for prefix, method in (("grad.", default), ("grad_aux_only.", balanced), ("grad_with_id.", with_id)):
        method.zero_grad(set_to_none=True)
        _total(method, data).backward()
        own = tools.named_official(method)
        for name in golden.outputs.starting(prefix):
            kind = "gradient_of_alpha_relative" if name.endswith("alpha") else "gradients_relative_to_largest_entry"
            if name in own and (grad := own[name].grad) is not None:
                golden.outputs.gradient(prefix + name, grad, _limit(golden, kind))
    zero = golden.config.get("parameters_with_all_zero_gradient")
    if zero is not None:
        default.zero_grad(set_to_none=True)
        _total(default, data).backward()
        gradients = {name: value.grad for name, value in tools.named_official(default).items()}
        still = {
            name
            for name, grad in gradients.items()
            if default.group_of(default.official.ours(name) or name).rate != "frozen" and grad is not None
            if not grad.any()
        }
        golden.report.judge(f"{golden.place}config.json:zero_gradients", float(still != set(zero)), 0.0)
    for method in (default, with_id):
        method.zero_grad(set_to_none=True)


def _steps(golden: Golden, method: DMAdapter, data: Batch) -> None:
    out, training, trained = golden.outputs, golden.config["training_steps"], copy.deepcopy(method)
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    losses, rates = tools.steps(trained, data, tools.irra_optim(training["lr"]), training["steps"], epochs=60)
    out.check("train.losses", losses, _limit(golden, "train_losses_abs"))
    out.check("train.base_lr", rates, 1e-6, relative=True)
    prefix = f"train.after{training['steps']}."
    tools.parameters(out, prefix, trained, _limit(golden, "parameters_after_3_steps_abs"))
    with torch.no_grad():
        for side, value in trained.features(data).items():
            out.check(f"{prefix}{side}_features", value, _limit(golden, "features_and_activations_abs"))
    frozen = [name for name in before if method.group_of(name).rate == "frozen"]
    moved = [name for name, value in trained.named_parameters() if name in frozen and not value.equal(before[name])]
    golden.report.judge(f"{out.prefix}train.frozen", float(len(moved)), 0.0)


@torch.no_grad()
def _start(golden: Golden, task: Task, data: Batch) -> None:
    """A fresh model over the towers' weights is plain CLIP."""
    method = DMAdapter(_config(golden, golden.config["loss"]["default"]), task)
    method.initialise(torch.Generator().manual_seed(0))
    own = {name for name in golden.weights if any(part in name for part in TRAINED)}
    method.load_weights(
        {name.removeprefix("base_model."): golden.weights[name] for name in golden.weights.keys() - own}
    )
    for side, value in method.features(data).items():
        golden.outputs.check(f"init.{side}_features", value, _limit(golden, "features_and_activations_abs"))


def _optimiser(optim: Figures, method: DMAdapter) -> None:
    """Groups without the parameters that the released code makes and never reads."""
    adam = optim.use("note", "adam")
    section = tools.irra_optim(optim.use("base_lr"), eps=adam["eps"], betas=tuple(adam["betas"]))
    read = [entry for entry in optim.use("groups") if not method.official.drops(entry["name"])]
    tools.groups(Figures({"groups": read}, optim.report, optim.prefix), "groups", method, section)
    factors = optim.use("schedule_multiplier_epochs_1_to_60")
    rates = {"cosine/linear": [section.lr * factor for factor in factors]}
    tools.schedules(Figures(rates, optim.report, f"{optim.prefix}schedule."), section)
