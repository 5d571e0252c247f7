"""TextReID's words: its rule for splitting captions, its vocabulary, and the table of word vectors.

Han et al., "Text-Based Person Search with Limited Data", BMVC 2021. The released code ships neither
dictionary nor tokenizer, only annotation files with ids; the rule below reproduces them, so a query
is split exactly as the training captions were. Words without an id are left out and named, never
given an invented one.
"""

from __future__ import annotations

import json
import logging
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import DataError, TbpsError, WeightsError
from tbps_cli.text.description import whole_number

SLOTS = 105
"""Places in a row; the released code writes this number into its reader."""
LIMIT = 100
"""Words of a caption that are read."""
UNKNOWN = "UNK"
"""Last word of a vocabulary that gives all other words an id. Capitals: no caption can hold it."""
NAMED = 1_000
"""Unknown words are named once each, up to so many."""
DELETED = str.maketrans("", "", string.punctuation)

logger = logging.getLogger("tbps")


def split_words(caption: str, limit: int = LIMIT) -> list[str]:
    """Lower case, ASCII punctuation deleted (so "T-shirt" is `tshirt`), split at blanks, the first `limit`."""
    return caption.lower().translate(DELETED).split()[:limit]


def build_vocabulary(captions: Iterable[str], threshold: int = 0) -> list[str]:
    """Every distinct word in order of first appearance; the id of a word is its place + 1.

    threshold: words that appear no more often than this are left out, and `UNK` takes the last
    place for them. 0, as in the released files: every word, and no `UNK`.
    """
    counts = Counter(word for caption in captions for word in split_words(caption))
    words = [word for word, count in counts.items() if count > threshold]
    return [*words, UNKNOWN] if threshold else words


def pair_vocabulary(captions: Iterable[tuple[str, Sequence[int]]]) -> list[str]:
    """The vocabulary that annotated captions imply: pairs of (sentence, ids) of all splits.

    Raises DataError when a sentence and its ids disagree, or ids are missing in between.
    """
    words: dict[int, str] = {}
    for sentence, ids in captions:
        spelled = split_words(sentence)
        if len(spelled) != min(len(ids), LIMIT):
            raise DataError(f"word ids: {len(ids)} ids for the {len(spelled)} words of {sentence!r}.")
        for number, word in zip(ids, spelled, strict=False):
            if words.setdefault(number, word) != word:
                raise DataError(f"word ids: {number} means both {words[number]!r} and {word!r}.", _ANNOTATIONS)
    missing = set(range(1, len(words) + 1)) - words.keys()
    if missing:
        raise DataError(
            f"word ids: {len(missing)} of the ids up to {max(words)} have no word (first: {min(missing)}).",
            "Give the annotation files of train, val and test: no single one holds every word.",
        )
    return [words[number] for number in sorted(words)]


_ANNOTATIONS = "The annotation files belong to different vocabularies, or were cleaned by another rule."


