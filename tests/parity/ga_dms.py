"""GA-DMS's golden folders: one of pre-training (importance of words, two masked views) and one of fine-tuning."""

from __future__ import annotations

import copy
from typing import Any

import torch
from parity import files, tools
from parity.check import Figures, Golden
from torch import Tensor

from tbps_cli.losses.contrastive import unit
from tbps_cli.methods.ga_dms import GADMS
from tbps_cli.nn.dual_masking import MaskedViews
from tbps_cli.nn.grad_eclip import relevance, scaled
from tbps_cli.nn.precision import to_half
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.types import Batch, Step, Task

LOSSES = {"sdm": "sdm", "identity": "id", "masked": "mlm"}
"""Our names of the losses -> the golden ones."""
SEEN = 3
"""Samples that the folder keeps of an activation."""


class Given(GADMS):
    """The method with the masks of a golden folder instead of drawn ones, and the scores that each step has found."""

    views: MaskedViews
    found: list[Tensor]

    def use(self, data: Batch) -> Given:
        """Take the masks of a batch, for every draw from now on."""
        tokens, self.found = data.tokens, []
        if self.dual is not None:
            views = MaskedViews(tokens["noise"], tokens["masked"], tokens["label"])
            self.dual.draw = lambda *_: views  # type: ignore[method-assign]
        return self

    def after_step(self) -> None:
        super().after_step()
        if self.dual is not None and self.dual.word_scores is not None:
            self.found.append(self.dual.word_scores.clone())


def check(golden: Golden) -> None:
    model = golden.config["model"]
    data = _batch(golden.inputs)
    task = Task(tuple(model["image_size"]), model.get("num_classes", 0), len(data))
    method = _built(golden, task).use(data)
    _towers(golden, method, data)
    if golden.config["stage"] == "pretrain":
        _importance(golden, method, data)
    _masked_words(golden, method, data)
    for name, value in method(data, Step()).items():
        golden.outputs.loss(f"loss.{LOSSES[name]}", value)
    golden.outputs.loss("total.default", tools.total(method(data, Step())))
    tools.gradients(golden.outputs, "grad_default.", method, tools.total(method(data, Step())))
    _norms(golden.outputs, method, data)
    _steps(golden, method, data)
    _half(golden, method, data)
    if golden.has("optim.json"):
        _optim(golden, method)
    if golden.has("masking.json"):
        files.dual_masking(golden.file("masking.json"))


def _config(golden: Golden) -> GADMS.Config:
    """What `recognise` reads from the weights and the options of a run."""
    model, loss = golden.config["model"], golden.config["loss"]
    options = {
        "nam": True,
        "img_size": list(model["image_size"]),
        "stride_size": model["stride_size"],
        "temperature": model["temperature"],
        "loss_names": loss["default"],
        "id_loss_weight": loss.get("id_loss_weight"),
        "mlm_loss_weight": loss["mlm_loss_weight"],
    }
    config = GADMS.recognise(tools.official_files(golden.weights, options))
    assert config is not None, "the golden weights are not recognised as GA-DMS's"
    # ids of the masked and the whole caption differ in the folder, so that both paths are seen
    update: dict[str, Any] = {"mask_global_text": False}
    if "importance" in golden.config:
        masking = golden.config["masking"]
        update["importance_blocks"] = golden.config["importance"]["blocks"]
        update |= {"informative_limit": masking["mlm"]["most"], "noise_limit": masking["noise"]["most"]}
    return tools.with_heads(config.model_copy(update=update), model)


def _batch(inputs: dict[str, Tensor]) -> Batch:
    tokens = {"text": inputs["caption_ids"], "masked": inputs["mlm_ids"], "label": inputs["mlm_labels"]}
    if "noise_ids" in inputs:
        tokens["noise"] = inputs["noise_ids"]
    return tools.batch({"image": inputs["images"]}, tokens, inputs["pids"], inputs["image_ids"])


def _built(golden: Golden, task: Task) -> Given:
    method = Given(_config(golden), task)
    tensors, unknown = method.official.to_ours(golden.weights)
    if unknown:
        raise ValueError(f"no row of the key table knows {unknown}")
    remembered = {name: value for name, value in method.state_dict().items() if name.startswith("dual.")}
    method.load_state_dict(tensors | remembered)
    return method


