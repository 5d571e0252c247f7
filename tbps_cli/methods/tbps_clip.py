"""TBPS-CLIP: both towers of CLIP fine-tuned with soft and reversed contrastive losses over many views.

Min Cao, Yang Bai, Ziyin Zeng, Mang Ye, Min Zhang, "An Empirical Study of CLIP for Text-Based Person
Search", AAAI 2024, arXiv 2308.10045. One class for both versions: the simplified one is a recipe that
leaves out `citc`, `simclr` and `second_view`. Differences from the released code: the soft targets of
the image reuse its features (that tower has no dropout, a second pass would give the same); views
that no loss looks at are not made; losses are computed in float32, not under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from tbps_cli.augment.exact import POOL_TRAIN, SIMCLR_TRAIN
from tbps_cli.augment.transform import IMAGENET_EVAL, EvalTransform
from tbps_cli.losses.contrastive import citc, nitc, ritc
from tbps_cli.losses.identity import identity, person_scores
from tbps_cli.losses.masked import caption_figures, per_word
from tbps_cli.losses.views import simclr
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.base import Views
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.heads import Classifier, ContrastHead
from tbps_cli.nn.masked_words import MaskedWords, read_layers
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.nn.text_tower import at_end
from tbps_cli.nn.vit import VisionTransformer
from tbps_cli.section import Count, Positive, Share, Weight
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles, pair_of_sides
from tbps_cli.weights.key_table import KeyTable

FIRST_SCALE = 1 / 0.07
"""What multiplies the cosines where no weights are loaded. Source: CLIP."""
LARGEST_SCALE = 100.0
"""The scale never acts above this; OpenAI's weights were trained up to it."""
WORDS = 77
"""Words of a caption that the cleaning keeps. Source: TBPS-CLIP, released code."""
_OPTIONS = {
    "nitc": ("", "nitc_ratio"),
    "soft_labels": ("", "softlabel_ratio"),
    "ritc": ("ritc", "ritc_ratio"),
    "ritc_epsilon": ("", "ritc_eps"),
    "citc": ("citc", "citc_ratio"),
    "citc_within": ("", "citc_lambda1"),
    "citc_across": ("", "citc_lambda2"),
    "simclr": ("ss", "ss_ratio"),
    "simclr_temperature": ("", "simclr_temperature"),
    "identity": ("id", "id_ratio"),
    "masked": ("mlm", "mlm_ratio"),
    "text_dropout": ("", "dropout"),
    "back_translation": ("back_trans", "backtrans_p"),
    "word_deletion": ("", "eda_alpha"),
}
"""Our key -> the switch and the number in the released configuration."""


