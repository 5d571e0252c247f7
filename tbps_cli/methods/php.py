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
from torch import Tensor, nn

from tbps_cli.fields import Count, Positive, Weight
from tbps_cli.keys import KeyTable
from tbps_cli.losses.contrastive import unit
from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.losses.masked import caption_figures
from tbps_cli.methods.base import Method, MethodConfig, OfficialFiles, Views
from tbps_cli.nn.clip import Clip
from tbps_cli.nn.heads import Classifier
from tbps_cli.nn.masked_words import MaskedWords, read_layers
from tbps_cli.nn.moe import collecting
from tbps_cli.nn.parsing import Axis, Parser, PartPool, check_parser, read_parser
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.nn.text_tower import at_end
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Features, Group, Step, Task

Part = Literal["crfm", "efp"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
PARTS: tuple[Part, ...] = ("crfm", "efp")
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
        parts: tuple[Part, ...] = PARTS
        """What stands above the towers: pooling into parts, experts, both or neither."""
        share_modalities: bool = True
        """One pooling and one parser for pictures and captions; false: one each."""
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
            if self.sizes.is_resnet:
                raise ValueError("tower: php needs a vision transformer (ViT-B-32, ViT-B-16, ViT-L-14, ...)")
            check_parser(
                self.sizes.embed,
                heads=self.moe_heads,
                num_experts=self.num_experts,
                top_k=self.top_k,
                reduction=self.reduction,
            )
            return self

    paper = "Align What Truly Matters: Pedestrian-relevant Hierarchical Parsing Network (PHP), code of 2025"
    official = KeyTable(
        {
            r"base_model\.(.*)": r"clip.\1",
            r"safl\.(.*)": r"crfm.both.\1",
            r"saflv\.(.*)": r"crfm.image.\1",
            r"saflt\.(.*)": r"crfm.text.\1",
            r"shared_transformer\.(.*)": r"efp.both.\1",
            r"shared_transformerv\.(.*)": r"efp.image.\1",
            r"shared_transformert\.(.*)": r"efp.text.\1",
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
        sides = ("both",) if config.share_modalities else ("image", "text")
        self.clip = Clip(sizes, task.image_size, stride=config.stride)
        self.crfm = self.efp = self.words = self.classifier = None
        if "crfm" in config.parts:
            self.crfm = nn.ModuleDict(
                {side: PartPool(sizes.embed, config.part_tokens, config.part_dropout) for side in sides}
            )
        if "efp" in config.parts:
            self.efp = nn.ModuleDict({side: _parser(config) for side in sides})
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
        return unit(self.image_feature(self.clip.image_tokens(image_BCHW)))

    def encode_texts(self, token_BT: Tensor) -> Tensor:
        return unit(self.text_feature(self.clip.text_tokens(token_BT), token_BT))

    def image_feature(self, image_BPE: Tensor) -> Tensor:
        """[B, 1 + P, E] projected tokens -> [B, E] float32, not normalised."""
        return image_BPE[:, 0].float() + self._parsed(image_BPE[:, 1:], "image")

    def text_feature(self, text_BTE: Tensor, token_BT: Tensor) -> Tensor:
        """[B, T, E] projected tokens, padding included as released -> [B, E] float32, not normalised."""
        return at_end(text_BTE, token_BT).float() + self._parsed(text_BTE, "text")

    def _parsed(self, x_BLE: Tensor, side: str) -> Tensor:
        """The mean over the tokens that the parts make of these, [B, E] float32; 0 without parts."""
        module = "both" if self.config.share_modalities else side
        if self.crfm is None and self.efp is None:
            return x_BLE.new_zeros((), dtype=torch.float32)
        if self.crfm is not None:
            x_BLE = self.crfm[module](x_BLE)
        if self.efp is not None:
            x_BLE = self.efp[module](x_BLE)
        return x_BLE.mean(1).float()

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """Embeddings before normalisation; the experts' shares; with masked words their cost and hits."""
        image_BPE = self.clip.image_tokens(batch.images["image"])
        view = "masked" if self.words is not None and self.config.mask_global_text else "text"
        text_BTE = self.clip.text_tokens(batch.tokens[view])
        with collecting(self) as shares:
            features = {
                "image": self.image_feature(image_BPE),
                "text": self.text_feature(text_BTE, batch.tokens[view]),
            }
        if shares:
            features["balance"] = torch.stack(shares, 1)
        if self.words is not None:
            masked_BTE = text_BTE if view == "masked" else self.clip.text_tokens(batch.tokens["masked"])
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
        bias = "bias" in official
        if "classifier" in official or "mlm_head" in official:
            return Group("new", decay=not bias)
        if bias:
            return Group("bias", decay=False)
        if re.search(r"feed_forward\.(experts|input_gate|task_gate)", official):
            return Group("experts")
        if official.startswith("shared_transformer"):
            return Group("transformer")
        return Group("new" if "cross" in official else "tower")

    def load_weights(self, state: Mapping[str, Tensor]) -> list[str]:
        return [f"clip.{name}" for name in self.clip.start_from(state)]

    def initialise(self, generator: torch.Generator) -> None:
        self.clip.initialise(generator)
        for module in self.modules():
            if isinstance(module, PartPool | Parser | MaskedWords | Classifier):
                module.initialise(generator)

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """PHP's when the file has a pooling or a parser of it. What was trained with fewer parts says its folder."""
        ours, unknown = cls.official.to_ours(files.tensors)
        parts = tuple(part for part in PARTS if any(name.startswith(f"{part}.") for name in ours))
        if unknown or not parts or "clip.visual.conv1.weight" not in ours:
            return None
        config = _config(ours, parts, files)
        if not cls.fits(files, config):
            return None
        ablation = re.search(r"ablation_(base|crfm|efp)", files.name)
        return config.model_copy(update={"parts": ABLATIONS[ablation[1]]}) if ablation else config


def _parser(config: PHP.Config) -> Parser:
    return Parser(
        config.sizes.embed,
        layers=config.moe_layers,
        heads=config.moe_heads,
        axis=config.attention_axis,
        num_experts=config.num_experts,
        top_k=config.top_k,
        reduction=config.reduction,
        dropout=config.expert_dropout,
    )


def _config(ours: Mapping[str, Tensor], parts: tuple[Part, ...], files: OfficialFiles) -> PHP.Config:
    """Sizes from shapes, the rest from the options; the attention axis is the released one."""
    sizes = read_sizes({name.removeprefix("clip."): tensor for name, tensor in ours.items()})
    names = str(files.options.get("loss_names", "sdm+itc+aux")).split("+")
    share = not any(name.startswith(("crfm.image.", "efp.image.")) for name in ours)
    side = "both" if share else "image"
    numbers: dict[str, Any] = read_parser(ours, f"efp.{side}.") | read_layers(ours, "words.cross.")
    if f"crfm.{side}.part_tokens" in ours:
        numbers["part_tokens"] = len(ours[f"crfm.{side}.part_tokens"])
    for key, (option, kind) in OPTIONS.items():
        if value := files.number(option):
            numbers[key] = kind(value)
    if "aux" not in names or files.options.get("aux_factor") == 0:
        numbers["balance"] = 0.0
    return PHP.Config(
        name="php",
        tower=named(sizes),
        parts=parts,
        share_modalities=share,
        attention_axis="batch",
        sdm=float("sdm" in names),
        itc=5.0 * ("itc" in names),
        cmpm=float("cmpm" in names),
        identity=float("classifier.weight" in ours),
        masked=0.5 * ("words.head.fc.weight" in ours),
        **numbers,
    )
