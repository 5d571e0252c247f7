"""The usual way to train IRRA's family, written out for `scripts/bench train` and `text`.

What the released codes of IRRA and its descendants do, in plain PyTorch, on the weights of one of our methods:

* every image opened, resized, flipped, padded, cropped, normalised and partly erased by torchvision in two worker
  processes (IRRA's default is eight), every caption tokenised and masked again each time it comes;
* attention as a product, a mask, a softmax and a product; all 77 places of every caption, and all tokens in the last
  block too;
* IRRA: the text tower twice (the captions, then the masked captions, which masking in place has made the same), and
  scores over the whole vocabulary at all 77 places before the loss ignores those without a label;
* the optimiser's loop over parameters, a group for each; the value of every loss read at every step.

What is not in it, or is in its favour: the tokenizer is ours (open_clip's takes 0.1 ms a caption more), reading and
masking use our functions, PyTorch is today's. Where a method scores masked words other than IRRA, mixes experts or
selects tokens, both sides do it as we do. The released codes' meters, logs and their needless figures are left out.
Today's `nn.MultiheadAttention` would call a fused kernel where the PyTorch of the papers' time (1.9) computed the
plain steps; so the attention here is that of their time. In float32 TF32 is off.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from benchmarks import data
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from tbps_cli import methods
from tbps_cli.augment.exact import CLIP_TRAIN
from tbps_cli.engine import optim
from tbps_cli.engine.experiment import Experiment
from tbps_cli.methods.base import Method, Views
from tbps_cli.methods.irra import IRRA
from tbps_cli.nn import text_tower
from tbps_cli.nn.block import Hooks
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.vit import VisionTransformer
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.text.masking import mask_words
from tbps_cli.text.word_changes import augment_ids
from tbps_cli.types import Batch, Features, Step

FAMILY = ("irra", "clip", "cskt", "dm_adapter", "php", "comoe", "rde")
PRECISIONS = ("fp32", "fp16", "fp16-pure")
"""float32; autocast with a gradient scaler; half weights without either, as IRRA's released code trains."""
WORKERS = 2


def refusal(parts: Experiment) -> str | None:
    """Why the usual way of this recipe is not written out here; None when it is."""
    name, views = parts.recipe.method.name, views_of(parts)
    plain = dict(views.images) == {"image": CLIP_TRAIN} and views.augment_text in (None, "vary")
    if name not in FAMILY or not plain or not parts.recipe.data.augment:
        return f"{name} with these settings is not of IRRA's family"
    if parts.recipe.train.precision == "fp16-pure":
        return "ours in fp16-pure has no float32 weights to compare"
    if parts.recipe.train.accumulate > 1 or parts.recipe.train.chunk or parts.recipe.train.checkpointing:
        return "the released codes have no accumulation, chunks or checkpointing"
    return None


def views_of(parts: Experiment) -> Views:
    """What the method wants of a batch."""
    return methods.find(parts.recipe.method.name).views(parts.recipe.method)


# The towers ---------------------------------------------------------------------------------------


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """[B, H, L, K] each: what PyTorch's fused kernel computes, in plain steps."""
    score = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if attn_mask is not None:
        score = score.masked_fill(~attn_mask, float("-inf"))
    if is_causal:
        score = score + causal_mask(score.shape[-1], score.dtype, score.device)
    return score.softmax(-1) @ value


