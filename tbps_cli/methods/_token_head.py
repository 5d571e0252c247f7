"""What PHP and CoMoE share: CLIP's towers, and above their tokens a head with experts.

Not a method: `methods.names` leaves out modules that begin with an underscore. Both codes are by the same
authors and grew from IRRA's. A method of this kind says which head it has (`token_head`) and what its
released files look like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.losses.masked import caption_figures
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.base import Views, irra_group
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.heads import Classifier
from tbps_cli.nn.masked_words import MaskedWords, read_layers
from tbps_cli.nn.parsing import Axis, check_parser
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.nn.token_head import TokenHead, read_token_head
from tbps_cli.section import Count, Positive, Weight
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

Dropout = Annotated[float, Field(ge=0, lt=1)]
OPTIONS: dict[str, tuple[str, type]] = {
    "stride": ("stride_size", int),
    "temperature": ("temperature", float),
    "moe_heads": ("moe_heads", int),
    "top_k": ("topk", int),
    "balance": ("aux_factor", float),
}
"""Our keys -> options of the released codes."""
IRRA_ROWS = {
    r"base_model\.(.*)": r"clip.\1",
    r"(cross_attn|cross_modal_transformer|ln_pre_t|ln_pre_i|ln_post)\.(.*)": r"words.cross.\1.\2",
    r"mlm_head\.(.*)": r"words.head.\1",
    r"classifier\.(.*)": r"classifier.\1",
}
"""The names that both codes have from IRRA's -> ours."""
COUNTERS = r".*\.feed_forward\.(expert|token)_count_accum"
"""Foreign names of counters that nothing reads."""


class TokenHeadConfig(LoraConfig):
    """The keys that both methods have; a loss of weight 0 is not computed and its head not built."""

    parser_part: ClassVar[str]
    """The name in `parts` of the blocks with experts."""

    stride: Count | None = None
    """Pixels between patches; the patch size when left out."""
    temperature: Positive = 0.02
    """Divides every cosine of sdm and itc; a constant."""
    parts: tuple[str, ...] = ()
    """What stands above the towers."""
    share_modalities: bool = True
    """One head for images and captions; false: one each."""
    attention_axis: Axis = "token"
    """What the experts' blocks attend over: tokens of one item, or as released the items of the batch."""
    moe_layers: Count = 4
    moe_heads: Count = 8
    num_experts: Count = 4
    top_k: Count = 2
    """Experts that a token goes to."""
    reduction: Count = 8
    """Length of the embedding over the width inside an expert."""
    expert_dropout: Dropout = 0.1
    cross_layers: Count = 4
    """Blocks above the cross-attention of the masked words."""
    sdm: Weight = 1.0
    itc: Weight = 5.0
    balance: Weight = 1.0
    """Of the experts' load; its least value is blocks * 2 * top_k / num_experts times this."""
    cmpm: Weight = 0.0
    identity: Weight = 0.0
    masked: Weight = 0.0
    mask_global_text: bool = True
    """With masked words, the released code's masking reaches every loss; false: the masked words alone."""

    @model_validator(mode="after")
    def _can_be_built(self) -> TokenHeadConfig:
        check_parser(self.need_vit().embed, **self.parser)
        return self

    @property
    def has_parser(self) -> bool:
        """Whether blocks with experts stand above the towers."""
        return self.parser_part in self.parts

    @property
    def parser(self) -> dict[str, Any]:
        """A parser's sizes, as `nn.parsing.TokenParser` takes them."""
        return {
            "layers": self.moe_layers,
            "heads": self.moe_heads,
            "axis": self.attention_axis,
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "reduction": self.reduction,
            "dropout": self.expert_dropout,
        }


class TokenHeadMethod(LoraMethod):
    """Two towers and a head above their tokens; masked words and a classifier where their losses have a weight."""

    training_only = ("words.", "classifier.")
    config: TokenHeadConfig

    def __init__(self, config: TokenHeadConfig, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes
        self.clip = self.adapted(Clip(sizes, task.image_size, stride=config.stride))
        self.parts = self.token_head()
        self.words = self.classifier = None
        if config.masked:
            self.words = MaskedWords(sizes.embed, sizes.vocabulary, config.cross_layers, sizes.cross_heads)
        if config.identity and task.identities:
            self.classifier = Classifier(sizes.embed, task.identities)

    def token_head(self) -> TokenHead:
        """What stands above the tokens under this configuration."""
        raise NotImplementedError

    @classmethod
    def views(cls, config: TokenHeadConfig) -> Views:
        return Views(masked=config.masked > 0)

    @classmethod
    def batch_dependent(cls, config: TokenHeadConfig) -> str | None:
        if config.attention_axis == "token" or not config.has_parser:
            return None
        return (
            f"the experts of {config.name} attend over the items of a batch here, as in the released code, so an "
            "embedding depends on the rest of its batch and scores compare with nothing. "
            "To change that: --set method.attention_axis=token"
        )

    def image_feature(self, image_BCHW: Tensor) -> Tensor:
        return self.parts.image_feature(self.clip.image_tokens(image_BCHW))

    def text_feature(self, token_BT: Tensor) -> Tensor:
        return self.parts.text_feature(self.clip.text_tokens(token_BT), token_BT)

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
        """img_acc, txt_acc: share of the batch whose person is classified correctly; mlm_acc: of words; expert use."""
        return family_figures(features, batch, self.classifier)

    def group_of(self, name: str) -> Group:
        """IRRA's rules on the released names; "transformer" and "experts" are groups of their own.

        The recipe gives those two no factor, as the released codes do; an older state of PHP's had one each.
        """
        if "bias" in name or not name.startswith("parts.parser."):
            return self.lora_group(name) or irra_group(self.official.foreign(name) or name)
        mixture = name.partition(".feed_forward.")[2]
        return Group("experts" if mixture.startswith("experts.") or "gate" in mixture else "transformer")


def read_keys(ours: Mapping[str, Tensor], files: OfficialFiles) -> dict[str, Any]:
    """Values of the common keys: sizes from shapes, the rest from the options, the attention axis as released."""
    names = files.losses("sdm+itc+aux")
    values = read_token_head(ours, "parts.") | read_layers(ours, "words.cross.") | files.numbers(OPTIONS)
    if "aux" not in names or files.options.get("aux_factor") == 0:
        values["balance"] = 0.0
    return values | {
        "tower": named(read_sizes(ours, prefix="clip.")),
        "attention_axis": "batch",
        "sdm": float("sdm" in names),
        "itc": 5.0 * ("itc" in names),
        "cmpm": float("cmpm" in names),
        "identity": float("classifier.weight" in ours),
        "masked": 0.5 * ("words.head.fc.weight" in ours),
    }
