"""ECCL: a frozen CLIP with LoRA and prompts, trained against memories of all persons and of all images.

Released code github.com/hhh10/ECCL of 2025; it names neither title nor authors. Differences from it: weights and
LoRA's matrices stay apart while training (its files hold both, with the products in the weights already), the frozen
weights are never touched; memories are kept for `--resume`, start from one pass over the pairs instead of two, and
know the person of every image; a row of the triplet loss without negatives has no gradient instead of NaN; captions of
one word are left alone. The towers may have any sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor, nn

from tbps_cli import distributed
from tbps_cli.losses.contrastive import sdm
from tbps_cli.losses.memory import memory_contrast, memory_identity
from tbps_cli.losses.ranking import tal
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.base import Views
from tbps_cli.methods.config import Lora, LoraConfig
from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.lora import with_products
from tbps_cli.nn.memory_bank import MemoryBank
from tbps_cli.nn.prompts import TextPrompts, make_room
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.section import Count, Positive, Share, Weight
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

ALPHA = 4.0
"""`lora_alpha` of the published command, for files without their options."""
OPTIONS = {
    "stride": ("stride_size", int),
    "tau": ("tau", float),
    "temp": ("temp", float),
    "temp_instance": ("temp_instance", float),
}
"""Our keys that no tensor tells -> options of the released code. Its `margin` and `temperature` reach nothing."""


class Renewal(NamedTuple):
    """What a step leaves in the memories: embeddings before normalisation, and whose they are."""

    image_BE: Tensor
    text_BE: Tensor
    person_B: Tensor
    image_B: Tensor


class ECCL(LoraMethod):
    """Two frozen towers; LoRA's matrices and prompts are trained."""

    class Config(LoraConfig):
        """`[method]`; a loss of weight 0 is not computed."""

        stride: Count | None = None
        """Pixels between patches; the patch size when left out."""
        num_context: Count = 4
        """Prompt tokens of a layer; captions lose as many places."""
        prompt_depth: Count = 12
        """Layers that get prompts of their own, from the first."""
        tau: Positive = 0.02
        """Softness of the triplet's maximum over negatives, in units of the cosine."""
        margin: Weight = 0.2
        """Of the triplet, in units of the cosine."""
        temp: Positive = 0.03
        """Divides the cosines with the persons' memory."""
        temp_instance: Positive = 0.015
        """Divides the cosines with the images' memory."""
        momentum: Share = 0.1
        """Share of the old row that a renewal of the persons' memory leaves: a tenth, not nine."""
        instance_momentum: Share = 0.1
        """The same of the images' memory."""
        tal: Weight = 1.0
        memory: Weight = 1.0
        """Of finding the person in the persons' memory, in each direction."""
        instance_memory: Weight = 0.1
        """Of finding the person's images in the images' memory, in each direction."""
        sdm: Weight = 0.0
        """Similarity distribution matching at CLIP's own temperature; no published recipe uses it."""
        delete_words: Share = 0.1
        """Share of a training caption's words that fall out."""

        @model_validator(mode="after")
        def _possible(self) -> ECCL.Config:
            sizes = self.need_vit()
            if sizes.context - self.num_context < 2:
                raise ValueError(f"num_context: {self.num_context} leaves no word of the {sizes.context} places")
            return self

    paper = "ECCL, code of 2025 (github.com/hhh10/ECCL; it names no title and no authors)"
    official = KeyTable(
        {
            r"prompt_learner\.(.*)": r"prompts.\1",
            r"image_encoder\.(.*)\.attn\.lora_(A|B)_o": r"clip.visual.\1.attn.out_proj.lora_\2",
            r"text_encoder\.(.*)\.attn\.lora_(A|B)_o": r"clip.\1.attn.out_proj.lora_\2",
            r"image_encoder\.(.*)": r"clip.visual.\1",
            r"clip_model\.token_embedding\.weight": r"clip.token_embedding.weight",
            r"text_encoder\.(.*)": r"clip.\1",
            r"logit_scale": r"logit_scale",
            # everything else of `clip_model` is saved a second time
            r"clip_model\.logit_scale": r"logit_scale",
            r"clip_model\.(.*)\.attn\.lora_(A|B)_o": r"clip.\1.attn.out_proj.lora_\2",
            r"clip_model\.(.*)": r"clip.\1",
        }
    )
    checkpoint_only = ("person_memory.", "image_memory.", "image_person", "filled")
    training_only = checkpoint_only
    config: Config
    filled: Tensor
    """Whether the memories hold their start."""
    image_person: Tensor
    """The person of each training image, [M]."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes
        self.clip = self.adapted(Clip(sizes, task.image_size, stride=config.stride))
        self.prompts = TextPrompts(config.num_context, config.prompt_depth, sizes.width, sizes.text_width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100)))
        self.person_memory = self.image_memory = None
        if task.identities and task.image_persons:
            self.person_memory = MemoryBank(task.identities, sizes.embed)
            self.image_memory = MemoryBank(len(task.image_persons), sizes.embed)
            self.register_buffer("image_person", torch.tensor(task.image_persons))
            self.register_buffer("filled", torch.tensor(False))
        self.renewals: list[Renewal] = []

    @classmethod
    def tokenizer(cls, config: Config) -> Bpe:
        return Bpe(config.sizes.context, mask=True, kept_free=config.num_context)

    @classmethod
    def views(cls, config: Config) -> Views:
        if not config.delete_words:
            return Views()
        return Views(augment_text="delete", text_options={"share": config.delete_words})

    @classmethod
    def places_taken(cls, config: Config) -> int:
        return config.num_context

    def image_feature(self, image_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, E] float32, not normalised."""
        return image_feature(self.clip, image_BCHW, self.prompts.image_hooks())

    def text_feature(self, token_BT: Tensor) -> Tensor:
        """[B, T] ids as the tokenizer gives them -> [B, E] float32, not normalised."""
        return text_feature(self.clip, make_room(token_BT, self.prompts.tokens), self.prompts.text_hooks())

    # Training -----------------------------------------------------------------------------

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe. Source: the released code, which sums the triplet over the batch."""
        image_BE, text_BE, person_B, c = features["image"], features["text"], batch.person_B, self.config
        losses = {}
        if c.tal:
            losses["tal"] = c.tal * tal(image_BE, text_BE, person_B, tau=c.tau, margin=c.margin).sum()
        if c.sdm:
            temperature = (-self.logit_scale.detach().float()).exp()
            losses["sdm"] = c.sdm * sdm(image_BE, text_BE, person_B, temperature=temperature)
        if self.person_memory is None or self.image_memory is None:
            return losses
        # learned when the gradients have been taken: until then the memories are constants
        self.renewals.append(Renewal(image_BE.detach(), text_BE.detach(), person_B, batch.image_B))
        if c.memory:
            for way, x_BE, memory_CE in _ways(image_BE, text_BE, self.person_memory):
                loss = memory_identity(x_BE, memory_CE, person_B, temperature=c.temp)
                losses[f"memory_{way}"] = c.memory * loss
        if c.instance_memory:
            for way, x_BE, memory_ME in _ways(image_BE, text_BE, self.image_memory):
                loss = memory_contrast(x_BE, memory_ME, person_B, self.image_person, temperature=c.temp_instance)
                losses[f"instance_memory_{way}"] = c.instance_memory * loss
        return losses

    def before_step(self) -> None:
        """What losses noted outside of a step (when a batch is measured) is forgotten."""
        self.renewals.clear()

    def after_step(self) -> None:
        """The memories learn what the step has seen, in batch order."""
        for seen in self.renewals:
            assert self.person_memory is not None and self.image_memory is not None
            pair = (seen.image_BE, seen.text_BE)
            self.person_memory.renew(*pair, seen.person_B, kept=self.config.momentum)
            self.image_memory.renew(*pair, seen.image_B, kept=self.config.instance_momentum)
        self.renewals.clear()

    @torch.no_grad()
    def start_epoch(self, pass_over: Iterator[tuple[Features, Batch]], draws: torch.Generator) -> None:
        """Before the first epoch, fill the memories: the mean direction of each person and of each image.

        Sums of embeddings before normalisation, as released. Summed on the CPU, in the order of the pass: there the
        result is the same in every process and every time.
        """
        if self.person_memory is None or self.image_memory is None or self.filled:
            return
        memories = (self.person_memory, self.image_memory)
        sums = [{side: torch.zeros(memory.image.shape) for side in ("image", "text")} for memory in memories]
        for features, batch in pass_over:
            for found, row_B in zip(sums, (batch.person_B.cpu(), batch.image_B.cpu()), strict=True):
                for side, sum_ME in found.items():
                    sum_ME.index_add_(0, row_B, features[side].float().cpu())
        for memory, found in zip(memories, sums, strict=True):
            memory.fill(found["image"], found["text"])
        self.filled.fill_(True)
        distributed.broadcast([*self.person_memory.buffers(), *self.image_memory.buffers()])

    def group_of(self, name: str) -> Group:
        """CLIP is frozen with and without LoRA; biases are trained like weights."""
        if name.startswith("clip.") or name == "logit_scale":
            return self.lora_group(name) or Group("frozen")
        return Group()

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def received(cls, config: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The products are in the weights of a released file already, beside the matrices: taken out again.

        Left in, they would count twice: it loads without a word, and ranks differ.
        """
        return with_products(state, -config.lora.scale)

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """ECCL's when the file has its prompts and LoRA's matrices; sizes from shapes, constants from options."""
        mapped = files.under(cls.official)
        first = "clip.visual.transformer.resblocks.0.attn.lora_A_q"
        if mapped.unknown or not {"prompts.proj.weight", "prompts.ctx", first} <= mapped.ours.keys():
            return None
        config = _config(mapped.ours, files)
        return config if cls.fits(files, config) else None