@cache
def causal_mask(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[T, T], minus infinity strictly above the diagonal; made once, as CLIP does."""
    return torch.full((count, count), float("-inf"), dtype=dtype, device=device).triu(1)


def plain_attention() -> AbstractContextManager[object]:
    """While open, attention is computed in plain steps (and PyTorch's flop counter sees it on the CPU too)."""
    return patch.object(F, "scaled_dot_product_attention", attention)


@contextmanager
def written_out() -> Iterator[None]:
    """While open, our methods compute with plain attention, and every block at all places of every row."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("tbps_cli.")]
    cut = text_tower.used
    with ExitStack() as stack:
        stack.enter_context(plain_attention())
        for module in modules:
            if getattr(module, "used", None) is cut:
                stack.enter_context(patch.object(module, "used", lambda token_BT: token_BT))
        stack.enter_context(patch.object(VisionTransformer, "first", first_of_all))
        stack.enter_context(patch.object(text_tower.TextTower, "end_token", end_of_all))
        yield


def first_of_all(tower: VisionTransformer, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
    """The class token, after all tokens have passed the last block and the projection."""
    return tower(image_BCHW, hooks)[:, 0]


def end_of_all(tower: text_tower.TextTower, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
    """The captions' end tokens, after all tokens have passed the last block and the projection."""
    return text_tower.at_end(tower.text_tokens(token_BT, hooks), token_BT)


def features(method: Method, batch: Batch) -> Features:
    """What the losses need, as the released code computes it; call it within `written_out`."""
    if isinstance(method, IRRA) and method.cross is not None and method.mlm_head is not None:
        return irra_features(method, batch)
    return method.features(batch)


def irra_features(method: IRRA, batch: Batch) -> Features:
    """IRRA's forward pass: both towers, the text tower again on the masked captions, all scores."""
    assert method.cross is not None and method.mlm_head is not None
    masked_BT, label_BT = batch.tokens["masked"], batch.tokens["label"]
    caption_BT = masked_BT if method.config.mask_global_text else batch.tokens["text"]
    image_BPE = method.clip.image_tokens(batch.images["image"])
    text_BE = text_tower.at_end(method.clip.text_tokens(caption_BT), caption_BT)
    known_BTE = method.cross(method.clip.text_tokens(masked_BT), image_BPE)
    score_RV = method.mlm_head(known_BTE).float().flatten(0, 1)
    cost_R = F.cross_entropy(score_RV, label_BT.flatten(), ignore_index=0, reduction="none")
    right_R = (score_RV.argmax(1) == label_BT.flatten()) & (label_BT.flatten() != 0)
    return {
        "image": image_BPE[:, 0].float(),
        "text": text_BE.float(),
        "masked_cost": cost_R.view_as(label_BT).sum(1),
        "masked_hits": right_R.view_as(label_BT).sum(1).float(),
    }


# The step -----------------------------------------------------------------------------------------


def optimizer(method: Method, section: OptimSection) -> Optimizer:
    """The recipe's optimiser as a loop over parameters, each a group of its own."""
    found = optim.settings(method, section)
    groups = [
        {"params": [parameter], "lr": found[name].lr, "weight_decay": found[name].weight_decay}
        for name, parameter in method.named_parameters()
        if parameter.requires_grad
    ]
    if section.kind == "sgd":
        return SGD(groups, lr=section.lr, momentum=section.momentum, foreach=False, fused=False)
    kind = Adam if section.kind == "adam" else AdamW
    return kind(groups, lr=section.lr, betas=section.betas, eps=section.eps, foreach=False, fused=False)


class Usual:
    """A method under training, the usual way. In fp16-pure the weights are half copies, else the method's own."""

    name, keeps_memory = "usual", False

    def __init__(self, method: Method, parts: Experiment, precision: str = "fp32") -> None:
        self.recipe, self.precision, self.device = parts.recipe, precision, parts.device
        self.method = copy.deepcopy(method) if precision == "fp16-pure" else method
        if precision == "fp16-pure":
            to_half(self.method)
        self.optimizer = optimizer(self.method, parts.recipe.optim)
        self.scaler = torch.amp.GradScaler(parts.device.type, enabled=precision == "fp16")
        self.loader = loader(parts)

    def batches(self) -> Generator[Batch]:
        """Batches without end from new worker processes."""
        for made in self.loader:
            yield assembled(made)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; the losses as numbers."""
        self.method.before_step()
        losses = self.backward(batch)
        if self.recipe.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.optim.clip_norm, foreach=False)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step()
        return {name: value.item() for name, value in losses.items()}

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses, and fresh gradients of the parameters."""
        batch = batch.to(self.device)
        with written_out(), exact(), self._autocast():
            found = features(self.method, batch)
        with exact():
            losses = self.method.losses({name: floating(value) for name, value in found.items()}, batch, Step())
            self.optimizer.zero_grad()
            self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.float16) if self.precision == "fp16" else nullcontext()


def floating(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def exact() -> Iterator[None]:
    """While open, float32 products on CUDA are float32 products."""
    places: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


# The data -----------------------------------------------------------------------------------------


class Samples(torch.utils.data.Dataset[Any]):
    """A training sample as the papers' code makes it: image, caption, masked caption, labels, person."""

    def __init__(self, parts: Experiment) -> None:
        self.pairs = data.Usual(parts.train, data.usual_transform(parts.recipe.data.image_size))
        tokenizer: Any = parts.tokenizer  # with IRRA's mask
        self.pairs.tokenizer = self.tokenizer = tokenizer
        self.split, self.views = parts.train, views_of(parts)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, text_T = self.pairs[index]
        tokens = {"text": text_T}
        if self.views.augment_text is not None:
            tokens["text"] = torch.tensor(augment_ids("vary", text_T.tolist(), random.Random(), **self._special()))
        if self.views.masked:
            masked, label = mask_words(tokens["text"].tolist(), random.Random(), **self._special())
            tokens |= {"masked": torch.tensor(masked), "label": torch.tensor(label)}
        number = int(self.split.caption_image[index])
        person = int(self.split.class_of[number])
        return {"image": image, "tokens": tokens, "person": person, "number": number, "sample": index}

    def _special(self) -> dict[str, int]:
        return {"mask": self.tokenizer.mask_id, "first_special": self.tokenizer.mask_id}


def loader(parts: Experiment) -> torch.utils.data.DataLoader[Any]:
    """Batches without end, so that no round waits for the start of an epoch."""
    samples = Samples(parts)
    batch = parts.recipe.train.batch
    order = torch.utils.data.RandomSampler(samples, replacement=True, num_samples=batch * 100_000)
    return torch.utils.data.DataLoader(samples, batch, sampler=order, num_workers=WORKERS)


def assembled(made: dict[str, Any]) -> Batch:
    return Batch({"image": made["image"]}, made["tokens"], made["person"], made["number"], made["sample"])