class TbpsClip(LoraMethod):
    """Two towers and a learned scale; a head for self-supervision while training."""

    class Config(LoraConfig):
        """`[method]`; a loss of weight 0 is not computed, its views not made and its head not built."""

        nitc: Weight = 1.0
        """Contrastive, all captions of a person being right."""
        soft_labels: Share = 0.5
        """Share of the model's own softmax in the targets of nitc; rises to it over the first epoch."""
        second_view: bool = True
        """A second view of the image in nitc ("MVS")."""
        ritc: Weight = 1.0
        """Contrastive, with prediction and target exchanged."""
        ritc_epsilon: Positive = 0.01
        """Inside the log of ritc's target."""
        citc: Weight = 0.1
        """Cyclic: cosines that should agree."""
        citc_within: Weight = 0.25
        """In citc, of images among each other against captions among each other."""
        citc_across: Weight = 0.25
        """In citc, of image to caption against caption to image."""
        simclr: Weight = 0.4
        """Self-supervision: two strong views of an image find each other ("SS")."""
        simclr_temperature: Positive = 0.1
        """Divides the cosines of simclr."""
        simclr_hidden: Count = 128
        """Width inside the head of simclr."""
        simclr_embed: Count = 512
        """Width after the head of simclr."""
        identity: Weight = 0.0
        """A classifier over the training persons; in the released code, not in the paper's recipe."""
        masked: Weight = 0.0
        """Masked words, all losses then seeing masked captions; as identity."""
        cross_layers: Count = 4
        """Blocks above the cross-attention of the masked words."""
        text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
        """On the attention of the text tower."""
        back_translation: Share = 0.1
        """How often a caption gives way to its back-translation, where the data set has one."""
        word_deletion: Share = 0.05
        """Probability of each word of a caption to be left out."""
        freeze_patches: bool = True
        """The first convolution of the image tower stays as it is."""
        scale_may_drift: bool = True
        """As released: the limit of 100 has no gradient, so the parameter may go past it; false stops it there."""

        @model_validator(mode="after")
        def _something_to_do(self) -> TbpsClip.Config:
            if not any((self.nitc, self.ritc, self.citc, self.simclr, self.identity, self.masked)):
                raise ValueError("all losses have weight 0: set one of nitc, ritc, citc, simclr, identity, masked")
            if self.second_view and not self.nitc:
                raise ValueError("second_view = true needs nitc above 0: no other loss looks at that view")
            if self.citc and not self.citc_within + self.citc_across:
                raise ValueError("citc needs citc_within or citc_across above 0; citc = 0 switches it off")
            if self.masked and self.sizes.embed % self.sizes.cross_heads:
                embed, heads = self.sizes.embed, self.sizes.cross_heads
                raise ValueError(f"masked needs an embed that divides into heads of 64: {embed} does not into {heads}")
            return self

    paper = "Cao et al.: An Empirical Study of CLIP for Text-Based Person Search (AAAI 2024)"
    official = KeyTable(
        {
            r"visual\.(.*)": r"clip.visual.\1",
            r"encode_text\.(transformer|token_embedding|ln_final)\.(.*)": r"clip.\1.\2",
            r"encode_text\.(positional_embedding|text_projection)": r"clip.\1",
            r"(cross_attn|cross_modal_transformer|ln_pre_t|ln_pre_i|ln_post)\.(.*)": r"words.cross.\1.\2",
            r"mlm_head\.(.*)": r"words.head.\1",
            r"(simclr_mlp|classifier)\.(.*)": r"\1.\2",
            r"(logit_scale)": r"\1",
        }
    )
    training_only = ("logit_scale", "simclr_mlp.", "classifier.", "words.")
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes
        self.clip = self.adapted(Clip(sizes, task.image_size, text_dropout=config.text_dropout))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.simclr_mlp = self.classifier = self.words = None
        if config.simclr:
            self.simclr_mlp = ContrastHead(sizes.embed, config.simclr_hidden, config.simclr_embed)
        if config.identity and task.identities:
            self.classifier = Classifier(sizes.embed, task.identities)
        if config.masked:
            self.words = MaskedWords(sizes.embed, sizes.vocabulary, config.cross_layers, sizes.cross_heads)

    # What goes in and out -------------------------------------------------------------------

    @classmethod
    def views(cls, config: Config) -> Views:
        images = {"image": POOL_TRAIN}
        if config.second_view:
            images["second"] = POOL_TRAIN
        if config.simclr:
            images |= {"contrast_a": SIMCLR_TRAIN, "contrast_b": SIMCLR_TRAIN}
        words = {"back_translation": config.back_translation, "deletion": config.word_deletion}
        rewritten = "rewrite" if any(words.values()) else None
        return Views(images, config.masked > 0, rewritten, words if rewritten else {}, drop_last=True)

    @classmethod
    def tokenizer(cls, config: Config) -> Bpe:
        return Bpe(config.sizes.context, mask=True, clean_words=WORDS)

    @classmethod
    def eval_transform(cls, config: Config, task: Task) -> EvalTransform:
        """ImageNet's mean and deviation though the towers start from CLIP: the published weights expect it."""
        return EvalTransform(task.image_size, **IMAGENET_EVAL)

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """Embeddings of every view before normalisation; the soft targets' captions where dropout redraws them."""
        images, caption_BT = batch.images, batch.tokens["text" if self.words is None else "masked"]
        image_BPE = self.clip.image_tokens(images["image"])
        features = {"image": image_BPE[:, 0].float()}
        if self.words is None:
            features["text"] = text_feature(self.clip, caption_BT)
        else:
            text_BTE = self.clip.text_tokens(caption_BT)
            features["text"] = at_end(text_BTE, caption_BT).float()
            label_BT = batch.tokens["label"]
            features |= caption_figures(self.words(text_BTE, image_BPE, label_BT), label_BT)
        if self.config.second_view:
            features["second"] = image_feature(self.clip, images["second"])
        if self.simclr_mlp is not None:
            for view in ("contrast_a", "contrast_b"):
                features[view] = self.simclr_mlp(image_feature(self.clip, images[view])).float()
        if self.training and self.config.text_dropout and self.config.nitc and self.config.soft_labels:
            with torch.no_grad():
                features["soft_text"] = text_feature(self.clip, caption_BT)
        return features

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe. Source: TBPS-CLIP, sections 3.3 and 3.4, and its released code."""
        image_BE, text_BE, person_B, c = features["image"], features["text"], batch.person_B, self.config
        scale, losses = self.scale(), {}
        if c.nitc:
            losses["nitc"] = c.nitc * self._nitc(features, person_B, scale, self.softness(step))
        if c.ritc:
            losses["ritc"] = c.ritc * ritc(image_BE, text_BE, person_B, scale=scale, epsilon=c.ritc_epsilon)
        if c.citc:
            losses["citc"] = c.citc * citc(image_BE, text_BE, within=c.citc_within, across=c.citc_across)
        if c.simclr:
            views = features["contrast_a"], features["contrast_b"]
            losses["simclr"] = c.simclr * simclr(*views, temperature=c.simclr_temperature)
        if c.identity:
            losses["identity"] = c.identity * identity(*person_scores(self.classifier, image_BE, text_BE), person_B)
        if c.masked:
            losses["masked"] = c.masked * per_word(features["masked_cost"], batch.tokens["label"])
        return losses

    def _nitc(self, features: Features, person_B: Tensor, scale: Tensor, softness: float) -> Tensor:
        """N-ITC, averaged over the image's views."""
        views = [features[name] for name in ("image", "second") if name in features]
        text_BE, soft_BE = features["text"], features.get("soft_text")
        each = [nitc(v, text_BE, person_B, scale=scale, softness=softness, soft_text_BE=soft_BE) for v in views]
        return torch.stack(each).mean()

    def scale(self) -> Tensor:
        """What multiplies the cosines now; at most 100, with the gradient of the unlimited one, as released."""
        free = self.logit_scale.float().exp()
        return free + (free.clamp(max=LARGEST_SCALE) - free).detach()

    def softness(self, step: Step) -> float:
        """The share of soft labels at a step: up to `soft_labels` over the first epoch, then constant."""
        ramp = min(1.0, step.iteration / step.iterations) if step.epoch == 0 else 1.0
        return self.config.soft_labels * ramp

    @torch.no_grad()
    def after_step(self) -> None:
        if not self.config.scale_may_drift:
            self.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    @torch.no_grad()
    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """scale: what multiplies the cosines."""
        return {"scale": self.scale().item()}

    def group_of(self, name: str) -> Group:
        """The released code's rules, on its own names: matrices decay, the parts above the towers are new."""
        if adapted := self.lora_group(name):
            return adapted
        if self.config.freeze_patches and name == "clip.visual.conv1.weight":
            return Group("frozen", decay=False)
        official = self.official.foreign(name) or name
        new = any(part in official for part in ("cross", "classifier", "mlm_head"))
        flat = self.get_parameter(name).ndim < 2 or any(part in official for part in ("bias", "ln", "bn"))
        return Group("new" if new else "tower", decay=not flat)

    def load_weights(self, state: Mapping[str, Tensor]) -> list[str]:
        """The towers, and CLIP's scale: what the state says, else the limit, where OpenAI's training ended."""
        with torch.no_grad():
            self.logit_scale.copy_(state.get("logit_scale", torch.tensor(math.log(LARGEST_SCALE))))
        return ["logit_scale", *super().load_weights(state)]

    def initialise(self, generator: torch.Generator) -> None:
        self.clip.initialise(generator)
        if isinstance(self.clip.visual, VisionTransformer):
            nn.init.normal_(self.clip.visual.positional_embedding, std=0.01, generator=generator)
        nn.init.constant_(self.logit_scale, math.log(FIRST_SCALE))
        for head in (self.simclr_mlp, self.classifier, self.words):
            if head is not None:
                head.initialise(generator)

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """TBPS-CLIP's alone call the text tower `encode_text`."""
        mapped = files.under(cls.official)
        texts = any(name.startswith("encode_text.") for name in files.tensors)
        if mapped.unknown or not texts or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        config = _config(mapped.ours, files)
        return config if cls.fits(files, config) else None

    @classmethod
    def stated_size(cls, files: OfficialFiles) -> tuple[int, int] | None:
        """Its options say the size among the settings of the experiment."""
        return files.image_size() or pair_of_sides(_experiment(files).get("input_resolution"))


