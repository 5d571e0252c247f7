"""CLIP's byte pair encoding: the tokenizer of every method here but TextReID.

Written by hand on purpose. The library `tokenizers` with CLIP's published settings gives other ids for captions with
broken encodings or entities (56 % of such captions: it has no `ftfy`), cannot mask, and on one thread encodes 14,000
plain captions a second where this encodes 142,000 (`scripts/bench tokenize` makes the captions; with a third of new
words 10,000 and 80,000; only where every caption needs repair is it quicker, 11,000 for 10,000).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. The
merges come from the data of the package `open_clip_torch`, which is read without being imported.
The plain variant gives open_clip's ids on any text. The masked variant is that of IRRA and its
descendants: the last merge ("jekyll") makes room for a mask. Their code keeps that merge in its rank
table and fails on the word "jekyll"; here the merge is gone altogether and the word takes two ids.

Speed: text is split at blanks first (no token crosses one) and each chunk is looked up in a bounded
cache; text of plain ASCII skips the repair of broken encodings, which has nothing to do there.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import regex
from numpy.typing import NDArray

from tbps_cli.errors import TbpsError
from tbps_cli.text.description import whole_number
from tbps_cli.text.word_changes import clean_caption

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "67603cfda2e032ad77b5f8808af37789d590db664b26df8705d2bf8b3c553fc8"
MERGES = 48_894
"""Lines of the file that CLIP uses, after the first one."""
VISIBLE = 188
"""Bytes that Latin-1 shows as a character; the merges file writes these as themselves."""
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
PLAIN = regex.compile(r"[\t\n\r -%'-~]*+")
"""ASCII without control characters and without the ampersand of an entity."""
REPAIR = ftfy.TextFixerConfig(explain=False)
"""What ftfy does by default; making it anew costs an eighth of the repair."""
CACHED_CHUNKS = 100_000
LONGEST_CACHED = 48
"""Characters; longer chunks are rare and would make the cache's size a matter of the input."""


class Bpe:
    """Sentences -> CLIP's ids: start, byte pairs, end, zeros; a longer one is cut and keeps its end.

    context: places in a row, at least 2.
    mask: the variant with a mask token, whose id is the plain variant's "jekyll".
    clean_words: above 0, TBPS-CLIP's cleaning comes first and keeps that many words.
    kept_free: places at the end of a row that no caption fills, because a method's prompts push it back by as many.
    """

    vocabulary = 49_408
    start = 49_406
    end = 49_407

    def __init__(self, context: int = 77, mask: bool = False, *, clean_words: int = 0, kept_free: int = 0) -> None:
        if context - kept_free < 2:
            raise ValueError(f"context must be at least {2 + kept_free} (start, end, kept free), not {context}")
        self.context = context
        self.mask = mask
        self.clean_words = clean_words
        self.kept_free = kept_free
        self._bytes, self._ends, self._merges = _tables(MERGES - mask)
        self._special = self._special_tokens()
        words = regex.compile(WORDS, regex.IGNORECASE)
        special = "|".join(regex.escape(token) for token in self._special)
        self._pattern = {False: regex.compile(f"{special}|{WORDS}", regex.IGNORECASE), True: words}
        self._cache: dict[bool, dict[str, list[int]]] = {False: {}, True: {}}

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
        rows = np.zeros((len(texts), self.context), np.int64)
        room = self.context - self.kept_free - 2
        for row, text in zip(rows, texts, strict=True):
            ids = [self.start, *self.encode(text, query=query)[:room], self.end]
            row[: len(ids)] = ids
        return rows

    def encode(self, text: str, *, query: bool = False) -> list[int]:
        """The ids of a whole sentence, without start, end and padding."""
        ids: list[int] = []
        for word in self._words(text, query):
            ids += word
        return ids

    def _words(self, text: str, query: bool) -> Iterator[list[int]]:
        """The ids of each run of text without blanks."""
        if self.clean_words:
            text = clean_caption(text, self.clean_words)
        cache = self._cache[query]
        for chunk in _repaired(text).lower().split():
            known = cache.get(chunk)
            yield self._learn(chunk, query) if known is None else known

    def pieces(self, text: str, *, query: bool = False, taken: int = 0) -> list[list[int]]:
        """The ids of a sentence in pieces that fit the context, cut at blanks; one empty piece for "".

        taken: places of the context that something else needs. A run longer than a piece is cut inside.
        """
        room = self.context - 2 - taken
        found: list[list[int]] = [[]]
        for word in self._words(text, query):
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
        return sum(len(self.encode(text)) > self.context - 2 - taken for text in texts)

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
    def from_description(cls, description: Mapping[str, object]) -> Bpe:
        """The inverse of `describe`. Raises TbpsError when another vocabulary is meant."""
        context, mask = whole_number(description, "context"), description.get("mask")
        free = whole_number(description, "kept_free", 0)
        if not isinstance(mask, bool) or free < 0 or context - free < 2:
            raise TbpsError(f"tokenizer: context {context}, mask {mask!r} make no tokenizer.")
        tokenizer = cls(context, mask, clean_words=whole_number(description, "clean_words", 0), kept_free=free)
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
        return _rebuild, (self.context, self.mask, self.clean_words, self.kept_free)

    def _special_tokens(self) -> dict[str, int]:
        """How special tokens are written: open_clip and the papers do not agree."""
        if self.mask:
            return {"<|startoftext|>": self.start, "<|mask|>": self.mask_id, "<|endoftext|>": self.end}
        return {"<start_of_text>": self.start, "<end_of_text>": self.end}

    def _learn(self, chunk: str, query: bool) -> list[int]:
        """Ids of text without blanks, remembered for the next time."""
        ids: list[int] = []
        for piece in self._pattern[query].findall(chunk):
            special = None if query else self._special.get(piece)
            ids += self._merged(piece) if special is None else [special]
        cache = self._cache[query]
        if len(cache) >= CACHED_CHUNKS:
            cache.clear()
        if len(chunk) <= LONGEST_CACHED:
            cache[chunk] = ids
        return ids

    def _merged(self, piece: str) -> list[int]:
        """Byte pairs of one word: the earliest merge first, all its places from left to right."""
        raw = piece.encode()
        ids = [self._bytes[byte] for byte in raw[:-1]]
        ids.append(self._ends[raw[-1]])
        merges = self._merges
        never = self.vocabulary
        while len(ids) > 1:
            found = [merges.get(pair, never) for pair in pairwise(ids)]
            best = min(found)
            if best == never:
                break
            ids = _replaced(ids, found, best)
        return ids


