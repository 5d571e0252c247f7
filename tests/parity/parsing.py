"""What the golden folders of PHP and CoMoE have in common: they come from one reference, names and all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from parity import tools
from parity.check import Figures, Golden
from torch import Tensor

from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.losses.balance import balance
from tbps_cli.methods.base import Method
from tbps_cli.nn.moe import ExpertMixture, collect_shares, rank_of
from tbps_cli.nn.position import resize_grid
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.types import Batch, Step

LOSSES = {
    "sdm": "sdm_loss",
    "itc": "itc_loss",
    "balance": "aux_loss",
    "cmpm": "cmpm_loss",
    "identity": "id_loss",
    "masked": "mlm_loss",
}
"""Our names of the losses -> the golden ones."""
PLAIN: dict[str, Any] = {"expert_dropout": 0.0, "mask_global_text": False}
"""The folders were made without dropout, and masked captions feed the masked words alone."""
TIGHT, LOOSE = 1e-5, 2e-2
"""Relative; a token that flips its expert moves a loss after a few steps, not before."""
RULES = {"released_2026_02": {}, "until_2026_02": {"transformer": 1.5, "experts": 2.0}}
"""The released rule, and the older one with the factors of the folder's note."""


def options(golden: Golden) -> dict[str, Any]:
    """config.json as the options of a run."""
    model, loss = golden.config["model"], golden.config["loss"]
    return {
        "img_size": list(model["image_size"]),
        "stride_size": model["stride_size"],
        "temperature": model["temperature"],
        "moe_heads": model["moe_heads"],
        "topk": model["topk"],
        "loss_names": loss["loss_names"],
        "aux_factor": loss["aux_factor"],
    }


def batch(inputs: Mapping[str, Tensor]) -> Batch:
    tokens = {"text": inputs["caption_ids"]}
    if "mlm_ids" in inputs:
        tokens |= {"masked": inputs["mlm_ids"], "label": inputs["mlm_labels"]}
    return tools.batch({"image": inputs["images"]}, tokens, inputs["pids"], inputs["image_ids"])


@torch.no_grad()
def features(out: Figures, prefix: str, models: Mapping[str, Any], data: Batch) -> None:
    for name, method in models.items():
        found = method.eval().features(data)
        method.train()
        out.check(f"{prefix}image_features.{name}", found["image"])
        out.check(f"{prefix}text_features.{name}", found["text"])


def losses(out: Figures, prefix: str, method: Method, data: Batch) -> None:
    """Each loss, their sum, the accuracies and the gradients of the sum."""
    found = method(data, Step())
    for name, value in found.items():
        out.loss(f"{prefix}{LOSSES[name]}", value)
    total = tools.total(found)
    out.loss(f"{prefix}total_loss", total)
    for name, value in method.metrics(method.features(data), data).items():
        out.check(prefix + name, value)
    tools.gradients(out, f"{prefix}grad.", method, total, 1e-4)


@torch.no_grad()
def chunks(out: Figures, method: Any, data: Batch) -> None:
    """Features from consecutive chunks of the batch, where attention runs over the items of a chunk."""
    for size in sorted({int(name.split(".")[0]) for name in out.starting("batch_of_")}):
        pieces = [method.features(data.rows(start, start + size)) for start in range(0, len(data), size)]
        for side in ("image", "text"):
            out.check(f"batch_of_{size}.{side}_features.whole", torch.cat([piece[side] for piece in pieces]))


@torch.no_grad()
def similarity(out: Figures, method: Any, data: Batch) -> None:
    found = method.encode_texts(data.tokens["text"]) @ method.encode_images(data.images["image"]).T
    out.check("similarity.whole", found)
    out.check("temperature", method.config.temperature)
    tools.ranked(out, found, data.person_B)


@torch.no_grad()
def tokens(out: Figures, method: Any, data: Batch) -> tuple[Tensor, Tensor]:
    """The towers' tokens of images and captions."""
    image_BPE = method.clip.image_tokens(data.images["image"])
    text_BTE = method.clip.text_tokens(data.tokens["text"])
    out.check("act.clip.image_tokens", image_BPE)
    out.check("act.clip.text_tokens", text_BTE)
    return image_BPE, text_BTE


