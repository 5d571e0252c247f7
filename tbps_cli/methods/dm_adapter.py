"""DM-Adapter: a frozen CLIP with a sparse mixture of small adapters beside every MLP.

Yating Liu, Zimo Liu, Xiangyuan Lan, Wenming Yang, Yaowei Li, Qingmin Liao, "DM-Adapter: Domain-Aware
Mixture-of-Adapters for Text-Based Person Retrieval", AAAI 2025, arXiv 2503.04144. Differences from the
released code: checkpoints are written; every block starts as CLIP's, not the first twelve alone; four
tables and a projection that nothing reads are not made (they are passed over in files); what was fixed
in the code (factors of the adapters, weight of the balance, masked captions) are keys.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import model_validator
from torch import Tensor

from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.base import Views
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.adapters import MixtureBlock
from tbps_cli.nn.clip_features import image_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.heads import Classifier
from tbps_cli.nn.moe import collect_shares
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.nn.text_tower import at_end, end_of, used
from tbps_cli.section import Count, Positive, Weight
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

TRAINED = ("ln_3", "feed_forward", "task_param")
"""Parts of names below `clip.` that are trained; the rest is CLIP's own and frozen."""
OPTIONS = {"stride": ("stride_size", int), "temperature": ("temperature", float), "top_k": ("topk", int)}
"""Our keys that no tensor tells -> options of the released code."""


class DMAdapter(LoraMethod):
    """Two frozen towers; adapters, their gates and norms are trained."""

    class Config(LoraConfig):
        """`[method]`; a loss of weight 0 is not computed."""

        stride: Count | None = None
        """Pixels between patches; the patch size when left out."""
        temperature: Positive = 0.02
        """Divides every cosine of sdm and itc; a constant."""
        num_experts: Count = 6
        """Adapters beside each MLP."""
        top_k: Count = 2
        """Adapters that a token goes to; not stored in a checkpoint."""
        reduction: Count = 8
        """Width of a tower over the width inside its adapters."""
        image_scale: Positive = 0.1
        text_scale: Positive = 4.0
        """What a mixture is multiplied by; not stored in a checkpoint."""
        sdm: Weight = 1.0
        balance: Weight = 0.5
        """Of the experts' load; its least value is blocks * top_k / num_experts times this."""
        itc: Weight = 0.0
        cmpm: Weight = 0.0
        triplet: Weight = 0.0
        identity: Weight = 0.0
        mask_global_text: bool = True
        """Train on captions with masked words, as released, to vary them; false: on whole captions."""
        balance_padding: bool = True
        """Padding counts in the experts' load, as released, where it is the majority; false: words alone."""

        @model_validator(mode="after")
        def _possible(self) -> DMAdapter.Config:
            sizes = self.need_vit()
            if sizes.width % self.reduction or sizes.text_width % self.reduction:
                raise ValueError(f"reduction: must divide both widths, {sizes.width} and {sizes.text_width}")
            if self.top_k > self.num_experts:
                raise ValueError(f"top_k: must be at most num_experts, which is {self.num_experts}")
            return self

    paper = "Liu et al.: DM-Adapter: Domain-Aware Mixture-of-Adapters for Text-Based Person Retrieval (AAAI 2025)"
    official = KeyTable(
        {r"base_model\.(.*)": r"clip.\1", r"classifier\.(.*)": r"classifier.\1"},
        drop=(r"base_model\.(co_)?vision_param", r"base_model\.text_param", r"base_model\.v2i_proj\.(weight|bias)"),
    )
    training_only = ("classifier.",)
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes
        clip = Clip(
            sizes,
            task.image_size,
            stride=config.stride,
            image_block=lambda _: _block(config, sizes.width, sizes.image_heads, config.image_scale),
            text_block=lambda _: _block(config, sizes.text_width, sizes.text_tower_heads, config.text_scale),
        )
        self.clip = self.adapted(clip)
        self.classifier = Classifier(sizes.embed, task.identities) if config.identity and task.identities else None

    @classmethod
    def views(cls, config: Config) -> Views:
        return Views(masked=config.mask_global_text)

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """Embeddings before normalisation; with a balance also the experts' shares, [B, M, 2, X].

        M mixtures, those of the image tower first, with X experts each.
        """
        token_BT = batch.tokens["masked" if self.config.mask_global_text else "text"]
        if not (self.config.balance and self.config.balance_padding):
            token_BT = used(token_BT)
        with collect_shares(self.clip.visual) as image_shares:
            features = {"image": image_feature(self.clip, batch.images["image"])}
        with collect_shares(self.clip.transformer, self._counted(token_BT)) as text_shares:
            features["text"] = at_end(self.clip.text_tokens(token_BT), token_BT).float()
        if self.config.balance:
            features["balance"] = torch.stack(image_shares + text_shares, 1)
        return features

    def _counted(self, token_BT: Tensor) -> Tensor | None:
        """Which positions count in the experts' load: all, or those up to each caption's end."""
        if self.config.balance_padding:
            return None
        return torch.arange(token_BT.shape[1], device=token_BT.device) <= end_of(token_BT)[:, None]

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe; published: sdm and balance. Source: the released code."""
        c = self.config
        weights = {
            "sdm": c.sdm,
            "balance": c.balance,
            "itc": c.itc,
            "cmpm": c.cmpm,
            "triplet": c.triplet,
            "identity": c.identity,
        }
        return family_losses(features, batch, weights, temperature=c.temperature, classifier=self.classifier)

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """How evenly experts are used; img_acc, txt_acc: share of the batch whose person is classified correctly."""
        return family_figures(features, batch, self.classifier)

    def group_of(self, name: str) -> Group:
        """CLIP is frozen but for adapters, gates and ln_3; biases at their own rate without decay.

        Gates, alpha and the blocks' vectors decay like any weight.
        """
        if name.startswith("clip.") and not any(part in name for part in TRAINED):
            return self.lora_group(name) or Group("frozen")
        bias = "bias" in name
        if name.startswith("classifier."):
            return Group("new", decay=not bias)
        return Group("bias", decay=False) if bias else Group()

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """DM-Adapter's when the towers' blocks have gates; sizes from shapes, constants as published."""
        mapped = files.under(cls.official)
        gates = "clip.visual.transformer.resblocks.0.feed_forward.input_gate.weight"
        if mapped.unknown or gates not in mapped.ours or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        config = _config(mapped.ours, files)
        return config if cls.fits(files, config) else None


def _block(config: DMAdapter.Config, width: int, heads: int, scale: float) -> MixtureBlock:
    return MixtureBlock(
        width,
        heads,
        config.sizes.activation,
        num_experts=config.num_experts,
        top_k=config.top_k,
        reduction=config.reduction,
        scale=scale,
    )


def _config(ours: Mapping[str, Tensor], files: OfficialFiles) -> DMAdapter.Config:
    sizes, names = read_sizes(ours, prefix="clip."), files.losses("sdm+aux")
    mixture = "clip.visual.transformer.resblocks.0.feed_forward."
    down = ours.get(f"{mixture}experts.0.down.weight")
    return DMAdapter.Config(
        name="dm_adapter",
        tower=named(sizes),
        num_experts=len(ours[f"{mixture}input_gate.weight"]),
        reduction=8 if down is None else sizes.width // len(down),
        sdm=float("sdm" in names),
        balance=0.5 * ("aux" in names),
        itc=float("itc" in names),
        cmpm=float("cmpm" in names),
        triplet=0.5 * ("triplet" in names),
        identity=float("id" in names and "classifier.weight" in ours),
        **files.numbers(OPTIONS),
    )
