"""PHP: tokens of both modalities pooled into learned parts, then parsed by blocks with experts.

"Align What Truly Matters: Pedestrian-relevant Hierarchical Parsing Network for Text-based Person
Retrieval", code released in 2025 (venue unknown). In the released code the experts' blocks attend over
the items of the *batch*, at evaluation too, so an embedding depends on the rest of its batch; the published
scores rest on that and compare with nothing. `attention_axis = "token"` attends over the tokens of one item.
Further differences: the pooling's position table, which nothing reads, is not created; the weights of
all losses are keys; usage counters in a checkpoint are dropped.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import field_validator

from tbps_cli.methods._token_head import COUNTERS, IRRA_ROWS, Dropout, TokenHeadConfig, TokenHeadMethod, read_keys
from tbps_cli.nn.parsing import PartPool, TokenParser
from tbps_cli.nn.token_head import TokenHead
from tbps_cli.section import Count, Weight
from tbps_cli.weights.foreign import OfficialFiles
from tbps_cli.weights.key_table import KeyTable

Part = Literal["crfm", "efp"]
PARTS: dict[Part, str] = {"crfm": "parts.pool.", "efp": "parts.parser."}
"""Names of the paper -> how the names of our parameters of them begin."""
ABLATIONS: dict[str, tuple[Part, ...]] = {"base": (), "crfm": ("crfm",), "efp": ("efp",)}
"""Names that the released folders give to models without both parts."""


class PHP(TokenHeadMethod):
    """Two towers; above their tokens a pooling (crfm) and a parser with experts (efp)."""

    class Config(TokenHeadConfig):
        """`[method]`; a loss of weight 0 is not computed and its head not built."""

        parser_part: ClassVar[str] = "efp"
        parts: tuple[Part, ...] = ("crfm", "efp")
        """What stands above the towers: pooling into parts, experts, both or neither."""
        part_tokens: Count = 9
        """Learned tokens that crfm pools into."""
        part_dropout: Dropout = 0.3
        balance: Weight = 0.5
        """Of the experts' load; its least value is blocks * 2 * top_k / num_experts times this."""

        @field_validator("parts")
        @classmethod
        def _each_part_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
            if len(set(parts)) < len(parts):
                raise ValueError('names a part twice; allowed are [], ["crfm"], ["efp"], ["crfm", "efp"]')
            return tuple(sorted(parts))

    paper = "Align What Truly Matters: Pedestrian-relevant Hierarchical Parsing Network (PHP), code of 2025"
    official = KeyTable(
        {
            r"safl\.(.*)": r"parts.pool.both.\1",
            r"saflv\.(.*)": r"parts.pool.image.\1",
            r"saflt\.(.*)": r"parts.pool.text.\1",
            r"shared_transformer\.(.*)": r"parts.parser.both.\1",
            r"shared_transformerv\.(.*)": r"parts.parser.image.\1",
            r"shared_transformert\.(.*)": r"parts.parser.text.\1",
            **IRRA_ROWS,
        },
        drop=(r"safl[vt]?\.pos_embeding", COUNTERS),
    )
    config: Config

    def token_head(self) -> TokenHead:
        c = self.config

        def pool() -> PartPool:
            return PartPool(c.sizes.embed, c.part_tokens, c.part_dropout)

        def parser() -> TokenParser:
            return TokenParser(c.sizes.embed, **c.parser)

        return TokenHead(
            shared=c.share_modalities,
            pool=pool if "crfm" in c.parts else None,
            parser=parser if c.has_parser else None,
        )

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """PHP's when the file has its pooling or its parser.

        A file may hold parts that were not trained: the folder name says which parts were.
        """
        mapped = files.under(cls.official)
        parts = tuple(part for part, prefix in PARTS.items() if any(name.startswith(prefix) for name in mapped.ours))
        if mapped.unknown or not parts or "clip.visual.conv1.weight" not in mapped.ours:
            return None
        config = cls.Config(name="php", parts=parts, **read_keys(mapped.ours, files))
        if not cls.fits(files, config):
            return None
        ablation = re.search(r"ablation_(base|crfm|efp)", files.name)
        return config.model_copy(update={"parts": ABLATIONS[ablation[1]]}) if ablation else config
