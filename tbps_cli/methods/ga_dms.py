"""GA-DMS: IRRA's model pre-trained on web images, each word masked by how much it says about its image.

Tianlu Zheng, Yifan Zhang, Xiang An, Ziyong Feng, Kaicheng Yang, Qichuan Ding, "Gradient-Attention Guided
Dual-Masking Synergetic Framework for Robust Text-based Person Retrieval", EMNLP 2025, arXiv 2509.09118. Pre-training
matches the image with a caption that lost words of low scores, and tells words of high scores from the image
(`masking = "importance"`); fine-tuning is IRRA's (`"random"`). Differences from the released code: it runs on one
process, its fine-tuning runs at all, scores are found in float32 and shared among processes, and each parameter gets
the whole gradient of the joined batch (released: that of sdm divided by the number of processes).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import model_validator
from torch import Tensor

from tbps_cli.losses.masked import caption_figures
from tbps_cli.methods._irra import IrraConfig, IrraModel, is_ga_dms, read_irra
from tbps_cli.methods.base import Views
from tbps_cli.nn.dual_masking import DualMasking
from tbps_cli.nn.grad_eclip import BLOCKS, relevance, scaled
from tbps_cli.nn.text_tower import at_end
from tbps_cli.section import Count, Share, Weight
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles


class GADMS(IrraModel):
    """Two towers; while pre-training a masked-word predictor and the scores of all words."""

    class Config(IrraConfig):
        """`[method]`; a loss of weight 0 is not computed and its head not built."""

        masking: Literal["importance", "random"] = "importance"
        """How words are chosen: by their scores, in two views (pre-training), or 15 % of all, as IRRA does."""
        matched: Literal["person", "image", "caption"] = "person"
        """What an image and a caption have in common that sdm calls a match. The released readers of pre-training
        sets give every caption an identity of its own."""
        identity: Weight = 0.0
        masked: Weight = 0.4
        informative_limit: Share = 0.3
        """The highest chance of a word to be told from the image."""
        noise_limit: Share = 0.2
        """The highest chance of a word to be left out of the matched caption."""
        importance_blocks: Count = BLOCKS
        """Last blocks of the text tower that scores come from."""

        @model_validator(mode="after")
        def _identities_are_persons(self) -> GADMS.Config:
            if self.identity and self.matched != "person":
                raise ValueError(f'identity: the classifier tells persons apart, so matched cannot be "{self.matched}"')
            return self

    paper = (
        "Zheng et al.: Gradient-Attention Guided Dual-Masking Synergetic Framework for Robust Text-based Person"
        " Retrieval (EMNLP 2025)"
    )
    checkpoint_only = ("dual.",)
    training_only = (*IrraModel.training_only, *checkpoint_only)
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.dual: DualMasking | None = None
        if config.masking == "importance":
            sizes = config.sizes
            self.dual = DualMasking(
                task.captions,
                sizes.context,
                mask=sizes.vocabulary - 3,  # before start and end, as the tokenizer has it
                informative_limit=config.informative_limit,
                noise_limit=config.noise_limit,
            )

    @classmethod
    def views(cls, config: Any) -> Views:
        return super().views(config) if config.masking == "random" else Views()

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """Embeddings before normalisation, and in pre-training what each word says, which draws later masks."""
        if self.dual is None:
            return super().features(batch)
        token_BT = batch.tokens["text"]
        image_BPE = self.clip.image_tokens(batch.images["image"])
        said = relevance(self.clip, image_BPE[:, 0], token_BT, blocks=self.config.importance_blocks)
        noise_BT, masked_BT, label_BT = self.dual.draw(token_BT, batch.sample_B)
        # of an empty caption the end itself is masked, so it is looked for in the caption
        text_BE = at_end(self.clip.text_tokens(noise_BT), token_BT)
        features = {
            "image": image_BPE[:, 0].float(),
            "text": text_BE.float(),
            "relevance": said.total_BT,
            "label": label_BT,
        }
        if self.cross is None:
            return features
        score_NV = self.word_scores(self.clip.text_tokens(masked_BT), image_BPE, label_BT)
        return features | caption_figures(score_NV, label_BT)

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """sdm of the noise view, masked words of the informative view; in fine-tuning IRRA's losses."""
        if self.dual is not None:
            self.dual.find(batch.sample_B, scaled(features["relevance"].detach()))
        same = {"person": batch.person_B, "image": batch.image_B, "caption": batch.sample_B}
        batch = replace(_labelled(batch, features), person_B=same[self.config.matched])
        return super().losses(features, batch, step)

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """Those of IRRA, as far as there are heads."""
        return super().metrics(features, _labelled(batch, features))

    def group_of(self, name: str) -> Group:
        """One rate and one decay for every parameter: the rules of IRRA are commented out in the released code."""
        return self.lora_group(name) or Group()

    def before_step(self) -> None:
        """Scores that were found without a step after them (an estimate of the memory) count for nothing."""
        if self.dual is not None:
            self.dual.forget()

    def after_step(self) -> None:
        """The scores of this step's captions draw their next masks."""
        if self.dual is not None:
            self.dual.keep()

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """GA-DMS's where the user or the options say so: its tensors are IRRA's."""
        mapped = files.under(cls.official)
        if not is_ga_dms(files) or mapped.unknown or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        masking: Literal["importance", "random"] = "random" if "classifier.weight" in mapped.ours else "importance"
        config = cls.Config(name="ga_dms", masking=masking, **read_irra(mapped.ours, files))
        return config if cls.fits(files, config) else None


def _labelled(batch: Batch, features: Features) -> Batch:
    """The batch with the labels of the masks that the features were made with."""
    if "label" not in features:
        return batch
    return replace(batch, tokens={**batch.tokens, "label": features["label"]})
