"""CSKT: a frozen CLIP with prompts that cross between the towers, and adapters beside every MLP.

Yating Liu, Yaowei Li, Zimo Liu, Wenming Yang, Yaowei Wang, Qingmin Liao, "CLIP-based Synergistic
Knowledge Transfer for Text-based Person Retrieval", ICASSP 2024, arXiv 2309.09496. Differences from
the released code: room for the prompts is made by a pure function (theirs shifts a batch twice when
it is used twice); the stride reaches the convolution; widths come from the towers, not from ViT-B;
checkpoints are written; `ctx_init = "clip"` offers the start that was meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.adapters import AdapterBlock
from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.heads import Classifier
from tbps_cli.nn.prompts import PromptBank, make_room
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.section import Count, Positive, Weight
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

PHRASE = (320, 1125, 539, 320, 2533, 541, 320, 18256)
"""Ids of "a photo of a person or a pedestrian", in CLIP's vocabulary."""
X = 343
"""Id of the letter x, of which the released code makes its placeholders."""
VOCABULARY = 49408
"""Rows of CLIP's word table: `ctx_init = "clip"` means these words."""

OPTIONS = {"stride": ("stride_size", int), "temperature": ("temperature", float)}
"""Our keys that no tensor tells -> options of the released code."""


class CSKT(LoraMethod):
    """Two frozen towers; prompts, adapters and their norms are trained."""

    class Config(LoraConfig):
        """`[method]`; a loss of weight 0 is not computed."""

        stride: Count | None = None
        """Pixels between patches; the patch size when left out."""
        temperature: Positive = 0.02
        n_ctx: Annotated[int, Field(ge=1, le=8)] = 4
        """Tokens learned on each side; a layer gets twice as many. More than 8 break the released code."""
        depth: Count = 12
        """Layers that get prompts of their own, from the first."""
        ctx_init: Literal["random", "clip"] = "random"
        """How the first text prompts start: as released, or from the phrase that was meant."""
        reduction: Count = 8
        """Width of a tower over the width inside its adapters."""
        image_scale: Positive = 0.1
        text_scale: Positive = 4.0
        """What adapters are multiplied by; not stored in a checkpoint."""
        sdm: Weight = 1.0
        itc: Weight = 0.0
        cmpm: Weight = 0.0
        triplet: Weight = 0.0
        identity: Weight = 0.0

        @model_validator(mode="after")
        def _possible(self) -> CSKT.Config:
            sizes = self.need_vit()
            if sizes.width % self.reduction or sizes.text_width % self.reduction:
                raise ValueError(f"reduction: must divide both widths, {sizes.width} and {sizes.text_width}")
            return self

    paper = "Liu et al.: CLIP-based Synergistic Knowledge Transfer for Text-based Person Retrieval (ICASSP 2024)"
    official = KeyTable(
        {
            r"base_model\.(.*)": r"clip.\1",
            r"prompt_learner\.(.*)": r"prompts.\1",
            r"classifier\.(.*)": r"classifier.\1",
        }
    )
    training_only = ("classifier.",)
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        sizes, reduction, act = config.sizes, config.reduction, config.sizes.activation
        image = (sizes.width, sizes.image_heads, act)
        text = (sizes.text_width, sizes.text_tower_heads, act)
        clip = Clip(
            sizes,
            task.image_size,
            stride=config.stride,
            image_block=lambda _: AdapterBlock(*image, reduction=reduction, scale=config.image_scale),
            text_block=lambda _: AdapterBlock(*text, reduction=reduction, scale=config.text_scale),
        )
        self.clip = self.adapted(clip)
        self.prompts = PromptBank(config.n_ctx, config.depth, sizes.width, sizes.text_width)
        self.classifier = Classifier(sizes.embed, task.identities) if config.identity and task.identities else None

    @classmethod
    def places_taken(cls, config: Config) -> int:
        return 2 * config.n_ctx

    def image_feature(self, image_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, E] float32, not normalised."""
        return image_feature(self.clip, image_BCHW, self.prompts.image_hooks())

    def text_feature(self, token_BT: Tensor) -> Tensor:
        """[B, T] ids as the tokenizer gives them -> [B, E] float32, not normalised."""
        return text_feature(self.clip, make_room(token_BT, self.prompts.tokens), self.prompts.text_hooks())

    # Training -----------------------------------------------------------------------------

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe; published: sdm alone."""
        c = self.config
        weights = {"sdm": c.sdm, "itc": c.itc, "cmpm": c.cmpm, "triplet": c.triplet, "identity": c.identity}
        return family_losses(features, batch, weights, temperature=c.temperature, classifier=self.classifier)

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """img_acc, txt_acc: share of the batch whose person is classified correctly."""
        return family_figures(features, batch, self.classifier)

    def group_of(self, name: str) -> Group:
        """CLIP is frozen but for adapters and ln_3; biases at their own rate without decay."""
        if name.startswith("clip.") and "adapter_mlp" not in name and "ln_3" not in name:
            return self.lora_group(name) or Group("frozen")
        bias = "bias" in name
        if name.startswith("classifier."):
            return Group("new", decay=not bias)
        return Group("bias", decay=False) if bias else Group()

    def load_weights(self, state: Mapping[str, Tensor]) -> list[str]:
        names = super().load_weights(state)
        if self.config.ctx_init == "clip":
            self._start_from_phrase()
        return names

    @torch.no_grad()
    def _start_from_phrase(self) -> None:
        table = self.clip.token_embedding.weight
        if len(table) != VOCABULARY:
            raise ValueError('ctx_init = "clip" needs CLIP\'s vocabulary of 49,408 words')
        self.prompts.ctx.copy_(table[list(PHRASE[: self.config.n_ctx])])

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """CSKT's when the file has its prompt bank; sizes from shapes, constants as published."""
        if "prompt_learner.tmap.weight" not in files.tensors:
            return None
        mapped = files.under(cls.official)
        if mapped.unknown or "clip.visual.conv1.weight" not in mapped.ours or "prompts.ctx" not in mapped.ours:
            return None
        config = _config(mapped.ours, files)
        return config if cls.fits(files, config) else None


def _config(ours: Mapping[str, Tensor], files: OfficialFiles) -> CSKT.Config:
    sizes, names = read_sizes(ours, prefix="clip."), files.losses("sdm")
    down = ours.get("clip.visual.transformer.resblocks.0.adapter_mlp.down.weight")
    return CSKT.Config(
        name="cskt",
        tower=named(sizes),
        n_ctx=len(ours["prompts.ctx"]),
        depth=1 + sum(name.startswith("prompts.compound_prompts_text.") for name in ours),
        reduction=8 if down is None else sizes.width // len(down),
        sdm=float("sdm" in names),
        itc=float("itc" in names),
        cmpm=float("cmpm" in names),
        triplet=float("triplet" in names),
        identity=float("id" in names and "classifier.weight" in ours),
        **files.numbers(OPTIONS),
    )
