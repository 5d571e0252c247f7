"""PHP: tokens of both modalities pooled into learned parts, then parsed by blocks with experts.

"Align What Truly Matters: Pedestrian-relevant Hierarchical Parsing Network for Text-based Person
Retrieval", code released in 2025 (venue unknown). In the released code the experts' blocks attend over
the items of the *batch*, at evaluation too, so an embedding knows its companions; the published scores
rest on that and compare with nothing. `attention_axis = "token"` attends over the tokens of one item.
Further differences: the pooling's position table, which nothing reads, is not created; the weights of
all losses are keys; usage counters in a checkpoint are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from tbps_cli.losses.contrastive import unit
from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.losses.masked import caption_figures
from tbps_cli.methods.base import Method, MethodConfig, Views, irra_group
from tbps_cli.nn.clip import Clip
from tbps_cli.nn.heads import Classifier
from tbps_cli.nn.masked_words import MaskedWords, read_layers
from tbps_cli.nn.parsing import Axis, Parser, PartPool, check_parser
from tbps_cli.nn.parts import Parts, read_parts
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.section import Count, Positive, Weight
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

Part = Literal["crfm", "efp"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
PARTS: dict[Part, str] = {"crfm": "parts.pool.", "efp": "parts.parser."}
"""Names of the paper -> where our parameters of them lie."""
OPTIONS: dict[str, tuple[str, type]] = {
    "stride": ("stride_size", int),
    "temperature": ("temperature", float),
    "moe_heads": ("moe_heads", int),
    "top_k": ("topk", int),
    "balance": ("aux_factor", float),
}
"""Our keys -> options of the released code."""
ABLATIONS: dict[str, tuple[Part, ...]] = {"base": (), "crfm": ("crfm",), "efp": ("efp",)}
"""Names that the released folders give to models without both parts."""


class PHP(Method):
    """Two towers; above their tokens a pooling (crfm) and a parser with experts (efp)."""

    class Config(MethodConfig):
        """`[method]`; a loss of weight 0 is not computed and its head not built."""

        stride: Count | None = None
        """Pixels between patches; the patch size when left out."""
        temperature: Positive = 0.02
        """Divides every cosine of sdm and itc; a constant."""
        parts: tuple[Part, ...] = ("crfm", "efp")
        """What stands above the towers: pooling into parts, experts, both or neither."""
        share_modalities: bool = True
        """One pooling and one parser for images and captions; false: one each."""
        attention_axis: Axis = "token"
        """What the experts' blocks attend over: tokens of one item, or as released the items of the batch."""
        part_tokens: Count = 9
        """Learned tokens that crfm pools into."""
        moe_layers: Count = 4
        moe_heads: Count = 8
        num_experts: Count = 4
        top_k: Count = 2
        """Experts that a token goes to."""
        reduction: Count = 8
        """Length of the embedding over the width inside an expert."""
        part_dropout: Dropout = 0.3
        expert_dropout: Dropout = 0.1
        cross_layers: Count = 4
        """Blocks above the cross-attention of the masked words."""
        sdm: Weight = 1.0
        itc: Weight = 5.0
        balance: Weight = 0.5
        """Of the experts' load; its least value is blocks * 2 * top_k / num_experts times this."""
        cmpm: Weight = 0.0
        identity: Weight = 0.0
        masked: Weight = 0.0
        mask_global_text: bool = True
        """With masked words, the released code's masking reaches every loss; false: the masked words alone."""

        @field_validator("parts")
        @classmethod
        def _each_part_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
            if len(set(parts)) < len(parts):
                raise ValueError('names a part twice; allowed are [], ["crfm"], ["efp"], ["crfm", "efp"]')
            return tuple(sorted(parts))

        @model_validator(mode="after")
        def _possible(self) -> PHP.Config:
            check_parser(self.need_vit().embed, **self.parser)
            return self

        @property
        def parser(self) -> dict[str, Any]:
            """A parser's sizes, as `nn.parsing.Parser` takes them."""
            return {
                "layers": self.moe_layers,
                "heads": self.moe_heads,
                "axis": self.attention_axis,
                "num_experts": self.num_experts,
                "top_k": self.top_k,
                "reduction": self.reduction,
                "dropout": self.expert_dropout,
            }

    paper = "Align What Truly Matters: Pedestrian-relevant Hierarchical Parsing Network (PHP), code of 2025"
    official = KeyTable(
        {
            r"base_model\.(.*)": r"clip.\1",
            r"safl\.(.*)": r"parts.pool.both.\1",
            r"saflv\.(.*)": r"parts.pool.image.\1",
            r"saflt\.(.*)": r"parts.pool.text.\1",
            r"shared_transformer\.(.*)": r"parts.parser.both.\1",
            r"shared_transformerv\.(.*)": r"parts.parser.image.\1",
            r"shared_transformert\.(.*)": r"parts.parser.text.\1",
            r"(cross_attn|cross_modal_transformer|ln_pre_t|ln_pre_i|ln_post)\.(.*)": r"words.cross.\1.\2",
            r"mlm_head\.(.*)": r"words.head.\1",
            r"classifier\.(.*)": r"classifier.\1",
        },
        drop=(r"safl[vt]?\.pos_embeding", r".*\.feed_forward\.(expert|token)_count_accum"),
    )
    training_only = ("words.", "classifier.")
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes

        def pool() -> PartPool:
            return PartPool(sizes.embed, config.part_tokens, config.part_dropout)

        def parser() -> Parser:
            return Parser(sizes.embed, **config.parser)

        self.clip = Clip(sizes, task.image_size, stride=config.stride)
        self.parts = Parts(
            shared=config.share_modalities,
            pool=pool if "crfm" in config.parts else None,
            parser=parser if "efp" in config.parts else None,
        )
        self.words = self.classifier = None
        if config.masked:
            self.words = MaskedWords(sizes.embed, sizes.vocabulary, config.cross_layers, sizes.cross_heads)
        if config.identity and task.identities:
            self.classifier = Classifier(sizes.embed, task.identities)

    @classmethod
    def views(cls, config: Config) -> Views:
        return Views(masked=config.masked > 0)

    @classmethod
    def tokenizer(cls, config: Config) -> Bpe:
        return Bpe(config.sizes.context, mask=True)

    @classmethod
    def batch_dependent(cls, config: Config) -> str | None:
        if config.attention_axis == "token" or "efp" not in config.parts:
            return None
        return (
            "php's experts attend over the items of a batch here, as in the released code, so embeddings depend on "
            "batch companions and scores compare with nothing. Set it right with --set method.attention_axis=token"
        )

    def encode_images(self, image_BCHW: Tensor) -> Tensor:
        return unit(self.parts.image_feature(self.clip.image_tokens(image_BCHW)))

    def encode_texts(self, token_BT: Tensor) -> Tensor:
        return unit(self.parts.text_feature(self.clip.text_tokens(token_BT), token_BT))

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """Embeddings before normalisation; the experts' shares; with masked words their cost and hits."""
        image_BPE = self.clip.image_tokens(batch.images["image"])
        token_BT = batch.tokens["masked" if self.words is not None and self.config.mask_global_text else "text"]
        text_BTE = self.clip.text_tokens(token_BT)
        features = self.parts.features(image_BPE, text_BTE, token_BT)
        if self.words is not None:
            masked_BTE = text_BTE if self.config.mask_global_text else self.clip.text_tokens(batch.tokens["masked"])
            label_BT = batch.tokens["label"]
            features |= caption_figures(self.words(masked_BTE, image_BPE, label_BT), label_BT)
        return features

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe. Source: the released code; published: sdm, itc and balance."""
        c = self.config
        weights = {"sdm": c.sdm, "itc": c.itc, "cmpm": c.cmpm, "balance": c.balance}
        weights |= {"identity": c.identity, "masked": c.masked}
        return family_losses(features, batch, weights, temperature=c.temperature, classifier=self.classifier)

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """Batch shares named right: img_acc, txt_acc (persons), mlm_acc (masked words); how busy experts are."""
        return family_figures(features, batch, self.classifier)

    def group_of(self, name: str) -> Group:
        """IRRA's rules on the released names; "transformer" and "experts" are groups of their own.

        The recipe gives those two no factor, as the released code does; an older state of it had one each.
        """
        official = self.official.foreign(name) or name
        if "bias" in official or not official.startswith("shared_transformer"):
            return irra_group(official)
        mixture = re.search(r"feed_forward\.(experts|input_gate|task_gate)", official)
        return Group("experts" if mixture else "transformer")

    def load_weights(self, state: Mapping[str, Tensor]) -> list[str]:
        return [f"clip.{name}" for name in self.clip.start_from(state)]

    def initialise(self, generator: torch.Generator) -> None:
        for part in (self.clip, self.parts, self.words, self.classifier):
            if part is not None:
                part.initialise(generator)

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """PHP's when the file has a pooling or a parser of it. What was trained with fewer parts says its folder."""
        mapped = files.under(cls.official)
        parts = tuple(part for part, prefix in PARTS.items() if any(name.startswith(prefix) for name in mapped.ours))
        if mapped.unknown or not parts or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        config = _config(mapped.ours, parts, files)
        if not cls.fits(files, config):
            return None
        ablation = re.search(r"ablation_(base|crfm|efp)", files.name)
        return config.model_copy(update={"parts": ABLATIONS[ablation[1]]}) if ablation else config


def _config(ours: Mapping[str, Tensor], parts: tuple[Part, ...], files: OfficialFiles) -> PHP.Config:
    """Sizes from shapes, the rest from the options; the attention axis is the released one."""
    names = files.losses("sdm+itc+aux")
    numbers = read_parts(ours, "parts.") | read_layers(ours, "words.cross.") | files.numbers(OPTIONS)
    if "aux" not in names or files.options.get("aux_factor") == 0:
        numbers["balance"] = 0.0
    return PHP.Config(
        name="php",
        tower=named(read_sizes(ours, prefix="clip.")),
        parts=parts,
        attention_axis="batch",
        sdm=float("sdm" in names),
        itc=5.0 * ("itc" in names),
        cmpm=float("cmpm" in names),
        identity=float("classifier.weight" in ours),
        masked=0.5 * ("words.head.fc.weight" in ours),
        **numbers,
    )