class Words:
    """Sentences -> ids of whole words, from 1; unknown words are left out and named in a warning.

    vocabulary: word of id 1, of id 2 and so on; a last word `UNK` takes all unknown ones instead.
    slots: places in a row. limit: words of a caption that are read.
    """

    def __init__(self, vocabulary: Sequence[str], *, slots: int = SLOTS, limit: int = LIMIT) -> None:
        self.vocabulary = tuple(vocabulary)
        self.context = slots
        self.limit = min(limit, slots)
        self._ids = {word: number for number, word in enumerate(self.vocabulary, start=1)}
        self._rest = self._ids.get(UNKNOWN)
        self._named: set[str] = set()
        if not self._ids or len(self._ids) != len(self.vocabulary) or self.limit < 1:
            raise DataError(
                f"vocabulary: {len(self.vocabulary)} words, {len(self._ids)} of them distinct, {self.limit} read.",
                "Each word must stand there once.",
            )

    @property
    def ids(self) -> int:
        """All ids are below this; 0 is padding."""
        return len(self.vocabulary) + 1

    def __call__(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.int64]:
        """B sentences -> int64 [B, slots]. Raises DataError for a sentence without any known word.

        query: named unknown words are named again (a searcher asks anew); words hold no special tokens.
        """
        rows = np.zeros((len(texts), self.context), np.int64)
        unknown: list[str] = []
        for row, text in zip(rows, texts, strict=True):
            ids, left_out = self.encode(text)
            if not ids:
                raise DataError(
                    f"caption {text!r}: none of its words is among the {len(self.vocabulary):,} that the model knows.",
                    "Use plain English words for clothes, colours and things carried.",
                )
            row[: len(ids)] = ids
            unknown += left_out
        self._name(unknown, again=query)
        return rows

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """(ids of the known words, unknown words), both in the order of the sentence."""
        words = split_words(text, self.limit)
        if self._rest is not None:
            return [self._ids.get(word, self._rest) for word in words], []
        ids = [self._ids[word] for word in words if word in self._ids]
        return ids, [word for word in words if word not in self._ids]

    def cut_count(self, texts: Sequence[str], *, taken: int = 0) -> int:
        """How many of the captions have more words than are read."""
        return sum(len(split_words(text, self.limit + 1)) > self.limit - taken for text in texts)

    def describe(self) -> dict[str, object]:
        """Kind, numbers and the whole vocabulary: there is no dictionary file to go back to."""
        return {
            "kind": "words",
            "context": self.context,
            "limit": self.limit,
            "vocabulary": list(self.vocabulary),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, object]) -> Words:
        """The inverse of `describe`. Raises TbpsError when the description is damaged."""
        words = description.get("vocabulary")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise TbpsError("tokenizer: vocabulary must be a list of words.", "The description is damaged.")
        return cls(words, slots=whole_number(description, "context"), limit=whole_number(description, "limit"))

    def _name(self, unknown: list[str], *, again: bool) -> None:
        """Warn of unknown words: each once, so that a whole data set does not flood the log."""
        new = [word for word in dict.fromkeys(unknown) if again or word not in self._named]
        if new and (again or len(self._named) < NAMED):
            logger.warning("words unknown to the model are left out: %s", ", ".join(new))
        if not again:
            self._named.update(new)


@dataclass(frozen=True)
class WordTable:
    """One constant vector for each word: what TextReID's text tower reads instead of learning it.

    vectors: float32 [rows, width], row = id, row 0 = padding; more rows than words are allowed.
    vocabulary: the word of id 1, of id 2 and so on.
    """

    vectors: NDArray[np.float32]
    vocabulary: tuple[str, ...]

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    @classmethod
    def read(cls, path: Path, vocabulary: Sequence[str] | None = None, *, width: int | None = None) -> WordTable:
        """Read `NAME.npy`; the words come from `NAME.json` beside it (a list) unless they are given.

        width: refuse vectors of another size. Raises WeightsError naming the file. Nothing is unpickled.
        """
        words = read_words(path) if vocabulary is None else list(vocabulary)
        vectors = _read_vectors(path)
        if len(vectors) < len(words) + 1:
            raise WeightsError(
                f"{path}: {len(vectors):,} rows are too few for {len(words):,} words and the padding.",
                "The table and the vocabulary belong to different data.",
            )
        if width is not None and vectors.shape[1] != width:
            raise WeightsError(f"{path}: vectors of {vectors.shape[1]} numbers, the model needs {width}.")
        return cls(vectors, tuple(words))

    def write(self, path: Path) -> None:
        """Write `NAME.npy` and `NAME.json`; the inverse of `read`."""
        np.save(path, self.vectors, allow_pickle=False)
        files.write_text(path.with_suffix(".json"), json.dumps(self.vocabulary, ensure_ascii=False))


def read_words(path: Path) -> list[str]:
    """The words of a table's rows from `NAME.json`; path: that file, or the table that it lies beside.

    Raises WeightsError when it is missing or no list of words.
    """
    beside = path.with_suffix(".json")
    try:
        words = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{beside}: missing; it names the word of each row of {path.name}.",
            "Rebuild the vocabulary from the annotation files of train, val and test.",
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{beside}: is not a JSON list of words ({error}).") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise WeightsError(f"{beside}: is not a JSON list of words.")
    return words


def _read_vectors(path: Path) -> NDArray[np.float32]:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(f"{path}: is not a readable .npy table of numbers ({error}).") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise WeightsError(f"{path}: is not a table of floating-point vectors [words, width].")
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise WeightsError(f"{path}: holds numbers that are not finite.")
    return vectors
