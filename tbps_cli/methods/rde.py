"""RDE: both towers of CLIP, a second embedding from selected tokens, and training on the pairs that seem correct.

Yang Qin, Yingke Chen, Dezhong Peng, Xi Peng, Joey Tianyi Zhou, Peng Hu, "Noisy-Correspondence Learning for
Text-to-Image Person Re-identification", CVPR 2024, arXiv 2308.09911. One vector a side: both embeddings
made unit length, side by side, over sqrt 2, so that its dot product is the mean of the two cosines.
Differences from the released code: padding stays out of batch statistics; a caption without words has an
embedding; mixtures and coins are drawn from the run's seed; if all pairs cost the same, all are trusted.
What changed in it after the paper is a switch (`tse_bn_train`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tbps_cli import distributed
from tbps_cli.losses import division, ranking
from tbps_cli.losses.contrastive import unit
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.base import Views
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.selection import Selection, select_patches, select_words, selected_count
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.nn.text_tower import at_end, used
from tbps_cli.nn.vit import VisionTransformer
from tbps_cli.section import Count, Positive, Weight
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

Loss = Literal["TAL", "TRL", "InfoNCE", "SDM"]
OPTIONS = {
    "stride": ("stride_size", int),
    "select_ratio": ("select_ratio", float),
    "tau": ("tau", float),
    "margin": ("margin", float),
    "temperature": ("temperature", float),
}
"""Our keys that no tensor tells -> options of the released code."""


class RDE(LoraMethod):
    """Two towers, two token selections, and which training pairs are trusted."""

    class Config(LoraConfig):
        """`[method]`."""

        stride: Count | None = None
        """Pixels between patches; the patch size when left out."""
        select_ratio: Annotated[float, Field(gt=0, le=1)] = 0.3
        """Share of the patches, and of the context's words, that are selected."""
        tse_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 1024
        """Length of the selected tokens' embedding."""
        tse_bn_train: bool = False
        """Normalise by the batch in training, as the code does since November 2024; the paper's never did."""
        zero_is_pad: bool = True
        """As released, each id 0 counts as padding, also where it is the word "!"; false goes by the end token."""
        loss: Loss = "TAL"
        """Which cost pairs have; all but TAL are the paper's ablations."""
        tau: Positive = 0.015
        """Softness of the maximum over negatives, in units of the cosine (TAL, TRL)."""
        margin: Weight = 0.1
        """In units of the cosine (TAL, TRL)."""
        temperature: Positive = 0.02
        """Divides the cosines of InfoNCE and SDM."""
        division: Literal["ccd", "none"] = "ccd"
        """Before each epoch, find the pairs to train on; none trains on all."""
        gmm: Literal["auto", "quick", "thorough"] = "auto"
        """How carefully the mixtures are fitted; auto: thorough above 40 % of noise and on RSTPReid."""
        vary_words: bool = True
        """Mask, replace or remove every fifth word of a training caption."""

        @model_validator(mode="after")
        def _possible(self) -> RDE.Config:
            self.need_vit()  # token selections read its attention
            return self

    paper = "Qin et al.: Noisy-Correspondence Learning for Text-to-Image Person Re-identification (CVPR 2024)"
    official = KeyTable(
        {
            r"base_model\.(.*)": r"clip.\1",
            r"visul_emb_layer\.(.*)": r"image_selection.\1",
            r"texual_emb_layer\.(.*)": r"text_selection.\1",
        }
    )
    training_only = ("trusted", "image_selection.linear.", "image_selection.mlp.bns.1.", "text_selection.mlp.bns.1.")
    config: Config
    trusted: Tensor | None
    """Which training captions are trained on, bool; None where their number is unknown."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes
        self.clip = self.adapted(Clip(sizes, task.image_size, stride=config.stride))
        self.image_selection = Selection(sizes.embed, config.tse_dim, spare=True, from_batch=config.tse_bn_train)
        self.text_selection = Selection(sizes.embed, config.tse_dim, spare=False, from_batch=config.tse_bn_train)
        trusted = torch.ones(task.captions, dtype=torch.bool) if task.captions else None
        self.register_buffer("trusted", trusted)

    @classmethod
    def views(cls, config: Config) -> Views:
        return Views(augment_text="vary" if config.vary_words else None)

    @classmethod
    def choose(cls, config: Config, data: str, noise_rate: float) -> dict[str, tuple[object, str]]:
        if config.gmm != "auto":
            return {}
        if noise_rate > 0.4:
            return {"gmm": ("thorough", f"data.noise_rate is {noise_rate:g}, above 0.4")}
        if data == "rstpreid":
            return {"gmm": ("thorough", "what rde is published with on RSTPReid")}
        return {"gmm": ("quick", "what rde is published with up to 40 % of noise")}

    # The two embeddings -------------------------------------------------------------------

    def encode_images(self, image_BCHW: Tensor) -> Tensor:
        return _side_by_side(*self.image_features(image_BCHW))

    def encode_texts(self, token_BT: Tensor) -> Tensor:
        return _side_by_side(*self.text_features(token_BT))

    def image_features(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The class token [B, E] and the embedding of the selected patches [B, F], float32, not normalised."""
        assert isinstance(self.clip.visual, VisionTransformer)
        token_BPE, attention_BP = self.clip.visual.forward_with_attention(image_BCHW)
        place_BK = select_patches(attention_BP, selected_count(attention_BP.shape[1] - 1, self.config.select_ratio))
        return token_BPE[:, 0].float(), self.image_selection(token_BPE, place_BK)

    def text_features(self, token_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The end token [B, E] and the embedding of the selected words [B, F], float32, not normalised."""
        # what is cut lies after every end: no word attends to it and no selection keeps it
        kept_BT = token_BT if torch.compiler.is_compiling() else used(token_BT)
        token_BTE, attention_BT = self.clip.text_tokens_with_attention(kept_BT)
        count = selected_count(token_BT.shape[1] - 2, self.config.select_ratio)
        place_BK, word_BK = select_words(attention_BT, kept_BT, count, zero_is_pad=self.config.zero_is_pad)
        return at_end(token_BTE, kept_BT).float(), self.text_selection(token_BTE, place_BK, word_BK)

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """Both embeddings of both sides, before normalisation."""
        image_BE, image_BF = self.image_features(batch.images["image"])
        text_BE, text_BF = self.text_features(batch.tokens["text"])
        return {"image": image_BE, "text": text_BE, "image_tse": image_BF, "text_tse": text_BF}

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Costs of the trusted pairs. Source: RDE's released code, which sums TAL and TRL and averages the others.

        A pair that is not trusted still is a negative of the others, or a positive by its person.
        """
        trusted_B = self._trusted(batch)
        scale = trusted_B.sum().clamp(min=1) if self.config.loss in ("InfoNCE", "SDM") else 1
        costs = self.costs(features, batch)
        return {name: (trusted_B * cost_B).sum() / scale for name, cost_B in costs.items()}

    def costs(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The cost of each pair under the global embedding (bge) and that of the selected tokens (tse), [B]."""
        return {
            "bge": self._cost(features["image"], features["text"], batch.person_B),
            "tse": self._cost(features["image_tse"], features["text_tse"], batch.person_B),
        }

    def _cost(self, image_BE: Tensor, text_BE: Tensor, person_B: Tensor) -> Tensor:
        c = self.config
        if c.loss == "InfoNCE":
            return ranking.pair_itc(image_BE, text_BE, person_B, temperature=c.temperature)
        if c.loss == "SDM":
            return ranking.pair_sdm(image_BE, text_BE, person_B, temperature=c.temperature)
        triplet = ranking.tal if c.loss == "TAL" else ranking.trl
        return triplet(image_BE, text_BE, person_B, tau=c.tau, margin=c.margin)

    def _trusted(self, batch: Batch) -> Tensor:
        """1 for the pairs of a batch that are trained on, else 0, [B] float32."""
        if self.trusted is None:
            return torch.ones(len(batch), device=batch.person_B.device)
        return self.trusted[batch.sample_B].float()

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """Share of the batch that is trained on."""
        return {"trusted_share": self._trusted(batch).mean().item()} if self.config.division == "ccd" else {}

    @torch.no_grad()
    def start_epoch(self, pass_over: Iterator[tuple[Features, Batch]], draws: torch.Generator) -> None:
        """Confident consensus division: find the pairs to trust by their costs, each within its random batch.

        Source: RDE, section 3.3; every epoch, the first with an untrained selection included.
        """
        if self.config.division == "none" or self.trusted is None:
            return
        cost_2N = torch.zeros(2, len(self.trusted))
        seen_N = torch.zeros(len(self.trusted), dtype=torch.bool)
        for features, batch in pass_over:
            costs, sample_B = self.costs(features, batch), batch.sample_B.cpu()
            cost_2N[:, sample_B] = torch.stack([costs["bge"], costs["tse"]]).float().cpu()
            seen_N[sample_B] = True
        limits = division.THOROUGH if self.config.gmm == "thorough" else division.QUICK
        random = np.random.RandomState(int(torch.randint(2**31, (), generator=draws)))
        bge_M, tse_M = cost_2N[:, seen_N].numpy()
        kept_M = division.divide(bge_M, tse_M, limits, random)
        trusted_N = torch.ones_like(seen_N)
        trusted_N[seen_N] = torch.from_numpy(kept_M)
        self.trusted.copy_(trusted_N)
        distributed.broadcast([self.trusted])  # machines may round a mixture differently

    def group_of(self, name: str) -> Group:
        """Token selections at the rate of new parts, biases too; the towers' biases at their own; none decays."""
        bias = "bias" in name
        if name.startswith("clip."):
            return self.lora_group(name) or (Group("bias", decay=False) if bias else Group())
        return Group("new", decay=not bias)

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """RDE's when the file has its token selections; sizes from shapes, constants from options."""
        if "visul_emb_layer.fc.weight" not in files.tensors:
            return None
        mapped = files.under(cls.official)
        if mapped.unknown or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        config = _config(mapped.ours, files)
        return config if cls.fits(files, config) else None


def _side_by_side(global_BE: Tensor, selected_BF: Tensor) -> Tensor:
    """Two embeddings as one of unit length: its dot product is the mean of their cosines."""
    return torch.cat([unit(global_BE), unit(selected_BF)], dim=-1) * 0.5**0.5


def _config(ours: Mapping[str, Tensor], files: OfficialFiles) -> RDE.Config:
    """What shapes and options say."""
    losses = files.losses("TAL")
    asked: tuple[Loss, ...] = get_args(Loss)
    loss = next((name for name in asked if name in losses), asked[0])
    # a norm that never counted a batch was never trained by one: the code behind the paper's figures
    batches = ours.get("image_selection.mlp.bns.0.num_batches_tracked")
    return RDE.Config(
        name="rde",
        tower=named(read_sizes(ours, prefix="clip.")),
        tse_dim=len(ours["image_selection.fc.weight"]),
        tse_bn_train=batches is not None and int(batches) > 0,
        loss=loss,
        vary_words=bool(files.options.get("txt_aug", True)),
        **files.numbers(OPTIONS),
    )