def _replaced(ids: list[int], found: list[int], best: int) -> list[int]:
    """Join the pairs whose merge is `best`, from left to right; a joined id joins no second time."""
    joined: list[int] = []
    place = 0
    while place < len(ids):
        if place < len(found) and found[place] == best:
            joined.append(best)
            place += 2
        else:
            joined.append(ids[place])
            place += 1
    return joined


def _repaired(text: str) -> str:
    """CLIP's cleaning but for blanks and case: broken encodings, then entities, twice."""
    if PLAIN.fullmatch(text):
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text, REPAIR)))


def _rebuild(context: int, mask: bool, clean_words: int, kept_free: int) -> Bpe:
    return Bpe(context, mask, clean_words=clean_words, kept_free=kept_free)


@lru_cache(maxsize=2)
def _tables(count: int) -> tuple[list[int], list[int], dict[tuple[int, int], int]]:
    """Ids of the 256 bytes, of the same at a word's end, and pair -> id of its merge.

    The id of a merge is 512 + its rank, so the smallest id is the earliest merge.
    """
    order = _bytes_in_order()
    ids = {symbol: number for number, symbol in enumerate(_symbols(order))}
    place = {byte: number for number, byte in enumerate(order)}
    merges: dict[tuple[int, int], int] = {}
    for rank, line in enumerate(_merge_lines()[:count]):
        left, right = line.split()
        merges[ids[left], ids[right]] = ids[left + right] = 512 + rank
    return [place[byte] for byte in range(256)], [256 + place[byte] for byte in range(256)], merges


def _bytes_in_order() -> list[int]:
    """The bytes as CLIP counts them: the visible ones of Latin-1 first, then the others."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return visible + [byte for byte in range(256) if byte not in set(visible)]


def _symbols(order: list[int]) -> list[str]:
    """How the merges file writes the bytes: themselves when visible, else characters from U+0100 on."""
    visible = [chr(byte) for byte in order[:VISIBLE]]
    letters = visible + [chr(256 + number) for number in range(256 - VISIBLE)]
    return letters + [letter + "</w>" for letter in letters]


def _merge_lines() -> list[str]:
    """The merges, in order. Raises TbpsError when the file is missing or is not the known one."""
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
