"""IRRA's golden folder: features, five losses, gradients, three steps, half precision and its data files."""

from __future__ import annotations

import copy
from typing import Any

import torch
from parity import files, tools
from parity.check import Figures, Golden
from torch import Tensor

from tbps_cli.methods.irra import IRRA
from tbps_cli.nn.precision import to_half
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Step, Task

LOSSES = {"sdm": "sdm", "itc": "itc", "cmpm": "cmpm", "identity": "id", "masked": "mlm"}
"""Our names of the losses -> the golden ones."""
TOWERS = "base_model."
SEEN = 3
"""Samples that the folder keeps of an activation."""


def check(golden: Golden) -> None:
    model = golden.config["model"]
    config = _config(golden, "all")
    task = Task(tuple(model["image_size"]), model["num_classes"])
    method = tools.load(IRRA, config, task, golden.weights)
    data = _batch(golden.inputs)
    tools.embeddings(golden.outputs, method, data)
    tools.persons(golden.outputs, method, data)
    _masked_words(golden, method, data)
    tools.losses(golden.outputs, method, data, LOSSES)
    _activations(golden, method, data)
    default = tools.load(IRRA, _config(golden, "default"), task, golden.weights)
    golden.outputs.loss("total.default", tools.total(default(data, Step())))
    tools.gradients(golden.outputs, "grad_default.", default, tools.total(default(data, Step())))
    tools.gradients(golden.outputs, "grad_all.", method, tools.total(method(data, Step())))
    _steps(golden, default, data)
    _half(golden, method, data)
    _files(golden, task)


def _config(golden: Golden, losses: str) -> IRRA.Config:
    """What `recognise` reads from the weights and the options of a run."""
    model, loss = golden.config["model"], golden.config["loss"]
    options = {
        "img_size": list(model["image_size"]),
        "stride_size": model["stride_size"],
        "temperature": model["temperature"],
        "loss_names": loss[losses],
        "id_loss_weight": loss["id_loss_weight"],
        "mlm_loss_weight": loss["mlm_loss_weight"],
    }
    config = IRRA.recognise(tools.official_files(golden.weights, options))
    assert config is not None, "the golden weights are not recognised as IRRA's"
    # ids of the masked and the whole caption differ in the folder, so that both paths are seen
    update: dict[str, Any] = {"mask_global_text": False}
    return tools.with_heads(config.model_copy(update=update), model)


def _batch(inputs: dict[str, Tensor]) -> Batch:
    tokens = {"text": inputs["caption_ids"], "masked": inputs["mlm_ids"], "label": inputs["mlm_labels"]}
    return tools.batch({"image": inputs["images"]}, tokens, inputs["pids"], inputs["image_ids"])


@torch.no_grad()
def _masked_words(golden: Golden, method: IRRA, data: Batch) -> None:
    if method.cross is not None:
        image_BPE = method.clip.image_tokens(data.images["image"])
        text_BTE = method.clip.text_tokens(data.tokens["masked"])
        scores = method.word_scores(text_BTE, image_BPE, data.tokens["label"])
        golden.outputs.check("mlm_scores_at_labels", scores)


@torch.no_grad()
def _activations(golden: Golden, method: IRRA, data: Batch) -> None:
    few = data.rows(0, SEEN)
    names = {
        "act.visual.ln_pre": "clip.visual.ln_pre",
        "act.image_tokens": "clip.visual",
        "act.cross_attn": "cross.cross_attn",
        "act.cross_former": "cross",
    }
    wanted = golden.outputs.starting("act.visual.resblocks.")
    names |= {f"act.visual.resblocks.{block}": f"clip.visual.transformer.resblocks.{block}" for block in wanted}
    for figure, value in tools.activations(method, names, lambda: method.features(few)).items():
        golden.outputs.check(figure, value)
    blocks = golden.outputs.starting("act.text.resblocks.")
    names = {f"act.text.resblocks.{block}": f"clip.transformer.resblocks.{block}" for block in blocks}
    caption = few.tokens["text"]
    for figure, value in tools.activations(method, names, lambda: method.clip.text_tokens(caption)).items():
        golden.outputs.check(figure, value)
    golden.outputs.check("act.text_tokens", method.clip.text_tokens(caption))


def _steps(golden: Golden, method: IRRA, data: Batch) -> None:
    training = golden.config["training_steps"]
    method = copy.deepcopy(method)
    losses, rates = tools.steps(method, data, tools.irra_optim(training["lr"]), training["steps"], epochs=60)
    golden.outputs.loss("train.losses", losses)
    golden.outputs.check("train.base_lr", rates, 1e-6, relative=True)
    tools.parameters(golden.outputs, f"train.after{training['steps']}.", method)


@torch.no_grad()
def _half(golden: Golden, method: IRRA, data: Batch) -> None:
    method = copy.deepcopy(method)
    to_half(method)
    features = method.features(data)
    golden.outputs.half("fp16.image_features", features["image"])
    golden.outputs.half("fp16.text_features", features["text"])
    for name, value in method.losses(features, data, Step()).items():
        golden.outputs.half(f"fp16.loss.{LOSSES[name]}", value, relative=True)


def _files(golden: Golden, task: Task) -> None:
    bpe = Bpe(77, mask=True)
    if golden.has("optim.json"):
        optim = golden.file("optim.json")
        adam = optim.use("adam")
        given = {"eps": adam["eps"], "betas": tuple(adam["betas"]), "target_lr": float(optim.use("target_lr"))}
        section = tools.irra_optim(optim.use("base_lr"), **given)
        tools.groups(optim, "groups", IRRA(_config(golden, "default"), task), section)
        tools.schedules(optim.sub("lr_per_epoch"), section)
    if golden.has("clip_init.safetensors"):
        _clip_init(golden, task)
    if golden.has("tokenizer.json"):
        files.tokenizer(golden.file("tokenizer.json"), bpe)
    if golden.has("mlm_masking.json"):
        files.masking(golden.file("mlm_masking.json"), bpe)
    if golden.has("metrics.json"):
        files.metrics(golden.file("metrics.json"))
    if golden.has("transforms.safetensors"):
        files.transforms(golden.file("transforms.safetensors"), golden.file("transforms.json"))


def _clip_init(golden: Golden, task: Task) -> None:
    """A CLIP state on its own grid, with its extra scalars, starts the towers as the golden weights are."""
    extra = golden.file("clip_init.safetensors").use_all()
    towers = {name.removeprefix(TOWERS): value for name, value in golden.weights.items() if name.startswith(TOWERS)}
    method = IRRA(_config(golden, "default"), task)
    method.load_weights(towers | extra)
    state = method.clip.state_dict()
    expected = Figures(towers, golden.report, f"{golden.place}clip_init.safetensors:")
    for name in towers:
        expected.check(name, state[name])
