"""CSKT's golden folder: prompts, adapters, five losses, gradients, two trainings, fewer levels, half precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from parity import tools
from parity.check import Figures, Golden
from torch import Tensor

from tbps_cli.methods.cskt import CSKT, PHRASE, X
from tbps_cli.nn.position import resize_grid
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.prompts import make_room
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Step, Task

LOSSES = {"sdm": "sdm", "itc": "itc", "cmpm": "cmpm", "triplet": "triplet", "identity": "id"}
SEEN = 3
"""Samples that the folder keeps of an activation."""


def check(golden: Golden) -> None:
    model = golden.config["model"]
    data = _batch(golden.inputs)
    task = Task(tuple(model["image_size"]), model["num_classes"])
    every = tools.load(CSKT, _config(golden, "all"), task, golden.weights)
    default = tools.load(CSKT, _config(golden, "default"), task, _without_head(golden.weights))
    _features(golden, every, data)
    tools.losses(golden.outputs, every, data, LOSSES)
    golden.outputs.loss("total.default", tools.total(default(data, Step())))
    _activations(golden, every, data)
    tools.gradients(golden.outputs, "grad_all.", every, tools.total(every(data, Step())))
    tools.gradients(golden.outputs, "grad_default.", default, tools.total(default(data, Step())))
    for name, rate in (("train", 3e-4), ("train_fast", 1e-2)):
        _steps(golden, name, rate, default, data)
    _fewer_levels(golden, task, data)
    _half(golden, default, data)
    _files(golden, every)


def _without_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("classifier.")}


def _config(golden: Golden, losses: str) -> CSKT.Config:
    model, loss = golden.config["model"], golden.config["loss"]
    options = {
        "img_size": list(model["image_size"]),
        "stride_size": model["stride_size"],
        "temperature": model["temperature"],
        "loss_names": loss[losses],
    }
    config = CSKT.recognise(tools.official_files(golden.weights, options))
    assert config is not None, "the golden weights are not recognised as CSKT's"
    scales = {"image_scale": model["adapter_scale_image"], "text_scale": model["adapter_scale_text"]}
    assert (config.n_ctx, config.depth, config.reduction) == (
        model["n_ctx"],
        model["depth"],
        model["adapter_reduction"],
    )
    identity = {"identity": loss["id_loss_weight"]} if config.identity else {}
    return tools.with_heads(config.model_copy(update=scales | identity), model)


def _batch(inputs: dict[str, Tensor]) -> Batch:
    return tools.batch(
        {"image": inputs["images"]}, {"text": inputs["caption_ids"]}, inputs["pids"], inputs["image_ids"]
    )


@torch.no_grad()
def _features(golden: Golden, method: CSKT, data: Batch) -> None:
    out = golden.outputs
    tools.embeddings(out, method, data)
    tools.persons(out, method, data)
    placeholder_K = golden.inputs["prompt_token_ids"][1 : 1 + method.prompts.tokens]
    shifted_BT = make_room(data.tokens["text"], method.prompts.tokens, placeholder_K)
    out.exact("caption_ids_with_prompt", shifted_BT)
    out.exact("text_end_index", shifted_BT.argmax(-1))
    resized = resize_grid(golden.inputs["clip_positional_embedding_src"], method.clip.visual.grid)
    out.check("clip_positional_embedding_resized", resized)


@torch.no_grad()
def _activations(golden: Golden, method: CSKT, data: Batch) -> None:
    out = golden.outputs
    for side, prompts in (("image", method.prompts.image_prompts()), ("text", method.prompts.text_prompts())):
        for level, tokens in enumerate(prompts):
            out.check(f"act.prompts.{side}.layer{level}", tokens)
    few = data.rows(0, SEEN)
    towers = {"image": "clip.visual.transformer", "text": "clip.transformer"}
    names = {"act.image.ln_pre": "clip.visual.ln_pre", "act.image.tokens": "clip.visual"}
    for side, tower in towers.items():
        for block in out.starting(f"act.{side}.block"):
            number, _, part = block.partition(".")
            inside = {"attn": ".attn", "mlp": ".mlp", "adapter": ".adapter_mlp", "": ""}[part]
            names[f"act.{side}.block{block}"] = f"{tower}.resblocks.{number}{inside}"
    embedded = {"act.image.embed": "clip.visual.ln_pre", "act.text.embed": "clip.transformer.resblocks.0"}
    seen: dict[str, Tensor] = {}

    def see(figure: str) -> Callable[..., None]:
        # a hook that returned something would change what the module gets
        return lambda _, given: seen.update({figure: given[0]})

    handles = [
        method.get_submodule(module).register_forward_pre_hook(see(figure)) for figure, module in embedded.items()
    ]

    def run() -> None:
        # all tokens at all 77 positions: the towers themselves, where features need less
        method.clip.image_tokens(few.images["image"], method.prompts.image_hooks())
        shifted = make_room(few.tokens["text"], method.prompts.tokens)
        seen["act.text.tokens"] = method.clip.text_tokens(shifted, method.prompts.text_hooks())

    found = tools.activations(method, names, run)
    for handle in handles:
        handle.remove()
    for figure, value in (found | seen).items():
        out.check(figure, value)


def _steps(golden: Golden, name: str, rate: float, method: CSKT, data: Batch) -> None:
    out, trained = golden.outputs, copy.deepcopy(method)
    before = {key: value.detach().clone() for key, value in tools.named_official(trained).items()}
    count = golden.config["training_steps"]["steps"]
    losses, rates = tools.steps(trained, data, tools.irra_optim(rate), count, epochs=60)
    out.loss(f"{name}.losses", losses, golden.config["tolerance"]["train_losses_relative"])
    out.check(f"{name}.base_lr", rates, 1e-6, relative=True)
    tools.parameters(out, f"{name}.after{count}.", trained)
    after = tools.named_official(trained)
    for key in out.starting(f"{name}.delta{count}."):
        change = after[key].detach() - before[key]
        out.check(
            f"{name}.delta{count}.{key}",
            change,
            golden.config["tolerance"]["delta3_relative_to_largest_entry"],
            relative=True,
        )
    frozen = [key for key in before if trained.group_of(trained.official.ours(key) or key).rate == "frozen"]
    same = all(torch.equal(before[key], after[key]) for key in frozen)
    golden.report.judge(f"{name}.frozen", 0.0 if same else float("inf"), 0.0)


@torch.no_grad()
def _fewer_levels(golden: Golden, task: Task, data: Batch) -> None:
    """The same weights with the first `depth` levels only."""
    depths = {name.partition(".")[0] for name in golden.outputs.starting("variant.depth")}
    for depth in sorted(depths):
        config = _config(golden, "default").model_copy(update={"depth": int(depth)})
        weights = {
            name: value
            for name, value in _without_head(golden.weights).items()
            if not (name.startswith("prompt_learner.compound") and int(name.split(".")[2]) > int(depth) - 2)
        }
        features = tools.load(CSKT, config, task, weights).features(data)
        for side, value in features.items():
            golden.outputs.check(f"variant.depth{depth}.{side}_features", value)


@torch.no_grad()
def _half(golden: Golden, method: CSKT, data: Batch) -> None:
    method = copy.deepcopy(method)
    to_half(method)
    image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
    features = method.features(data)
    golden.outputs.half("fp16.image_features", features["image"])
    golden.outputs.half("fp16.text_features", features["text"])
    golden.outputs.check("fp16.similarity_t2i", text @ image.T, golden.config["tolerance"]["fp16_similarity"])


def _files(golden: Golden, method: CSKT) -> None:
    if golden.has("optim.json"):
        optim = golden.file("optim.json")
        adam = optim.use("order", "target_lr", "adam")
        section = tools.irra_optim(optim.use("base_lr"), eps=adam["eps"], betas=tuple(adam["betas"]))
        tools.groups(optim, "groups", method, section)
        rates = Figures(
            {"cosine/linear": optim.use("lr_per_epoch_base")}, golden.report, "optim.json:lr_per_epoch_base."
        )
        tools.schedules(rates, section)
        half = copy.deepcopy(method)
        to_half(half)
        # the released classifier stays whole; in ours it is a linear layer like any other
        types = {
            name: "f16" if value.dtype == torch.float16 and not name.startswith("classifier.") else "f32"
            for name, value in tools.named_official(half).items()
        }
        optim.exact("released_dtype", {name: types[name] for name in optim.values["released_dtype"]})
    if golden.has("prompt_ids.json"):
        _prompt_ids(golden.file("prompt_ids.json"))


def _prompt_ids(figures: Figures) -> None:
    """Rows of the real vocabulary before and after the placeholders."""
    bpe = Bpe(77, mask=True)
    figures.use("method", "vocab", "note")
    phrase = bpe.encode(figures.use("context_phrase"))
    figures.report.judge("prompt_ids.json:phrase", 0.0 if tuple(phrase) == PHRASE else float("inf"), 0.0)
    placeholders: dict[str, list[int]] = {
        count: [X] * int(count) + list(PHRASE[: int(count)]) for count in figures.values["placeholder_ids"]
    }
    figures.exact("placeholder_ids", placeholders)
    for number, case in enumerate(figures.use("cases")):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        _prompt_row(entry, bpe, placeholders[str(entry.use("n_ctx"))])
        entry.close()


def _prompt_row(entry: Figures, bpe: Bpe, placeholders: list[int]) -> None:
    whole = torch.tensor([_padded(entry.use("ids"), bpe.context)])
    entry.exact("end_before", int(whole.argmax()))
    shifted = make_room(whole, len(placeholders), torch.tensor(placeholders))
    entry.exact("end_after", int(shifted.argmax()))
    expected: Any = entry.use("ids_with_prompt")
    right = shifted[0].tolist() == _padded(expected, bpe.context)
    entry.report.judge(f"{entry.prefix}ids_with_prompt", 0.0 if right else float("inf"), 0.0)
    entry.use("caption")


def _padded(ids: list[int], length: int) -> list[int]:
    return ids + [0] * (length - len(ids))
