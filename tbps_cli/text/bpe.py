"""CLIP's byte pair encoding: the tokenizer of every method here but TextReID.

Written by hand on purpose. The library `tokenizers` with CLIP's published settings gives other ids for captions with
broken encodings or entities (56 % of such captions: it has no `ftfy`), cannot mask, and on one thread takes 9 to 11
times as long for captions as people write them, 1.5 times where no word comes twice (`scripts/bench tokenize`).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. The
merges come from the data of the package `open_clip_torch`, which is read without being imported.
The plain variant gives open_clip's ids on any text. The masked variant is that of IRRA and its
descendants: the last merge ("jekyll") makes room for a mask. Their code keeps that merge in its rank
table and fails on the word "jekyll"; here the merge is gone altogether and the word takes two ids.

Speed: text is split at blanks first (no token crosses one) and each chunk is looked up in a bounded
cache; what is not there is merged for all texts of a call at once (`merging.py`); text of plain ASCII skips the
repair of broken encodings, which has nothing to do there.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from tbps_cli.errors import TbpsError
from tbps_cli.text.description import whole_number
from tbps_cli.text.merging import Merges
from tbps_cli.text.tokenizer_file import merges_in, write_tokenizer_file
from tbps_cli.text.word_changes import clean_caption

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "67603cfda2e032ad77b5f8808af37789d590db664b26df8705d2bf8b3c553fc8"
MERGES = 48_894
"""Lines of the file that CLIP uses, after the first one."""
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
PLAIN = regex.compile(r"[\t\n\r -%'-~]*+")
"""ASCII without control characters and without the ampersand of an entity."""
CACHED_CHUNKS = 100_000
"""About 20 MB; beyond, everything is forgotten and learnt again. The ids of a chunk are kept as a string of characters
with these numbers: the garbage collector goes through as many lists again and again, which doubles the time."""
TOGETHER = 4096
"""Texts whose chunks are looked up and learnt at once."""
NOTHING = "\0"
ONE_ID = "!"
"""Text of a single id, in whose place that of a special token is put."""
LONGEST_CACHED = 48
"""Characters; longer chunks are rare and would make the cache's size a matter of the input."""


