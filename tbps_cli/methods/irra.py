"""IRRA: both towers of CLIP fine-tuned, similarity distributions matched, masked words told from the image.

Ding Jiang and Mang Ye, "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person
Retrieval", CVPR 2023, arXiv 2303.12501. Differences from the released code: a checkpoint alone is enough
to build the model (sizes from its shapes); scores over the vocabulary are computed at the masked words
only, the loss needs no others; the released code masks the captions of all losses, in place, which
here is a switch (`mask_global_text`, on as released).
"""

from __future__ import annotations

from tbps_cli.methods._irra import IrraConfig, IrraModel, is_ga_dms, read_irra
from tbps_cli.methods.base import irra_group
from tbps_cli.section import Weight
from tbps_cli.types import Group
from tbps_cli.weights.foreign import OfficialFiles


class IRRA(IrraModel):
    """Two towers; a classifier and a masked-word predictor while training."""

    class Config(IrraConfig):
        """`[method]`; a loss of weight 0 is not computed and its head not built."""

        itc: Weight = 0.0
        cmpm: Weight = 0.0

        @property
        def loss_weights(self) -> dict[str, float]:
            return super().loss_weights | {"itc": self.itc, "cmpm": self.cmpm}

    paper = (
        "Jiang and Ye: Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval"
        " (CVPR 2023)"
    )
    config: Config

    def group_of(self, name: str) -> Group:
        return self.lora_group(name) or irra_group(self.official.foreign(name) or name)

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """IRRA's when every name is one of its model's; its relatives share `base_model.` and add their own.

        GA-DMS adds none: a file is its where the user or the options say so.
        """
        mapped = files.under(cls.official)
        if mapped.unknown or "clip.visual.conv1.weight" not in mapped.ours or is_ga_dms(files):
            return None
        names = files.losses("sdm+id+mlm")
        itc, cmpm = float("itc" in names), float("cmpm" in names)
        config = cls.Config(name="irra", itc=itc, cmpm=cmpm, **read_irra(mapped.ours, files))
        return config if cls.fits(files, config) else None