def _config(state: Mapping[str, Tensor], files: OfficialFiles) -> TbpsClip.Config:
    """What shapes and options say; without options a file with the head of simclr is the full version's."""
    full = "simclr_mlp.0.weight" in state
    seen: dict[str, Any] = {"name": "tbps_clip", "tower": named(read_sizes(state, prefix="clip."))}
    seen |= read_layers(state, "words.cross.")
    if full and "simclr_mlp.2.weight" in state:
        seen |= {"simclr_hidden": len(state["simclr_mlp.0.weight"]), "simclr_embed": len(state["simclr_mlp.2.weight"])}
    heads = {"citc": full, "ss": full, "id": "classifier.weight" in state, "mlm": "words.head.fc.weight" in state}
    try:
        return TbpsClip.Config(**seen, **_keys_from({**heads, "mvs_image": full, **_experiment(files)}))
    except ValidationError:  # numbers that no run can have had; searching needs none of them
        return TbpsClip.Config(**seen, **_keys_from({**heads, "mvs_image": full}))


def _keys_from(said: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys for what the released configuration says; unsaid numbers keep their defaults."""
    told: dict[str, Any] = {"identity": 1.0, "masked": 1.0, "second_view": bool(said["mvs_image"])}
    for key, (switch, number) in _OPTIONS.items():
        if switch and not said.get(switch, True):
            told[key] = 0.0
        elif number in said:
            told[key] = said[number]
    return told


def _experiment(files: OfficialFiles) -> dict[str, Any]:
    """The settings of a run, from the two sections that hold them; none when they are missing or something else."""
    sections = (files.at("experiment"), files.at("model"))
    return {key: value for section in sections if isinstance(section, Mapping) for key, value in section.items()}