class Bpe:
    """Sentences -> CLIP's ids: start, byte pairs, end, zeros; a longer one is cut and keeps its end.

    context: places in a row, at least 2.
    mask: the variant with a mask token, whose id is the plain variant's "jekyll".
    clean_words: above 0, TBPS-CLIP's cleaning comes first and keeps that many words.
    kept_free: places at the end of a row that no caption fills, because a method's prompts push it back by as many.
    file: one of `tokenizer_file`, to take the vocabulary from where open_clip is not installed.
    """

    vocabulary = 49_408
    start = 49_406
    end = 49_407

    def __init__(
        self,
        context: int = 77,
        mask: bool = False,
        *,
        clean_words: int = 0,
        kept_free: int = 0,
        file: Path | None = None,
    ) -> None:
        if context - kept_free < 2:
            raise ValueError(f"context must be at least {2 + kept_free} (start, end, kept free), not {context}")
        self.context = context
        self.mask = mask
        self.clean_words = clean_words
        self.kept_free = kept_free
        self.file = file
        self._merges = _merges(MERGES - mask, file)
        self._special = self._special_tokens()
        words = regex.compile(WORDS, regex.IGNORECASE)
        special = "|".join(regex.escape(token) for token in self._special)
        self._pattern = {False: regex.compile(f"{special}|{WORDS}", regex.IGNORECASE), True: words}
        self._cache: dict[bool, dict[str, str]] = {False: {}, True: {}}

    @property
    def ids(self) -> int:
        """All ids are below this."""
        return self.vocabulary

    @property
    def mask_id(self) -> int:
        """The id of the mask; only the masked variant has one."""
        if not self.mask:
            raise ValueError("the plain variant has no mask token")
        return self.start - 1

    @property
    def first_special(self) -> int:
        """Ids from this one on are no words: mask (where there is one), start, end."""
        return self.start - self.mask

    def __call__(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.int64]:
        """B sentences -> int64 [B, context]; with `query` written-out special tokens are plain text."""
        room = self.context - self.kept_free - 2
        start, end = chr(self.start), chr(self.end)
        rows = [
            f"{start}{''.join(words)[:room]}{end}".ljust(self.context, NOTHING) for words in self._words(texts, query)
        ]
        return _numbers("".join(rows)).reshape(len(texts), self.context)

    def encode(self, text: str, *, query: bool = False) -> list[int]:
        """The ids of a whole sentence, without start, end and padding."""
        return [ord(letter) for word in next(self._words([text], query)) for letter in word]

    def _words(self, texts: Sequence[str], query: bool) -> Iterator[list[str]]:
        """Of each text, the ids of each run without blanks, as characters."""
        for start in range(0, len(texts), TOGETHER):
            split = [self._chunks(text) for text in texts[start : start + TOGETHER]]
            known = self._known(set().union(*split), query)
            for chunks in split:
                yield [known[chunk] for chunk in chunks]

    def _chunks(self, text: str) -> list[str]:
        """The runs of a text without blanks, cleaned."""
        if self.clean_words:
            text = clean_caption(text, self.clean_words)
        return _repaired(text).lower().split()

    def pieces(self, text: str, *, query: bool = False, taken: int = 0) -> list[list[int]]:
        """The ids of a sentence in pieces that fit the context, cut at blanks; one empty piece for "".

        taken: places of the context that something else needs. A run longer than a piece is cut inside.
        """
        room = self.context - 2 - taken
        found: list[list[int]] = [[]]
        for letters in next(self._words([text], query)):
            word = list(map(ord, letters))
            if found[-1] and len(found[-1]) + len(word) > room:
                found.append([])
            found[-1] = found[-1] + word
            while len(found[-1]) > room:
                found[-1:] = [found[-1][:room], found[-1][room:]]
        return found

    def row(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Ids of a piece -> int64 [context] with start, end and padding."""
        row = np.zeros(self.context, np.int64)
        row[: len(ids) + 2] = [self.start, *ids, self.end]
        return row

    def cut_count(self, texts: Sequence[str], *, taken: int = 0) -> int:
        """How many of the captions do not fit the context and lose their last words."""
        return sum(sum(map(len, words)) > self.context - 2 - taken for words in self._words(texts, query=False))

    def describe(self) -> dict[str, object]:
        """Kind and every number; start, end, mask and vocabulary are there for other programs."""
        # said where it matters alone: a new key in every description would make everybody's features stale
        free = {"kept_free": self.kept_free} if self.kept_free else {}
        return free | {
            "kind": "bpe",
            "context": self.context,
            "mask": self.mask,
            "clean_words": self.clean_words,
            "start": self.start,
            "end": self.end,
            "mask_id": self.start - 1 if self.mask else None,
            "vocabulary": self.vocabulary,
            "merges": MERGES_SHA256,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, object], file: Path | None = None) -> Bpe:
        """The inverse of `describe`; file: as when it is made. Raises TbpsError when another vocabulary is meant."""
        context, mask = whole_number(description, "context"), description.get("mask")
        free = whole_number(description, "kept_free", 0)
        if not isinstance(mask, bool) or free < 0 or context - free < 2:
            raise TbpsError(f"tokenizer: context {context}, mask {mask!r} make no tokenizer.")
        words = whole_number(description, "clean_words", 0)
        tokenizer = cls(context, mask, clean_words=words, kept_free=free, file=file)
        ours = tokenizer.describe()
        other = [key for key in description if description[key] != ours.get(key)]
        if other:
            raise TbpsError(
                f"tokenizer: {', '.join(other)} of this model differ from CLIP's byte pairs.",
                "It was made with another vocabulary and would be given wrong words.",
            )
        return tokenizer

    def __reduce__(self) -> tuple[object, ...]:
        """Workers rebuild the tables instead of receiving them."""
        return _rebuild, (self.context, self.mask, self.clean_words, self.kept_free, self.file)

    def write_file(self, path: Path) -> None:
        """Write it for the library `tokenizers` (see `tokenizer_file`)."""
        lines = _merge_lines(self.file)[: MERGES - self.mask]
        write_tokenizer_file(path, lines, self._special, context=self.context, kept_free=self.kept_free)

    def _special_tokens(self) -> dict[str, int]:
        """How special tokens are written: open_clip and the papers do not agree."""
        if self.mask:
            return {"<|startoftext|>": self.start, "<|mask|>": self.mask_id, "<|endoftext|>": self.end}
        return {"<start_of_text>": self.start, "<end_of_text>": self.end}

    def _known(self, chunks: set[str], query: bool) -> dict[str, str]:
        """Chunk -> its ids as characters; remembered for the next time."""
        cache = self._cache[query]
        known = {chunk: cache[chunk] for chunk in chunks if chunk in cache}
        fresh = [chunk for chunk in chunks if chunk not in known]
        if fresh:
            learnt = dict(zip(fresh, self._learnt(fresh, query), strict=True))
            known |= learnt
            kept = {chunk: ids for chunk, ids in learnt.items() if len(chunk) <= LONGEST_CACHED}
            if len(cache) + len(kept) > CACHED_CHUNKS:
                self._cache[query] = cache = {}  # another thread may be reading the old one
            if len(kept) <= CACHED_CHUNKS:
                cache |= kept
        return known

    def _learnt(self, chunks: list[str], query: bool) -> Iterator[str]:
        """The ids of each chunk, which holds no blanks, as characters."""
        cut, pieces, ends = self._pattern[query].findall, [], [0]
        for chunk in chunks:
            if chunk.isascii() and chunk.isalpha():  # most are, and the pattern makes one piece of them
                pieces.append(chunk)
            else:
                pieces += cut(chunk)
            ends.append(len(pieces))
        special = {} if query else {place: piece for place, piece in enumerate(pieces) if piece in self._special}
        for place in special:
            pieces[place] = ONE_ID
        ids, begins = self._merges.ids(pieces)
        for place, piece in special.items():
            ids[begins[place]] = self._special[piece]
        letters = ids.astype("<u2").tobytes().decode("utf-16-le")
        return (letters[start:end] for start, end in pairwise(begins[ends].tolist()))


def _numbers(letters: str) -> NDArray[np.int64]:
    """Ids written as characters: all are below the range of UTF-16 in which two numbers make one character."""
    return np.frombuffer(letters.encode("utf-16-le"), "<u2").astype(np.int64)


def _repaired(text: str) -> str:
    """CLIP's cleaning but for blanks and case: broken encodings, then entities, twice."""
    if PLAIN.fullmatch(text):
        return text
    fix, config = _repair()
    return html.unescape(html.unescape(fix(text, config)))


@cache
def _repair() -> tuple[Callable[[str, Any], str], Any]:
    """ftfy, which plain text does not need, and what it does by default: making that anew costs an eighth of it."""
    import ftfy

    return ftfy.fix_text, ftfy.TextFixerConfig(explain=False)


def _rebuild(context: int, mask: bool, clean_words: int, kept_free: int, file: Path | None) -> Bpe:
    return Bpe(context, mask, clean_words=clean_words, kept_free=kept_free, file=file)


@lru_cache(maxsize=2)
def _merges(count: int, file: Path | None = None) -> Merges:
    return Merges(_merge_lines(file)[:count])


def _merge_lines(file: Path | None = None) -> list[str]:
    """The merges, in order. Raises TbpsError when the file is missing or is not the known one."""
    if file is not None and file.is_file() and importlib.util.find_spec("open_clip") is None:
        return merges_in(file)
    path = _merges_path()
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise TbpsError(f"{path}: cannot be read ({error}).", _REINSTALL) from error
    if hashlib.sha256(raw).hexdigest() != MERGES_SHA256:
        raise TbpsError(f"{path}: is not CLIP's vocabulary (its SHA-256 differs).", _REINSTALL)
    return raw.decode().split("\n")[1 : 1 + MERGES]


_REINSTALL = "Type: pip install --force-reinstall open_clip_torch"


def _merges_path() -> Path:
    """Where open_clip keeps the file; the package itself is not imported (it would bring torch)."""
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise TbpsError("open_clip_torch, whose data holds CLIP's vocabulary, is not installed.", _REINSTALL)
    return Path(folders[0]) / MERGES_FILE
