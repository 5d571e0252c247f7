"""CLIP itself: both towers, as they were published or fine-tuned with CLIP's own loss.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
arXiv 2103.00020. The baseline of every paper here, and the way to try weights without training: OpenAI's
files and open_clip's are read as they are. Differences: images need not be square (the position
table is resized), and the temperature is a constant unless `learn_temperature` says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from tbps_cli.augment.transform import CLIP_EVAL, EvalTransform, Triple
from tbps_cli.errors import WeightsError
from tbps_cli.losses.contrastive import itc
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import TOWERS, Tower, named, read_sizes
from tbps_cli.section import Count, Positive
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.architecture import Architecture
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

LOWEST_TEMPERATURE = 0.01
"""A learned temperature stops here. Source: CLIP, section 2.5 (the scale is clipped at 100)."""


class PlainCLIP(LoraMethod):
    """Two towers and nothing else."""

    class Config(LoraConfig):
        """`[method]`."""

        stride: Count | None = None
        """Pixels between patches; the patch size when left out."""
        temperature: Positive = 0.02
        """Divides the cosines; where it starts when it is learned."""
        learn_temperature: bool = False
        mean: Triple | None = None
        """Of the colours, taken away before the image tower; CLIP's when left out. Some of open_clip's weights have
        others."""
        std: Triple | None = None
        """What the colours are divided by then."""

    paper = "Radford et al.: Learning Transferable Visual Models From Natural Language Supervision (ICML 2021)"
    official = KeyTable(
        {
            r"(visual|transformer|token_embedding|ln_final)\.(.*)": r"clip.\1.\2",
            r"(positional_embedding|text_projection)": r"clip.\1",
        },
        drop=("logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask"),
    )
    training_only = ("logit_scale",)
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.clip = self.adapted(Clip(config.sizes, task.image_size, stride=config.stride))
        self.logit_scale: nn.Parameter | None = None
        if config.learn_temperature:
            self.logit_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    @classmethod
    def eval_transform(cls, config: Config, task: Task) -> EvalTransform:
        usual = super().eval_transform(config, task)
        return replace(usual, mean=config.mean or usual.mean, std=config.std or usual.std)

    @classmethod
    def tokenizer(cls, config: Config) -> Bpe:
        return Bpe(config.sizes.context)

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The contrastive loss over the batch."""
        return {"itc": itc(features["image"], features["text"], temperature=self.temperature())}

    def temperature(self) -> float | Tensor:
        """What divides the cosines now."""
        if self.logit_scale is None:
            return self.config.temperature
        return (-self.logit_scale.float()).exp().clamp(min=LOWEST_TEMPERATURE)

    def group_of(self, name: str) -> Group:
        """Biases take their own rate and no decay; so does the temperature, which is no weight."""
        plain = Group("bias", decay=False) if "bias" in name or name == "logit_scale" else Group()
        return self.lora_group(name) or plain

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        if self.logit_scale is not None:
            nn.init.constant_(self.logit_scale, -math.log(self.config.temperature))

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """A state with OpenAI's names at the top: its own files, open_clip's, and fine-tuned ones."""
        mapped = files.under(cls.official)
        if mapped.unknown or not {"visual.conv1.weight", "token_embedding.weight"} <= files.tensors.keys():
            return None
        sizes = read_sizes(mapped.ours, prefix="clip.")
        config = cls.Config(name="clip", tower=named(sizes))
        if files.stated is not None:
            config = cls._as_stated(files.stated, sizes, files.name)
        return config if cls.fits(files, config) else None

    @classmethod
    def _as_stated(cls, stated: Architecture, sizes: Tower, name: str) -> Config:
        """What its shapes do not say: heads, activation, colours. Raises WeightsError when the towers are others."""
        unseen = {"heads", "text_heads", "activation"}
        if stated.tower.model_dump(exclude=unseen) != sizes.model_dump(exclude=unseen):
            raise WeightsError(
                f"{name} does not hold the towers that it should: its width is {sizes.width}, its layers "
                f"{sizes.layers}, its embeddings have {sizes.embed} numbers.",
                "It belongs to another name, or to another configuration.",
            )
        known = named(stated.tower)
        same = isinstance(known, str) and _built_alike(TOWERS[known], stated.tower)
        usual = (stated.mean, stated.std) == (CLIP_EVAL["mean"], CLIP_EVAL["std"])
        return cls.Config(
            name="clip",
            tower=known if same else stated.tower,
            mean=None if usual else stated.mean,
            std=None if usual else stated.std,
        )

    @classmethod
    def stated_size(cls, files: OfficialFiles) -> tuple[int, int] | None:
        return super().stated_size(files) or (files.stated.image_size if files.stated else None)


def _built_alike(one: Tower, other: Tower) -> bool:
    """Whether two towers of the same shapes also compute the same."""
    return (one.image_heads, one.text_tower_heads, one.activation) == (
        other.image_heads,
        other.text_tower_heads,
        other.activation,
    )