@torch.no_grad()
def _towers(golden: Golden, method: Given, data: Batch) -> None:
    """Features of whole captions, as evaluation has them, and the figures of the log."""
    out, image_BCHW, token_BT = golden.outputs, data.images["image"], data.tokens["text"]
    image_BE, text_BE = method.encode_images(image_BCHW), method.encode_texts(token_BT)
    out.check("image_features", method.image_feature(image_BCHW))
    out.check("text_features", method.text_feature(token_BT))
    out.check("image_features_norm", image_BE)
    out.check("text_features_norm", text_BE)
    out.check("similarity_t2i", text_BE @ image_BE.T)
    out.check("act.image_tokens", method.clip.image_tokens(image_BCHW[:SEEN]))
    out.check("act.text_tokens", method.clip.text_tokens(token_BT[:SEEN]))
    tools.persons(out, method, data)


def _importance(golden: Golden, method: Given, data: Batch) -> None:
    """What each word says of its image, with all that leads to it, and what the batch's scores become."""
    out, tolerance = golden.outputs, golden.config["tolerances"]
    features = method.features(data)
    out.check("noise_text_features", features["text"])
    out.check("importance", scaled(features["relevance"]), tolerance["importance"])
    image_BE = method.image_feature(data.images["image"]).detach()
    said = relevance(method.clip, image_BE, data.tokens["text"], blocks=method.config.importance_blocks)
    out.check("act.importance.start_tokens", said.start_BTD[:SEEN])
    out.check("act.importance.text_features", said.text_BE)
    out.check("act.importance.cosine", unit(image_BE) @ unit(said.text_BE).T)
    out.check("act.importance.eos_gradient", said.gradient_NBD)
    out.check("act.importance.key_similarity", said.similarity_NBT)
    out.check("act.importance.eos_attention", said.attention_NBT)
    out.check("act.importance.layers", said.block_NBT, relative=True)


@torch.no_grad()
def _masked_words(golden: Golden, method: Given, data: Batch) -> None:
    out, masked_BT = golden.outputs, data.tokens["masked"]
    image_BPE, text_BTE = method.clip.image_tokens(data.images["image"]), method.clip.text_tokens(masked_BT)
    out.check("act.mlm_text_tokens", text_BTE[:SEEN])
    out.check("mlm_scores_at_labels", method.word_scores(text_BTE, image_BPE, data.tokens["label"]))
    if method.cross is not None:
        out.check("act.cross_former", method.cross(text_BTE[:SEEN], image_BPE[:SEEN]))


def _norms(out: Figures, method: Given, data: Batch) -> None:
    """The length of every parameter's gradient."""
    method.zero_grad(set_to_none=True)
    tools.total(method(data, Step())).backward()
    for name, value in tools.named_official(method).items():
        if f"grad_norm.{name}" in out:
            out.gradient(f"grad_norm.{name}", torch.zeros(()) if value.grad is None else value.grad.norm())
    method.zero_grad(set_to_none=True)


def _steps(golden: Golden, method: Given, data: Batch) -> None:
    training, out = golden.config["training_steps"], golden.outputs
    method = copy.deepcopy(method).use(data)
    section = _optim_section(training["lr"])
    losses, rates = tools.steps(method, data, section, training["steps"], epochs=training["epochs"])
    out.loss("train.losses", losses)
    out.check("train.base_lr", rates, 1e-6, relative=True)
    if method.found:
        out.check("train.importance", torch.stack(method.found), golden.config["tolerances"]["train.importance"])
    tools.parameters(out, f"train.after{training['steps']}.", method)


@torch.no_grad()
def _half(golden: Golden, method: Given, data: Batch) -> None:
    out = golden.outputs
    method = copy.deepcopy(method).use(data)
    to_half(method)
    out.half("fp16.image_features", method.image_feature(data.images["image"]))
    out.half("fp16.text_features", method.text_feature(data.tokens["text"]))
    for name, value in method(data, Step()).items():
        out.half(f"fp16.loss.{LOSSES[name]}", value, relative=True)


def _optim_section(lr: float, **more: Any) -> OptimSection:
    """One rate and one decay for every parameter: the factors of a recipe's `scale` change nothing."""
    return tools.irra_optim(lr, **{"scale": {"new": 5.0, "bias": 2.0}, "weight_decay_bias": 0.0, **more})


def _optim(golden: Golden, method: Given) -> None:
    optim = golden.file("optim.json")
    adam = optim.use("adam")
    given = {"eps": adam["eps"], "betas": tuple(adam["betas"]), "target_lr": float(optim.use("target_lr"))}
    section = _optim_section(optim.use("base_lr"), **given)
    tools.groups(optim, "groups", method, section)
    tools.schedules(optim.sub("lr_per_epoch"), section)
