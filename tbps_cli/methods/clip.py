"""CLIP itself: both towers, as they were published or fine-tuned with CLIP's own loss.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
arXiv 2103.00020. The baseline of every paper here, and the way to try weights without training: OpenAI's
files and open_clip's are read as they are. Differences: images need not be square (the position
table is resized), and the temperature is a constant unless `learn_temperature` says otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tbps_cli.losses.contrastive import itc
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.section import Count, Positive
from tbps_cli.text.bpe import Bpe
from tbps_cli.types import Batch, Features, Group, Step, Task
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
        return config if cls.fits(files, config) else None