@torch.no_grad()
def activations(out: Figures, method: Any, parser: str, data: Batch) -> None:
    """Inside the blocks: attention, gate logits, choice, mixture, what leaves the block, cumulative balance."""
    image_BPE, text_BTE = tokens(out, method, data)
    calls = {
        "image": lambda: method.parts.image_feature(image_BPE),
        "text": lambda: method.parts.text_feature(text_BTE, data.tokens["text"]),
    }
    blocks = method.get_submodule(f"{parser}.resblocks")
    for side, call in calls.items():
        seen: dict[str, Any] = {}
        handles = [_watch(block, number, seen) for number, block in enumerate(blocks)]
        with collect_shares(method) as shares:
            call()
        for block_handles in handles:
            for handle in block_handles:
                handle.remove()
        for number in range(len(blocks)):
            _compare(out, f"act.efp.{number}", side, blocks[number].feed_forward, seen, number, shares)


def _watch(block: Any, number: int, seen: dict[str, Any]) -> list[Any]:
    parts = {"attn": block.attn, "moe": block.feed_forward, "before_mlp": block.ln_2, "mlp": block.mlp}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, given, result: seen.update({f"{number}.{name}": result, f"{number}.{name}.in": given})

    return [part.register_forward_hook(keep(name)) for name, part in parts.items()]


def _compare(
    out: Figures,
    prefix: str,
    side: str,
    mixture: ExpertMixture,
    seen: dict[str, Any],
    number: int,
    shares: list[Tensor],
) -> None:
    moe, given = seen[f"{number}.moe"], seen[f"{number}.moe.in"]
    logit_BLX = mixture.logits(*given)
    out.check(f"{prefix}.attn.{side}", seen[f"{number}.attn"].transpose(0, 1))
    out.check(f"{prefix}.gate_logits.{side}", logit_BLX)
    out.exact(f"{prefix}.selected_experts.{side}", rank_of(logit_BLX).argsort(-1)[..., : mixture.top_k])
    out.check(f"{prefix}.moe.{side}", moe)
    out.check(f"{prefix}.moe.{side}.l_aux", balance(shares[number][:, None]))
    out.check(f"{prefix}.{side}.l_aux_cumulative", balance(torch.stack(shares[: number + 1], 1)))
    out.check(f"{prefix}.{side}", seen[f"{number}.before_mlp.in"][0] + seen[f"{number}.mlp"] + moe)


def position_table(golden: Golden, method: Any) -> None:
    source = golden.inputs.get("clip_positional_embedding_src")
    if source is not None:
        golden.outputs.check("clip_positional_embedding_resized", resize_grid(source, method.clip.visual.grid))


def files(golden: Golden, build: Callable[[], Method], data: Batch) -> None:
    """optim.json: groups and four steps under each rule, and the schedule."""
    if not golden.has("optim.json"):
        return
    optim = golden.file("optim.json")
    optim.use("note")
    rules = optim.sub("rules")
    for name in list(rules):
        rule, section = rules.sub(name), _optim(RULES[name])
        _groups(rule, build(), section)
        _steps(rule, build(), section, data)
    factors = optim.values["schedule_multiplier_epochs_1_to_60"]
    ours = [schedule.factor(_optim({}), len(factors), epoch) for epoch in range(len(factors))]
    optim.check("schedule_multiplier_epochs_1_to_60", ours, 1e-9)


def _optim(extra: Mapping[str, float]) -> OptimSection:
    return tools.irra_optim(1e-3, scale={"new": 5.0, "bias": 2.0, **extra})


def _groups(rule: Figures, method: Method, section: OptimSection) -> None:
    """Factor and decay of every parameter; a table that nothing reads is in theirs only."""
    table = rule.use("group_lr_multiplier_and_weight_decay")
    entries = [
        {"name": name, "lr": section.lr * factor, "weight_decay": decay}
        for name, (factor, decay) in table.items()
        if not method.official.drops(name)
    ]
    tools.groups(Figures({"groups": entries}, rule.report, rule.prefix), "groups", method, section)


def _steps(rule: Figures, method: Method, section: OptimSection, data: Batch) -> None:
    """Losses before each step of Adam on the one batch, the schedule moving an epoch a step."""
    expected = rule.use("losses_before_steps_0_to_3")
    optimizer = engine_optim.build(method, section)
    for number, values in enumerate(expected):
        at = Step(epoch=number, epochs=60)
        schedule.set_rates(optimizer, section, at)
        found = method(data, at)
        total = tools.total(found)
        figures = Figures(values, rule.report, f"{rule.prefix}losses_before_steps.{number}.")
        for name, value in found.items():
            figures.loss(LOSSES[name], value, TIGHT if number < 2 else LOOSE)
        figures.loss("total_loss", total, TIGHT if number < 2 else LOOSE)
        figures.close()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
