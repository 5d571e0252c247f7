"""CoMoE: every token of both modalities parsed by one set of blocks with experts, each modality by a gate of its own.

"CoMoE: Collaboration Mixture-of-Experts for Text-based Person Retrieval", code released in 2026 (venue
unknown), by the authors of PHP. As there, the released blocks attend over the items of the *batch*, at
evaluation too, so an embedding depends on the rest of its batch; `attention_axis = "token"` attends over the
tokens of one item. All 77 positions of a caption are parsed, padding included, as released.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from tbps_cli.methods._token_head import COUNTERS, IRRA_ROWS, TokenHeadConfig, TokenHeadMethod, read_keys
from tbps_cli.nn.parsing import TokenParser
from tbps_cli.nn.token_head import Side, TokenHead
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

GATES: dict[Side, str] = {"image": "gate_img", "text": "gate_txt"}
"""Side -> the token gate that routes it; a third gate, on the context vector, is common."""


class CoMoE(TokenHeadMethod):
    """Two towers; above their tokens a parser whose experts both modalities share."""

    class Config(TokenHeadConfig):
        """`[method]`; a loss of weight 0 is not computed and its head not built."""

        parser_part: ClassVar[str] = "coa"
        parts: tuple[Literal["coa"], ...] = ("coa",)
        """What stands above the towers: the parser, or with [] nothing (the baseline)."""

        @model_validator(mode="after")
        def _part_once(self) -> CoMoE.Config:
            if len(self.parts) > 1:
                raise ValueError('parts: names a part twice; allowed are [] and ["coa"]')
            return self

    paper = "CoMoE: Collaboration Mixture-of-Experts for Text-based Person Retrieval, code of 2026"
    official = KeyTable(
        {
            r"STransformer\.(.*)": r"parts.parser.both.\1",
            r"STransformerv\.(.*)": r"parts.parser.image.\1",
            r"STransformert\.(.*)": r"parts.parser.text.\1",
            **IRRA_ROWS,
        },
        drop=(COUNTERS,),
    )
    config: Config

    def token_head(self) -> TokenHead:
        c = self.config

        def parser() -> TokenParser:
            return TokenParser(c.sizes.embed, **c.parser, gates=tuple(GATES.values()))

        return TokenHead(shared=c.share_modalities, parser=parser if c.has_parser else None, gates=GATES)

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """CoMoE's when the file has its parser."""
        mapped = files.under(cls.official)
        found = any(name.startswith("parts.") for name in mapped.ours)
        if mapped.unknown or not found or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        config = cls.Config(name="comoe", **read_keys(mapped.ours, files))
        return config if cls.fits(files, config) else None