def _ways(image_BE: Tensor, text_BE: Tensor, memory: MemoryBank) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """Each direction: its name, the embeddings, and what they are compared with: the memory of the other side."""
    return ("i2t", image_BE, memory.text), ("t2i", text_BE, memory.image)


def _config(ours: Mapping[str, Tensor], files: OfficialFiles) -> ECCL.Config:
    names = files.losses("TAL+memory+instance_memory")
    first = "clip.visual.transformer.resblocks.0.attn.lora_A_q"
    values: dict[str, Any] = {
        "tal": float("TAL" in names),
        "memory": float("memory" in names) * float(files.number("lamda1") or 1.0),
        "instance_memory": float("instance_memory" in names) * float(files.number("lamda2") or 0.1),
        "sdm": float("sdm" in names),
    }
    for key in ("momentum", "instance_momentum"):
        share = files.number(key)
        if share is not None and share <= 1:
            values[key] = float(share)
    return ECCL.Config(
        name="eccl",
        tower=named(read_sizes(ours, prefix="clip.")),
        num_context=len(ours["prompts.ctx"]),
        prompt_depth=1 + sum(name.startswith("prompts.compound_prompts_text.") for name in ours),
        lora=Lora(rank=len(ours[first]), alpha=float(files.number("lora_alpha") or ALPHA)),
        **values,
        **files.numbers(OPTIONS),
    )
