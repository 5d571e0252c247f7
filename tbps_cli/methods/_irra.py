"""What IRRA and GA-DMS share: CLIP's towers, a classifier of persons and the prediction of masked words.

Not a method: `methods.names` leaves out modules that begin with an underscore. GA-DMS's code grew from IRRA's; its
model is the same, tensor by tensor, and its fine-tuning is IRRA's. What differs is how words are chosen for masking
and by which rates it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.losses.masked import caption_figures
from tbps_cli.methods._lora import LoraMethod
from tbps_cli.methods.base import Views
from tbps_cli.methods.config import LoraConfig
from tbps_cli.nn.clip_features import text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.cross_modal import CrossModal
from tbps_cli.nn.heads import Classifier, WordHead
from tbps_cli.nn.masked_words import read_layers
from tbps_cli.nn.sizes import named, read_sizes
from tbps_cli.nn.text_tower import at_end
from tbps_cli.section import Count, Positive, Weight
from tbps_cli.types import Batch, Features, Step, Task
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

OPTIONS = {"stride": ("stride_size", int), "temperature": ("temperature", float)}
"""Our keys that no tensor tells -> options of the released codes."""


class IrraConfig(LoraConfig):
    """The keys that both methods have; a loss of weight 0 is not computed and its head not built."""

    stride: Count | None = None
    """Pixels between patches; the patch size when left out."""
    temperature: Positive = 0.02
    """Divides every cosine of the losses; a constant."""
    cross_layers: Count = 4
    """Blocks above the cross-attention of the masked words."""
    sdm: Weight = 1.0
    identity: Weight = 1.0
    masked: Weight = 1.0
    mask_global_text: bool = True
    """The released code's masking reaches every loss; false masks for the masked words alone, as the paper says."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Loss -> factor."""
        return {"sdm": self.sdm, "identity": self.identity, "masked": self.masked}


class IrraModel(LoraMethod):
    """Two towers; a classifier and a masked-word predictor while training."""

    official = KeyTable(
        {
            r"base_model\.(.*)": r"clip.\1",
            r"(cross_attn|cross_modal_transformer|ln_pre_t|ln_pre_i|ln_post)\.(.*)": r"cross.\1.\2",
            r"(classifier|mlm_head)\.(.*)": r"\1.\2",
        }
    )
    training_only: ClassVar[tuple[str, ...]] = ("cross.", "classifier.", "mlm_head.")
    config: IrraConfig

    def __init__(self, config: IrraConfig, task: Task) -> None:
        super().__init__(config, task)
        sizes = config.sizes
        self.clip = self.adapted(Clip(sizes, task.image_size, stride=config.stride))
        self.classifier = self.cross = self.mlm_head = None
        if config.identity and task.identities:
            self.classifier = Classifier(sizes.embed, task.identities)
        if config.masked:
            self.cross = CrossModal(sizes.embed, config.cross_layers, sizes.cross_heads)
            self.mlm_head = WordHead(sizes.embed, sizes.vocabulary, config.cross_layers)

    @classmethod
    def views(cls, config: Any) -> Views:
        return Views(masked=config.masked > 0)

    def features(self, batch: Batch) -> Features:
        """Embeddings before normalisation; with masked words also each caption's cost and hits."""
        image_BPE = self.clip.image_tokens(batch.images["image"])
        features = {"image": image_BPE[:, 0].float()}
        if self.cross is None:
            features["text"] = text_feature(self.clip, batch.tokens["text"])
            return features
        masked_BT, label_BT = batch.tokens["masked"], batch.tokens["label"]
        masked_BTE = self.clip.text_tokens(masked_BT)
        if self.config.mask_global_text:
            features["text"] = at_end(masked_BTE, masked_BT).float()
        else:
            features["text"] = text_feature(self.clip, batch.tokens["text"])
        score_NV = self.word_scores(masked_BTE, image_BPE, label_BT)
        return features | caption_figures(score_NV, label_BT)

    def word_scores(self, text_BTE: Tensor, image_BPE: Tensor, label_BT: Tensor) -> Tensor:
        """Scores over the vocabulary at the N labelled places, row by row, [N, V] float32."""
        assert self.cross is not None and self.mlm_head is not None
        known_BTE = self.cross(text_BTE, image_BPE)
        return self.mlm_head(known_BTE[label_BT != 0]).float()

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe. Source: IRRA, equations 6, 8 and 10, and its released code."""
        c = self.config
        return family_losses(features, batch, c.loss_weights, temperature=c.temperature, classifier=self.classifier)

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """img_acc, txt_acc: share of the batch whose person is classified correctly; mlm_acc: of masked words."""
        return family_figures(features, batch, self.classifier)


def is_ga_dms(files: OfficialFiles) -> bool:
    """Whether a file with IRRA's tensors is GA-DMS's: the user says so, or else its options do.

    GA-DMS's code has the option `nam` from NAM's, whose own files have no head for masked words.
    """
    if files.wish in ("irra", "ga_dms"):
        return files.wish == "ga_dms"
    return files.at("nam") is True and any(name.startswith("mlm_head.") for name in files.tensors)


def read_irra(ours: Mapping[str, Tensor], files: OfficialFiles) -> dict[str, Any]:
    """Keys of `IrraConfig` that shapes and options say; losses whose heads the file lacks are off."""
    identity, masked = files.number("id_loss_weight") or 1.0, files.number("mlm_loss_weight") or 1.0
    return {
        "tower": named(read_sizes(ours, prefix="clip.")),
        "sdm": float("sdm" in files.losses("sdm+id+mlm")),
        "identity": float(identity) if "classifier.weight" in ours else 0.0,
        "masked": float(masked) if "mlm_head.fc.weight" in ours else 0.0,
        **read_layers(ours, "cross."),
        **files.numbers(OPTIONS),
    }
