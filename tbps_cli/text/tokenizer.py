"""What turns sentences into numbers, whatever the method: one shape for CLIP's byte pairs and for whole words.

A tokenizer is cleaning and splitting only, the same for training, evaluation and queries; random
changes of captions live in `augment` and `masking`. `describe()` says everything needed to build it
again, so a run folder, a feature file or an exported graph carries its tokenizer with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tbps_cli.errors import TbpsError
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.words import Words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tokenizer(Protocol):
    """Sentences -> ids. Row order is the order of the sentences; unused places hold 0."""

    @property
    def context(self) -> int:
        """Number of places in a row (T)."""
        ...

    @property
    def ids(self) -> int:
        """All ids are below this number."""
        ...

    def __call__(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.int64]:
        """B sentences -> int64 [B, T].

        query: the sentences come from a person who searches: special tokens written out in them
        are taken as ordinary characters. Captions of a data set keep them, as the papers do.
        """
        ...

    def cut_count(self, texts: Sequence[str], *, taken: int = 0) -> int:
        """How many sentences do not fit and lose their last words; taken: places that the method fills itself."""
        ...

    def describe(self) -> dict[str, object]:
        """Kind and every number, ready for JSON; `from_description` is the way back."""
        ...


def from_description(description: Mapping[str, object], file: Path | None = None) -> Tokenizer:
    """The tokenizer that `describe()` described. Raises TbpsError when it cannot be built alike.

    file: one of `tokenizer_file`, for byte pairs where open_clip is not installed.
    """
    kind = description.get("kind")
    if kind == "bpe":
        return Bpe.from_description(description, file)
    if kind == "words":
        return Words.from_description(description)
    raise TbpsError(
        f"tokenizer: kind {kind!r} is not known (known: bpe, words).",
        "The run or export was written by a newer version, or its description is damaged.",
    )
